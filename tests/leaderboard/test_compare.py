from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frbench.attacks.columns import pgd
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.leaderboard.compare import (
    FISHER,
    MCNEMAR,
    compare,
    compare_rows,
    find_row,
    find_seeds,
)
from frbench.leaderboard.render import render_comparison

CellMaker = Callable[..., Cell]
RecordMaker = Callable[..., ModelRecord]


def test_the_images_that_changed_sides_are_named(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    a, b = model_record("at_fr"), model_record("pgd_at")
    found = compare_rows(
        [make_cell(a, "pgd20", "110010", start=5)], [make_cell(b, "pgd20", "101000", start=5)]
    )
    (attack,) = found.attacks
    pair = attack.paired
    assert pair is not None
    assert (pair.both, pair.only_a, pair.only_b, pair.neither) == (1, 2, 1, 2)
    assert (pair.images_only_a, pair.images_only_b) == ((6, 9), (7,))
    assert attack.difference.points == 16.67
    assert (attack.difference.p_value, attack.test) == (1.0, MCNEMAR)


def test_rows_with_different_ranges_are_paired_where_they_overlap(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    a = [make_cell(model_record("at_fr"), "pgd20", "1111", start=0)]
    b = [make_cell(model_record("pgd_at"), "pgd20", "0000", start=2)]
    (attack,) = compare_rows(a, b).attacks
    assert attack.paired is not None
    assert (attack.paired.start, attack.paired.stop, attack.n_a) == (2, 4, 2)


def test_rows_without_a_shared_image_get_an_unpaired_test_that_says_so(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    a = [make_cell(model_record("at_fr"), "pgd20", "1" * 9 + "0")]
    b = [make_cell(model_record("pgd_at"), "pgd20", "1" + "0" * 9, start=10)]
    (attack,) = compare_rows(a, b).attacks
    assert (attack.paired, attack.test) == (None, FISHER)
    assert attack.difference.p_value == pytest.approx(2 * (100 + 1) / 184756)


def test_what_only_one_row_has_is_told(make_cell: CellMaker, model_record: RecordMaker) -> None:
    a, b = model_record("at_fr"), model_record("pgd_at")
    partial = {"apgd-ce": "11", "apgd-t": "..", "fab-t": "..", "square": ".."}
    found = compare_rows(
        [make_cell(a, "pgd20", "11"), make_cell(a, "cw", "11"), make_cell(a, "aa", partial)],
        [make_cell(b, "pgd20", "10"), make_cell(b, "aa", "10")],
    )
    assert [x.column.key for x in found.attacks] == ["pgd20"]
    assert found.skipped == (
        "C&W (cifar10, fp32): pgd_at (best) has no such cell",
        "AA (cifar10, fp32): not finished for both",
    )


def test_two_radii_of_one_attack_are_told_apart_as_people_write_them(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    a, b = model_record("at_fr"), model_record("pgd_at")
    attacks = [pgd(20, eps=radius) for radius in (8 / 255, 4 / 255)]
    found = compare_rows(*([make_cell(m, attack, "10") for attack in attacks] for m in (a, b)))
    assert {x.column.label for x in found.attacks} == {
        "PGD-20 (eps 8/255, step_size 2/255)",
        "PGD-20 (eps 4/255, step_size 1/255)",
    }


def test_rows_are_found_by_name_checkpoint_target_and_digest(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    best = model_record("at_fr", digest="b" * 64, target="runs/at_fr-0@best")
    last = model_record("at_fr", digest="1" * 64, weights="last", target="runs/at_fr-0@last")
    cells = [make_cell(m, "pgd20", "10") for m in (best, last)]
    for text in (
        "at_fr",
        "at_fr (best)",
        "bbbbbb",
        "#bbbbbb",
        "at_fr (best) bbbbbb",
        "at_fr #bbbbbb",
        "runs/at_fr-0@best",
    ):
        assert find_row(cells, text) == best.digest
    assert find_row(cells, "at_fr (last)") == find_row(cells, "111111") == last.digest
    other = make_cell(model_record("at_fr", digest="0" * 64, preset="paper"), "pgd20", "10")
    with pytest.raises(
        InputError,
        match=r"2 rows: choose one of 00000000 \(at_fr \(best\), paper, .*; bbbbbbbb \(at_fr",
    ):
        find_row([*cells, other], "at_fr")
    with pytest.raises(InputError, match="unknown row 'at_fx': did you mean 'at_fr'"):
        find_row(cells, "at_fx")


def test_a_row_is_found_by_the_label_that_tells_it_from_its_like(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    usual = model_record("at_fr", digest="a" * 64, target="one")
    longer = model_record("at_fr", digest="b" * 64, target="two", note="epochs=200")
    cells = [make_cell(m, "pgd20", "10") for m in (usual, longer)]
    assert find_row(cells, "at_fr (best)") == usual.digest
    assert find_row(cells, "at_fr (best) epochs=200") == longer.digest
    with pytest.raises(InputError, match="'at_fr' names 2 rows"):
        find_row(cells, "at_fr")


def test_a_row_over_seeds_is_all_of_them(make_cell: CellMaker, model_record: RecordMaker) -> None:
    seeds = [model_record("at_fr", digest=f"{n}" * 64, target=f"run{n}", seed=n) for n in range(3)]
    cells = [make_cell(m, "pgd20", "10") for m in reversed(seeds)]
    digests = {model.digest for model in seeds}
    assert find_seeds(cells, "at_fr") == find_seeds(cells, "at_fr (best)") == digests
    assert find_seeds(cells, "at_fr (best) seed 1") == {seeds[1].digest}
    with pytest.raises(InputError, match=r"3 rows: .*seed 0\); .*seed 1\); .*seed 2\)$"):
        find_row(cells, "at_fr")
    again = make_cell(model_record("at_fr", digest="9" * 64, target="again", seed=2), "fgsm", "10")
    with pytest.raises(InputError, match="4 rows"):
        find_seeds([*cells, again], "at_fr")


def test_rows_over_seeds_are_told_apart_as_their_ranks_are(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    """The p-value and interval are those of the seeds that say least."""

    def row(name: str, *verdicts: str) -> list[Cell]:
        return [
            make_cell(model_record(name, digest=f"{name[0]}{n}" * 32, seed=n), "pgd20", right)
            for n, right in enumerate(verdicts)
        ]

    weak, weaker, strong = "0" * 20 + "1" * 12, "0" * 22 + "1" * 10, "1" * 32
    a, b = row("at_fr", strong, strong), row("pgd_at", weak, weaker)
    (attack,) = compare_rows(a, b).attacks
    assert (attack.accuracy_a, attack.accuracy_b, attack.pairs) == (100.0, 34.38, 4)
    assert attack.difference.points == 65.62
    closest = compare_rows(a[:1], b[:1]).attacks[0].difference
    farthest = compare_rows(a[:1], b[1:]).attacks[0].difference
    assert attack.difference.p_value == closest.p_value > (farthest.p_value or 0)
    assert (attack.difference.low, attack.difference.high) == (closest.low, farthest.high)
    assert attack.paired is None
    mixed = compare_rows(row("at_fr", strong, weaker), row("pgd_at", weak, weak))
    assert mixed.attacks[0].difference.p_value == 1.0
    assert mixed.label_a == "at_fr (best) over seeds 0, 1"
    text = render_comparison(mixed, "table")
    assert "p and interval of the seeds that say least" in text and "32 and 32" not in text


def test_seeds_are_compared_on_the_images_that_all_have_and_a_missing_one_is_told(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    seeds = [model_record("at_fr", digest=f"{n}" * 64, seed=n) for n in range(3)]
    other = make_cell(model_record("pgd_at"), "pgd20", "0000")
    a = [
        make_cell(seeds[0], "pgd20", "1000"),
        make_cell(seeds[1], "pgd20", "11"),
        make_cell(seeds[2], "pgd20", "1."),
    ]
    found = compare_rows(a, [other])
    (attack,) = found.attacks
    assert (attack.accuracy_a, attack.n_a, attack.n_b, attack.pairs) == (75.0, 2, 2, 2)
    assert found.skipped == ("PGD-20 (cifar10, fp32): not finished for at_fr (best) seed 2",)


def test_a_run_is_found_by_its_folder_as_training_prints_it(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    run, other = "paper-at_fr-s0-0123", model_record("pgd_at", target="outside/paper-at_fr-s0-0123")
    cells = [
        make_cell(model_record("at_fr", target=f"{run}@best"), "pgd20", "10"),
        make_cell(model_record("at_fr_swa", target=f"{run}@swa-best"), "pgd20", "11"),
    ]
    for text in (run, f"{run}@best", f"{run}@swa-best"):
        for folder in ("runs", "/elsewhere/runs"):
            assert find_row(cells, f"{folder}/{text}") == find_row(cells, text)
    cells.append(make_cell(other, "pgd20", "01"))
    assert find_row(cells, other.target) == other.digest, "a target that has a folder itself"
    with pytest.raises(InputError, match="unknown row 'runs/paper-at_fr-s1'"):
        find_row(cells, "runs/paper-at_fr-s1")


@pytest.mark.parametrize("average", ["swa", "ema"])
def test_a_runs_name_is_its_average_as_evaluate_has_it(
    make_cell: CellMaker, model_record: RecordMaker, average: str
) -> None:
    """`at_fr` may come from the run of `at_fr_swa`, whose name is its target."""
    run = "quick-at_fr_swa-s0-1f"
    plain = model_record("at_fr", digest="b" * 64, target=run)
    headline = model_record("at_fr_swa", digest="5" * 64, target=f"{run}@{average}-best")
    last = model_record("at_fr_swa", digest="1" * 64, target=f"{run}@{average}-last")
    cells = [make_cell(m, "pgd20", "10") for m in (plain, headline, last)]
    assert find_row(cells, run) == find_row(cells, f"{run}/") == headline.digest
    assert find_row(cells, f"{run}@best") == find_row(cells, "at_fr") == plain.digest
    assert find_row(cells[:1], run) == plain.digest


def test_both_formats_show_the_same_comparison(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    store = CellStore(tmp_path)
    for name, verdicts in (("at_fr", "1" * 50), ("pgd_at", "0" * 25 + "1" * 25)):
        store.save(make_cell(model_record(name), "aa", verdicts))
    found = compare(tmp_path, "at_fr", "pgd_at")
    text = render_comparison(found, "table")
    assert "only a is right on images 0, 1, 2, 3, 4, 5, 6, 7, … (25 in all)" in text
    assert "+50.00" in text
    document = json.loads(render_comparison(found, "json"))
    assert document["attacks"][0]["paired"]["images_only_a"] == list(range(25))
    with pytest.raises(InputError, match="are the same weights"):
        compare(tmp_path, "at_fr", "at_fr (best)")


def test_rows_with_nothing_in_common_are_refused(
    make_cell: CellMaker, model_record: RecordMaker
) -> None:
    a, b = model_record("at_fr"), model_record("pgd_at")
    with pytest.raises(InputError, match="nothing to compare: FGSM"):
        compare_rows([make_cell(a, "fgsm", "10")], [make_cell(b, "cw", "10")])


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        (({"seed": 0}, {"seed": 1}), ("at_fr (best) seed 0", "at_fr (best) seed 1")),
        (({"preset": "quick"}, {"preset": "paper"}), ("at_fr (best) quick", "at_fr (best) paper")),
        (({}, {}), ("at_fr (best) aaaaaa", "at_fr (best) bbbbbb")),
        (({"weights": "best"}, {"weights": "last"}), ("at_fr (best)", "at_fr (last)")),
    ],
)
def test_two_rows_of_one_name_are_told_apart(
    make_cell: CellMaker,
    model_record: RecordMaker,
    changes: tuple[dict[str, Any], ...],
    labels: tuple[str, str],
) -> None:
    records = [
        model_record("at_fr", digest=letter * 64, **change)
        for letter, change in zip("ab", changes, strict=True)
    ]
    a, b = ([make_cell(record, "pgd20", "1100")] for record in records)
    b.append(make_cell(records[1], "fgsm", "1110"))
    found = compare_rows(a, b)
    assert (found.label_a, found.label_b) == labels
    assert found.skipped == (f"FGSM (cifar10, fp32): {labels[0]} has no such cell",)
