"""The gallery: the weakest attack that broke an image, and pictures of the very weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from frbench.attacks.columns import specs
from frbench.data import Dataset, cache_path
from frbench.evaluation import CellStore, evaluate
from frbench.evaluation.cells import ModelRecord
from frbench.evaluation.target import Target
from frbench.leaderboard.selection import load_cells
from frbench.leaderboard.table import build, leaderboard
from frbench.models import build_model
from frbench.report import gallery
from frbench.report.gallery import Budget, breakings, galleries


@pytest.fixture
def tiny(digits: Dataset) -> Target:
    torch.manual_seed(0)
    channels = digits.test.images.shape[1]
    model = build_model("tiny", classes=10, channels=channels).eval().requires_grad_(False)
    record = ModelRecord(
        name="a",
        target="smoke-a",
        digest="a" * 64,
        architecture="tiny",
        parameters=1,
        dataset="digits",
        classes=10,
        source="run",
    )
    return Target(model, record)


@pytest.fixture
def measured(tiny: Target, digits: Dataset, tmp_path: Path) -> Path:
    columns = [specs()[name] for name in ("clean", "fgsm", "pgd20")]
    store = CellStore(tmp_path / "results")
    evaluate(tiny, columns, digits, store=store, device="cpu", n=32)
    return tmp_path / "results"


def test_weakest_attack_gets_the_blame(results: Path) -> None:
    cells = {cell.key: cell for cell in load_cells(results)}
    table = leaderboard(results).tables[0]
    row = next(row for row in table.rows if row.label == "awp (best)")
    marks = "".join(b.mark for b in breakings(row, table, cells))
    assert marks == "·" * 6 + "A" + "C" + "P" + "F" * 15  # of 35, 9, 8, 7 and 6 correct


def test_without_the_data_there_are_verdicts_and_a_reason(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRBENCH_CACHE", str(tmp_path / "nothing"))
    (made,) = galleries(leaderboard(results), load_cells(results), tmp_path)
    assert made.models == () and all(not image.source for image in made.images)
    assert any("not in this machine's cache" in note for note in made.notes)
    assert len(made.lines) == 4
    assert not cache_path("cifar10").exists()


def test_pictures_agree_with_the_cell(
    measured: Path, tiny: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "resolve_target", lambda *_, **__: tiny)
    cells = load_cells(measured)
    (made,) = galleries(build(cells), cells, measured)
    (model,) = made.models
    assert model.attack == "PGD-20" and model.pictures
    for picture in model.pictures:
        assert picture.broken == (picture.cell_verdict == "0")
        assert picture.clean.startswith("data:image/png;base64,")


def test_the_plain_weights_of_a_run_with_an_average_are_those_of_its_row(
    measured: Path, tiny: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name alone stands for the average."""
    plain = tiny.record.model_copy(update={"weights": "best"})
    asked: list[str] = []

    def resolve(text: str, **_: object) -> Target:
        asked.append(text)
        return tiny

    monkeypatch.setattr(gallery, "resolve_target", resolve)
    cells = [cell.model_copy(update={"model": plain}) for cell in load_cells(measured)]
    galleries(build(cells), cells, measured)
    assert asked == ["smoke-a@best"]


def test_other_weights_are_not_shown(
    measured: Path, tiny: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Target(tiny.model, tiny.record.model_copy(update={"digest": "b" * 64}))
    monkeypatch.setattr(gallery, "resolve_target", lambda *_, **__: changed)
    cells = load_cells(measured)
    (made,) = galleries(build(cells), cells, measured)
    assert made.models == ()
    assert any("weights have changed" in note for note in made.notes)


def test_too_much_work_is_left_out(
    measured: Path, tiny: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "resolve_target", lambda *_, **__: tiny)
    cells = load_cells(measured)
    (made,) = galleries(build(cells), cells, measured, Budget(1.0))
    assert made.models == ()
    assert any("too much work" in note for note in made.notes)


def test_nothing_from_elsewhere_is_loaded(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a report must not load it")

    monkeypatch.setattr(gallery, "resolve_target", refuse)
    cells = [
        c.model_copy(update={"model": c.model.model_copy(update={"target": "robustbench:X"})})
        for c in load_cells(measured)
    ]
    (made,) = galleries(build(cells), cells, measured)
    assert made.models == ()
