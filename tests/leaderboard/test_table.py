from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from frbench.attacks.columns import autoattack, pgd, specs
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.leaderboard.grids import model_grid
from frbench.leaderboard.rows import Leaderboard, Table
from frbench.leaderboard.selection import pick
from frbench.leaderboard.table import build, leaderboard

CellMaker = Callable[..., Cell]
RecordMaker = Callable[..., ModelRecord]


def vector(correct: int, n: int = 100) -> str:
    return "1" * correct + "0" * (n - correct)


def single_table(board: Leaderboard) -> Table:
    (table,) = board.tables
    return table


def row_cells(make: CellMaker, record: ModelRecord, counts: dict[str, int]) -> list[Cell]:
    return [make(record, attack, vector(count)) for attack, count in counts.items()]


COUNTS = {"clean": 84, "fgsm": 60, "pgd20": 55, "cw": 53, "aa": 51}


def test_columns_stand_in_order_of_strength(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    shuffled = [make_cell(record, a, vector(COUNTS[a])) for a in ("aa", "cw", "clean", "pgd20")]
    shuffled.append(make_cell(record, pgd(100), vector(54)))
    table = single_table(build(shuffled))
    assert [c.key for c in table.columns] == ["clean", "pgd20", "pgd100", "cw", "aa"]


def test_a_part_of_autoattack_is_not_taken_for_the_whole(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    records = [model_record(name, digest=name[0] * 64) for name in ("pgd_at", "mart")]
    cells = [
        make_cell(record, attack, vector(correct))
        for record in records
        for attack, correct in (
            ("pgd20", 55),
            (autoattack(stages=("square",)), 65),
            (autoattack(stages=("apgd-ce",)), 54),
        )
    ]
    table = single_table(build(cells))
    assert [c.key for c in table.columns] == ["aa-square", "pgd20", "aa-apgd-ce"]
    assert table.ranked_by == "aa-apgd-ce"
    assert not any(row.warnings for row in table.rows)


def test_a_score_has_counts_interval_and_provenance(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    cells = row_cells(make_cell, model_record("pgd_at"), COUNTS)
    (row,) = single_table(build(cells)).rows
    score = row.scores["aa"]
    assert (score.correct, score.n, score.accuracy, score.at_most) == (51, 100, 51.0, False)
    assert (score.low, score.high) == (41.35, 60.58)
    assert score.cells[0].key == cells[-1].key
    assert row.worst_case is not None and row.worst_case.correct == 51


def test_worst_case_is_taken_image_by_image(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    cells = [make_cell(record, "pgd20", "1100"), make_cell(record, "cw", "0110")]
    (row,) = single_table(build(cells)).rows
    assert row.worst_case is not None and row.worst_case.correct == 1


def test_unfinished_autoattack_is_an_upper_bound_with_its_stages(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    partial = {"apgd-ce": "1110", "apgd-t": "1.10", "fab-t": "...0", "square": "...0"}
    record = model_record("pgd_at")
    table = single_table(build([make_cell(record, "aa", partial)]))
    score = table.rows[0].scores["aa"]
    assert (score.accuracy, score.at_most, score.stages_done) == (75.0, True, ("apgd-ce",))
    assert score.low == 0.0
    note = "pgd_at (best): AA is an upper bound, complete so far: apgd-ce"
    assert note in table.notes
    timed = make_cell(record, "aa", partial, seconds_left=720.0)
    assert f"{note}; about 12 min left" in single_table(build([timed])).notes


def test_seconds_left_are_of_all_unfinished_seeds_and_of_nothing_finished(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    partial = {"apgd-ce": "1110", "apgd-t": "1.10", "fab-t": "...0", "square": "...0"}
    seeds = [model_record("pgd_at", digest=f"{n}" * 64, seed=n) for n in range(2)]

    def left(*seconds: float | None) -> float | None:
        pairs = zip(seeds, seconds, strict=True)
        cells = [make_cell(seed, "aa", partial, seconds_left=s) for seed, s in pairs]
        return single_table(build(cells)).rows[0].scores["aa"].seconds_left

    assert left(60.0, 30.0) == 90.0
    assert left(60.0, None) is None, "one seed's rest is not known"
    longer = make_cell(seeds[0], "pgd20", "10..", seconds_left=60.0)
    tables = build([longer, make_cell(seeds[0], "fgsm", "10")]).tables
    rests = {t.n: t.rows[0].scores["pgd20"].seconds_left for t in tables}
    assert rests == {4: 60.0, 2: None}, "the two images of the short table have their verdicts"


def test_autoattack_of_two_stages_has_a_column_of_its_own(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    cells = [
        make_cell(model_record("pgd_at"), "aa", vector(51)),
        make_cell(model_record("trades"), autoattack(stages=["apgd-ce"]), vector(57)),
    ]
    table = single_table(build(cells))
    assert [c.label for c in table.columns] == ["AA (APGD-CE)", "AA"]
    assert all(len(row.scores) == 1 for row in table.rows)


def test_two_settings_of_one_attack_are_two_columns_that_say_so(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    other = specs()["pgd20"].model_copy(update={"step_size": 0.003})
    cells = [
        make_cell(model_record("pgd_at"), "pgd20", vector(55)),
        make_cell(model_record("trades"), other, vector(56)),
    ]
    table = single_table(build(cells))
    assert len({c.key for c in table.columns}) == 2
    assert sorted("step_size 0.003" in c.label for c in table.columns) == [False, True]


def test_protocols_are_split_into_titled_tables(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    l2, small = specs("L2")["pgd20"], specs("Linf", 4 / 255)["pgd20"]
    svhn = make_cell(record, "pgd20", vector(40))
    svhn.data = svhn.data.model_copy(update={"dataset": "svhn"})
    cells = [
        make_cell(record, "clean", vector(84)),
        make_cell(record, "pgd20", vector(55)),
        make_cell(record, l2, vector(60)),
        make_cell(record, small, vector(70)),
        make_cell(record, "pgd20", vector(30, 50)),
        make_cell(record, "pgd20", vector(54), precision="bf16"),
        svhn,
    ]
    board = build(cells)
    titles = [t.title for t in board.tables]
    assert titles == [
        "cifar10 test images 0 to 99 (n = 100), L2 0.5, fp32",
        "cifar10 test images 0 to 99 (n = 100), Linf 8/255, bf16",
        "cifar10 test images 0 to 99 (n = 100), Linf 8/255, fp32",
        "cifar10 test images 0 to 49 (n = 50), Linf 8/255, fp32",
        "cifar10 test images 0 to 99 (n = 100), Linf 4/255, fp32",
        "svhn test images 0 to 99 (n = 100), Linf 8/255, fp32",
    ]
    assert all(t.rows[0].scores["pgd20"].n == t.n for t in board.tables)


def test_a_smaller_table_uses_the_part_of_a_larger_cell(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    pgd_cell = make_cell(record, "pgd20", "1" * 30 + "0" * 70)
    board = build([pgd_cell, make_cell(record, "aa", vector(25, 40))])
    large, small = board.tables
    assert (large.n, set(large.rows[0].scores)) == (100, {"pgd20"})
    assert (small.n, small.rows[0].scores["pgd20"].correct) == (40, 30)
    reference = small.rows[0].scores["pgd20"].cells[0]
    assert (reference.key, reference.stop) == (pgd_cell.key, 100)


def test_seeds_become_mean_and_standard_deviation(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    cells = [
        make_cell(model_record("at_fr", seed=s, digest=f"{s:064d}"), "pgd20", vector(correct))
        for s, correct in enumerate((50, 52, 54))
    ]
    (row,) = single_table(build(cells)).rows
    score = row.scores["pgd20"]
    assert (score.accuracy, score.sd, score.seeds, row.seeds) == (52.0, 2.0, 3, (0, 1, 2))
    assert [m.scores["pgd20"].correct for m in row.members] == [50, 52, 54]
    assert len(single_table(build(cells, each_seed=True)).rows) == 3


def test_deviations_over_seeds_are_rounded_once(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    """Of 33.59, 34.38 and 35.55 it would be 0.99."""
    cells = [
        make_cell(
            model_record("at_fr", seed=s, digest=f"{s:064d}"),
            "pgd20",
            "1" * correct + "0" * (256 - correct),
        )
        for s, correct in enumerate((86, 88, 91))
    ]
    (row,) = single_table(build(cells)).rows
    score = row.scores["pgd20"]
    assert (score.accuracy, score.sd) == (34.51, 0.98)


def test_a_mean_is_no_further_than_its_least_finished_seed(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    verdicts: list[str | dict[str, str]] = [
        "1100",
        {"apgd-ce": "1110", "apgd-t": "1.10", "fab-t": "...0", "square": "...0"},
    ]
    cells = [
        make_cell(model_record("at_fr", seed=s, digest=f"{s:064d}"), "aa", verdicts[s])
        for s in range(2)
    ]
    score = single_table(build(cells)).rows[0].scores["aa"]
    assert (score.seeds, score.at_most, score.stages_done) == (2, True, ("apgd-ce",))


def test_a_name_that_ends_like_a_seed_is_a_name(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    runs = [model_record("mine_2", digest=f"{seed}" * 64, seed=seed) for seed in range(3)]
    (table,) = build([make_cell(run, "pgd20", "10") for run in runs]).tables
    assert [(row.label, len(row.members)) for row in table.rows] == [("mine_2 (best)", 3)]


@pytest.mark.parametrize("field", ["preset", "protocol", "weights", "architecture"])
def test_runs_that_differ_in_more_than_the_seed_stay_apart(
    make_cell: CellMaker, model_record: RecordMaker, field: str
) -> None:
    one = model_record("at_fr", seed=0, digest="0" * 64)
    other = model_record("at_fr", seed=1, digest="1" * 64, **{field: "other"})
    table = single_table(build([make_cell(m, "pgd20", vector(50)) for m in (one, other)]))
    assert len(table.rows) == 2
    assert len({row.label for row in table.rows}) == 2


def test_two_runs_with_one_seed_are_not_taken_for_two_seeds(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    cells = [
        make_cell(model_record("at_fr", digest=str(i) * 64), "pgd20", vector(50)) for i in range(2)
    ]
    rows = single_table(build(cells)).rows
    assert {row.label for row in rows} == {
        "at_fr (best) 000000",
        "at_fr (best) 111111",
    }


def test_robust_overfitting_is_best_minus_last_under_pgd20(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    best = model_record("at_fr", digest="b" * 64)
    last = model_record("at_fr", digest="1" * 64, weights="last", epoch=100)
    cells = [make_cell(best, "pgd20", vector(55)), make_cell(last, "pgd20", vector(49))]
    rows = {row.model.weights: row for row in single_table(build(cells)).rows}
    gap = rows["best"].overfitting_gap
    assert gap is not None and gap.points == 6.0
    assert gap.p_value == pytest.approx(2 / 2**6)
    assert rows["last"].overfitting_gap is None


def test_runs_with_changed_settings_are_no_seeds_of_the_same_recipe(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    records = [model_record("pgd_at", seed=seed, digest=str(seed) * 64) for seed in range(2)]
    records += [
        model_record("pgd_at", seed=seed, digest=str(seed) * 64, note="a small model; epochs=1")
        for seed in (2, 3)
    ]
    records.append(model_record("pgd_at", seed=4, digest="4" * 64, note="epochs=2; lr=0.9"))
    rows = single_table(build([make_cell(r, "pgd20", vector(50)) for r in records])).rows
    assert {row.label: row.seeds for row in rows} == {
        "pgd_at (best)": (0, 1),
        "pgd_at (best) epochs=1": (2, 3),
        "pgd_at (best) epochs=2, lr=0.9": (4,),
    }


@pytest.mark.parametrize(
    ("field", "values", "seeds"),
    [
        (
            "engine",
            (None, None, 3, 4, 4),
            {"": (0, 1), " engine 3": (2,), " engine 4": (3, 4)},
        ),
        ("training_precision", ("fp32", "bf16", "bf16"), {" fp32": (0,), " bf16": (1, 2)}),
        (
            "settings",
            ("aaaaaa", "bbbbbb", "bbbbbb"),
            {" settings aaaaaa": (0,), " settings bbbbbb": (1, 2)},
        ),
    ],
)
def test_what_trains_other_weights_makes_no_seeds_of_one_row(
    make_cell: CellMaker,
    model_record: RecordMaker,
    field: str,
    values: tuple[object, ...],
    seeds: dict[str, tuple[int, ...]],
) -> None:
    """Another engine or precision, or a recipe's file that has changed."""
    records = [
        model_record("pgd_at", seed=seed, digest=str(seed) * 64, **{field: value})
        for seed, value in enumerate(values)
    ]
    table = single_table(build([make_cell(r, "pgd20", vector(50)) for r in records]))
    found = {row.label.removeprefix("pgd_at (best)"): row.seeds for row in table.rows}
    assert found == seeds
    assert ("Trained in" in model_grid(table).header) == (field == "training_precision")


def test_the_last_checkpoint_is_that_of_the_same_run(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    """Another run of the seed neither stands in for it nor hides it."""
    best = model_record("pgd_at", target="runs/one", digest="b" * 64)
    other = model_record("pgd_at", target="runs/two@last", digest="2" * 64, weights="last")
    own = model_record("pgd_at", target="runs/one@last", digest="1" * 64, weights="last")
    cells = [make_cell(best, "pgd20", vector(55)), make_cell(other, "pgd20", vector(20))]
    rows = {row.model.digest[0]: row for row in single_table(build(cells)).rows}
    assert rows["b"].overfitting_gap is None
    cells.append(make_cell(own, "pgd20", vector(49)))
    rows = {row.model.digest[0]: row for row in single_table(build(cells)).rows}
    gap = rows["b"].overfitting_gap
    assert gap is not None and gap.points == 6.0


def test_rank_ranges_leave_unfinished_rows_out(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    partial = {"apgd-ce": vector(45), "apgd-t": "." * 100, "fab-t": "." * 100, "square": "." * 100}
    cells = [
        make_cell(model_record("at_fr_swa"), "aa", vector(80)),
        make_cell(model_record("at_fr"), "aa", vector(78)),
        make_cell(model_record("pgd_at"), "aa", vector(40)),
        make_cell(model_record("mart"), "aa", partial),
    ]
    table = single_table(build(cells))
    assert table.ranked_by == "aa"
    assert {row.label: row.rank for row in table.rows} == {
        "at_fr_swa (best)": (1, 2),
        "at_fr (best)": (1, 2),
        "pgd_at (best)": (3, 3),
        "mart (best)": None,
    }


def test_rows_are_ranked_by_what_half_of_them_have(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    """Two of five rows with AutoAttack would leave three without a rank."""
    records = [model_record(name) for name in ("pgd_at", "trades", "mart", "at_fr", "at_swa")]
    cells = [make_cell(record, "pgd20", vector(50)) for record in records]
    cells += [make_cell(record, "aa", vector(40)) for record in records[:2]]
    assert single_table(build(cells)).ranked_by == "pgd20"
    cells.append(make_cell(records[2], "aa", vector(40)))
    assert single_table(build(cells)).ranked_by == "aa"


def test_a_finished_cell_of_more_images_comes_before_an_unfinished_one_of_just_these(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    more = make_cell(record, "pgd20", vector(50, 100))
    part = make_cell(record, "pgd20", vector(20, 40) + "." * 10)
    picked = pick([part, more], 0, 50)
    assert picked is not None and picked.source is more and picked.cell.complete


def test_warnings_and_flags_reach_the_row(make_cell: CellMaker, model_record: RecordMaker) -> None:
    cells = row_cells(make_cell, model_record("pgd_at"), {**COUNTS, "aa": 58})
    cells[-1].flags.append("zero-gradients: some points have no gradient")
    warnings = single_table(build(cells)).rows[0].warnings
    assert any("aa leaves 3 more images than the weaker pgd20" in w for w in warnings)
    assert "aa: zero-gradients: some points have no gradient" in warnings


def test_rows_that_cannot_be_compared_are_marked(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    quick = model_record("pgd_at", preset="quick", comparable=False, note="8 epochs, 2 steps")
    cells = row_cells(make_cell, quick, COUNTS)
    table = single_table(build(cells))
    assert any(
        "not comparable with published numbers: 8 epochs, 2 steps" in note for note in table.notes
    )
    assert not table.rows[0].neighbours.entries


def test_of_two_cells_the_finished_one_counts(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    finished = make_cell(record, "pgd20", vector(55), seed=1, updated="2026-01-01")
    cells = [make_cell(record, "pgd20", vector(20, 50) + "." * 50), finished]
    (row,) = single_table(build(cells)).rows
    assert row.scores["pgd20"].cells[0].key == finished.key


def test_what_was_said_of_the_training_data_once_holds_for_all_cells(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    said = [
        (model_record("own", source="outside", extra_data=extra_data), attack)
        for extra_data, attack in {"synthetic": "fgsm", "none": "cw", "unknown": "pgd20"}.items()
    ]
    cells = [
        make_cell(record, attack, vector(50), updated=f"2026-01-0{day}")
        for day, (record, attack) in enumerate(said, 1)
    ]
    (row,) = single_table(build(cells)).rows
    assert row.model.extra_data == "none"
    (row,) = single_table(build(cells[2:])).rows
    assert row.model.extra_data == "unknown"


def test_different_library_versions_are_told(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    cells = [
        make_cell(model_record("pgd_at"), "pgd20", vector(55)),
        make_cell(model_record("at_fr"), "pgd20", vector(55), versions={"torch": "2.12.0"}),
    ]
    assert "cells were computed with torch 2.11.0 and 2.12.0" in single_table(build(cells)).notes


def test_clean_cells_alone_make_a_table_without_ranks_of_attacks(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    table = single_table(build([make_cell(model_record("natural"), "clean", vector(94))]))
    assert table.norm is None and table.rows[0].worst_case is None


def test_the_papers_table_stands_only_beside_its_own_task(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    record = model_record("pgd_at")
    assert build([make_cell(record, "pgd20", vector(55))]).paper is not None
    assert build([make_cell(record, specs("L2")["pgd20"], vector(55))]).paper is None


@pytest.mark.parametrize("made", [False, True])
def test_no_cells_yet_is_one_clear_line(tmp_path: Path, made: bool) -> None:
    root = tmp_path / "results"
    if made:
        (root / "cells").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no cells yet in .*results; run `make bench"):
        leaderboard(root)


def test_a_damaged_cell_is_named_and_hides_no_other(
    make_cell: CellMaker,
    model_record: RecordMaker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = CellStore(tmp_path)
    path = store.save(make_cell(model_record("pgd_at"), "pgd20", "1010"))
    store.save(make_cell(model_record("mart"), "pgd20", "1011"))
    assert len(single_table(leaderboard(tmp_path)).rows) == 2
    assert capsys.readouterr().err == ""
    content = path.read_text()
    for damage in (content[:50], content.replace("1010", "10x0"), content.replace("1010", "101")):
        path.write_text(damage)
        (row,) = single_table(leaderboard(tmp_path)).rows
        assert row.model.name == "mart"
        assert f"left out: damaged cell {path}" in capsys.readouterr().err
