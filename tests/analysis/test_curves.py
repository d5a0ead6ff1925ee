"""Curves from metrics files, good and damaged; ablation bars from cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frbench.analysis.curves import ablation, curve_study, read_curve, run_path
from frbench.attacks import specs
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, DataRange
from frbench.evaluation.target import Target


def write_run(folder: Path, robust: list[float], **columns: list[float]) -> Path:
    folder.mkdir()
    lines = []
    for epoch, value in enumerate(robust):
        row: dict[str, Any] = {"epoch": epoch, "lr": 0.1, "train_loss": 1.0, "seconds": 2.0}
        row |= {"val_clean": 0.8, "val_pgd20": value}
        row |= {name: values[epoch] for name, values in columns.items() if epoch < len(values)}
        lines.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_best_is_the_first_highest_epoch_and_last_the_last(tmp_path: Path) -> None:
    curve = read_curve(write_run(tmp_path / "run", [0.2, 0.5, 0.5, 0.4]))
    assert (curve.name, curve.best, curve.last) == ("run", 2, 4)
    assert curve.gap(curve.best) == pytest.approx(0.3)
    assert curve.gap(curve.last) == pytest.approx(0.4)


def test_a_resumed_run_counts_a_repeated_epoch_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.2, 0.3])
    again = {"epoch": 1, "val_clean": 0.7, "val_pgd20": 0.1}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    curve = read_curve(run)
    assert list(curve.metrics["epoch"]) == [1, 2] and curve.best == 1
    assert curve.at(2, "val_pgd20") == 0.1


def write_averaged_run(folder: Path) -> Path:
    """A run that watched the test set, and whose average is best an epoch later than it."""
    return write_run(
        folder,
        [0.2, 0.3, 0.25],
        test_clean=[0.5, 0.6, 0.7],
        test_pgd20=[0.2, 0.3, 0.2],
        swa_val_clean=[0.7] * 3,
        swa_val_pgd20=[0.2, 0.2, 0.4],
    )


def test_several_runs_are_drawn_with_whatever_they_recorded(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "pgd_at", [0.1, 0.2, 0.3])
    study = curve_study([plain, write_averaged_run(tmp_path / "at_fr_swa")])
    assert study.splits() == ["val", "test"]
    study.save(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert [run["best"] for run in content["runs"]] == [3, 2]
    frame = study.frame()
    assert list(frame["mark"]) == ["", "", "best+last", "", "best", "last"]
    assert list(frame["run"].unique()) == ["pgd_at", "at_fr_swa"]
    svg = (tmp_path / "out" / "curves.svg").read_text()
    assert "best 30.0 % (epoch 2), last 25.0 % (epoch 3)" in svg


def test_table_has_best_and_last_of_both_splits_and_of_the_average(tmp_path: Path) -> None:
    study = curve_study([write_averaged_run(tmp_path / "run")])
    columns = {c.header: list(c.cells) for c in study.table().columns}
    assert columns["weights"] == ["plain", "plain", "SWA", "SWA"]
    assert columns["epoch"] == ["best 2", "last 3", "best 3", "last 3"]
    assert columns["val pgd20"] == ["30.00", "25.00", "40.00", "40.00"]
    assert columns["test gap"] == ["30.00", "50.00", "-", "-"]


@pytest.mark.parametrize("average", ["swa", "ema"])
def test_averaged_weights_are_drawn_thin_whichever_average_they_are(
    tmp_path: Path, average: str
) -> None:
    extra = {f"{average}_val_pgd20": [0.1, 0.2, 0.2], f"{average}_val_clean": [0.3] * 3}
    runs = [write_run(tmp_path / "run", [0.1, 0.2, 0.3], **extra), write_run(tmp_path / "b", [0.1])]
    (axes,) = curve_study(runs).plot().axes
    assert sorted(line.get_linewidth() for line in axes.lines if len(line.get_xdata()) == 3)[
        :3
    ] == [
        0.7,
        0.7,
        1.5,
    ]


def test_missing_and_damaged_metrics_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no metrics.jsonl in .*: is it a run folder"):
        read_curve(tmp_path)
    run = write_run(tmp_path / "run", [0.2])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "val_cl')
    with pytest.raises(InputError, match=r"damaged metrics .*metrics.jsonl:2"):
        read_curve(run)
    (run / "metrics.jsonl").write_text('{"epoch": 0}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl: epoch 1 has no number 'val_clean'"):
        read_curve(run)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no judged epoch yet"):
        read_curve(run)
    with pytest.raises(InputError, match="no run given"):
        curve_study([])


def test_a_run_is_found_by_path_or_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick-pgd_at-s0", [0.2])
    assert run_path(str(run), tmp_path / "elsewhere") == run
    assert run_path("quick-pgd_at-s0", tmp_path) == run
    with pytest.raises(InputError, match="did you mean 'quick-pgd_at-s0'"):
        run_path("quick-pgd_at-s1", tmp_path)


def test_a_defense_names_its_only_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick-pgd_at-s0-0123abcd", [0.2])
    settings = {"defense": "pgd_at", "recipe": {"mechanisms": {}}, "frame": {}}
    settings |= {"preset": "quick", "protocol": "common", "seed": 0}
    (run / "run.json").write_text(json.dumps({"settings": settings, "finished": True}))
    assert run_path("pgd_at", tmp_path) == run


def test_a_name_may_look_like_a_formula(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a$b_$c", [0.2])
    curve_study([run]).save(tmp_path)
    assert "a$b_$c" in (tmp_path / "curves.svg").read_text()


def cell(target: Target, defense: str, attack: str, verdicts: str, /, **changes: Any) -> Cell:
    identity = {"name": f"{defense}-run", "defense": defense, "digest": str((defense, changes))}
    record = target.record.model_copy(update={**identity, **changes})
    return Cell(
        model=record,
        attack=specs()[attack],
        data=DataRange(dataset="digits", sha256="0", stop=len(verdicts)),
        batch=4,
        versions={},
        verdicts={stage: verdicts for stage in specs()[attack].stages},
    )


def test_ablation_bars_are_the_cells_in_the_papers_order(
    targets: list[Target], tmp_path: Path
) -> None:
    cells = [
        cell(targets[0], "at_fr_swa", "clean", "1110"),
        cell(targets[0], "at_fr_swa", "pgd20", "1100"),
        cell(targets[0], "pgd_at", "pgd20", "1000"),
        cell(targets[0], "pgd_at", "clean", "11.1"),  # not complete
        cell(targets[0], "trades", "clean", "1111"),
    ]
    found = ablation(cells)
    assert found.rows == ("pgd_at", "at_fr_swa") and found.attacks == ("clean", "pgd20")
    assert {place: e.value for place, e in found.values.items()} == {
        ("pgd_at", "pgd20"): 0.25,
        ("at_fr_swa", "clean"): 0.75,
        ("at_fr_swa", "pgd20"): 0.5,
    }
    found.save(tmp_path)
    assert len((tmp_path / "ablation.csv").read_text().splitlines()) == 4


def test_ablation_bars_are_means_over_the_seeds_of_best_checkpoints(
    targets: list[Target], tmp_path: Path
) -> None:
    cells = [
        *(cell(targets[0], "pgd_at", "pgd20", v, seed=s) for s, v in enumerate(("1000", "1100"))),
        cell(targets[0], "pgd_at", "pgd20", "1111", seed=0, weights="last"),
        cell(targets[0], "at_fr", "pgd20", "1110", seed=0, weights="best"),
    ]
    found = ablation(cells)
    place = ("pgd_at", "pgd20")
    assert (found.values[place].value, found.seeds[place]) == (0.375, 2)
    assert (found.values[place].low, found.values[place].high) == (
        0.0,
        1.0,
    )  # two seeds tell little
    assert found.values["at_fr", "pgd20"].value == 0.75
    found.save(tmp_path)
    assert "2 seeds" in (tmp_path / "ablation.svg").read_text()
    entries = json.loads((tmp_path / "ablation.json").read_text())["entries"]
    assert [entry["seeds"] for entry in entries] == [2, 1]


def test_ablation_refuses_to_choose_among_cells(targets: list[Target]) -> None:
    runs = [cell(targets[0], "pgd_at", "clean", "1110", seed=0, target=f"run{i}") for i in (1, 2)]
    with pytest.raises(InputError, match="several cells for clean of pgd_at, seed 0: run1, run2"):
        ablation(runs)
    with pytest.raises(InputError, match="no complete cell"):
        ablation([])


@pytest.mark.parametrize(
    "field", ["preset", "protocol", "architecture", "note", "training_precision"]
)
def test_ablation_refuses_bars_of_different_trainings(targets: list[Target], field: str) -> None:
    cells = [
        cell(targets[0], "pgd_at", "clean", "1110", **{field: "one"}),
        cell(targets[0], "at_fr", "clean", "1110", **{field: "other"}),
    ]
    with pytest.raises(InputError, match=r"differ in \w+: 'one' or 'other'; keep the cells of one"):
        ablation(cells)


def test_ablation_refuses_bars_of_different_tasks(targets: list[Target]) -> None:
    plain = cell(targets[0], "pgd_at", "pgd20", "1110")
    shorter = cell(targets[0], "at_fr", "pgd20", "111")
    with pytest.raises(InputError, match="differ in images: 'digits test 0 to 2"):
        ablation([plain, shorter])
    fast = cell(targets[0], "at_fr", "pgd20", "1110").model_copy(update={"precision": "bf16"})
    with pytest.raises(InputError, match="differ in precision: 'bf16' or 'fp32'"):
        ablation([plain, fast])
    weak = cell(targets[0], "at_fr", "pgd20", "1110")
    weak.attack = specs("Linf", 4 / 255)["pgd20"]
    with pytest.raises(InputError, match="differ in pgd20"):
        ablation([plain, weak])


def test_epochs_that_were_not_judged_are_no_points(tmp_path: Path) -> None:
    lines = [
        {"epoch": 0, "train_loss": 2.0},
        {"epoch": 1, "train_loss": 1.9, "val_clean": 0.4, "val_pgd20": 0.3},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(read_curve(tmp_path).metrics["epoch"]) == [2]
