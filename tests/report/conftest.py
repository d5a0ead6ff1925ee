"""A small results folder with chosen verdicts, and the report made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.report import write_report

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
N = 40
HOSTILE = "</script><img src=x onerror=alert(1)>$\\frac &amp; \x07'\""


@pytest.fixture(scope="session")
def fill(
    model_record: Callable[..., ModelRecord], make_cell: Callable[..., Cell]
) -> Callable[[Path], None]:
    """Four rows: three of the paper preset under five attacks, one hostile and not comparable."""
    rows = {"pgd_at": (34, 25, 22, 21, 20), "trades": (33, 26, 24, 22, 21), "awp": (35, 9, 8, 7, 6)}

    def record(name: str, **changes: Any) -> ModelRecord:
        cost = {"train_seconds": 100.0 * len(name), "forward_units": 7.0}
        return model_record(name, target=f"paper-{name}-s0-abc", cost=cost, **changes)

    def save(root: Path, model: ModelRecord, attack: str, correct: int) -> None:
        CellStore(root).save(make_cell(model, attack, "1" * correct + "0" * (N - correct)))

    def fill_in(root: Path) -> None:
        for name, counts in rows.items():
            for attack, correct in zip(("clean", "fgsm", "pgd20", "cw", "aa"), counts, strict=True):
                save(root, record(name), attack, correct)
        hostile = record(
            HOSTILE, digest="f" * 64, defense=None, preset="quick", comparable=False, note=HOSTILE
        )
        save(root, hostile, "clean", 30)
        save(root, hostile, "pgd20", 3)

    return fill_in


@pytest.fixture
def results(fill: Callable[[Path], None], tmp_path: Path) -> Path:
    """A results folder of its own, see `fill`."""
    fill(tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="session")
def shared_results(fill: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that no test changes."""
    root = tmp_path_factory.mktemp("shared") / "results"
    fill(root)
    return root


@pytest.fixture(scope="session")
def page_text(shared_results: Path) -> str:
    """The report of `shared_results`."""
    output = shared_results.parent / "report.html"
    write_report(output, shared_results, shared_results.parent / "runs", gallery=False, now=NOW)
    return output.read_text()


@pytest.fixture
def add_audit(results: Path) -> Callable[..., None]:
    """Write an audit of one digest."""

    def add(digest: str, **fields: Any) -> None:
        folder = results / "audits"
        folder.mkdir(exist_ok=True)
        content = {"target": "a", "digest": digest, "verdict": "suspicious", "reasons": [HOSTILE]}
        (folder / f"{digest[:8]}.json").write_text(json.dumps({**content, **fields}))

    return add


@pytest.fixture
def make_page(results: Path, tmp_path: Path) -> Callable[..., str]:
    """Write the report and return its text."""

    def make(**options: Any) -> str:
        output = tmp_path / "report.html"
        options = {"gallery": False, "now": NOW, **options}
        write_report(output, results, tmp_path / "runs", **options)
        return output.read_text()

    return make
