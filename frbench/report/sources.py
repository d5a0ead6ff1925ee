"""What a report shows beside the leaderboard: audits, analyses and learning curves, as files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frbench.audit import Audit, read_audits
from frbench.engine.run import RunFolder
from frbench.errors import InputError, first_line
from frbench.evaluation.cells import Cell
from frbench.leaderboard.rows import Leaderboard, Row
from frbench.leaderboard.selection import load_cells
from frbench.leaderboard.table import build

ANALYSES = ("lowpass", "spectrum", "claims", "kernels")


@dataclass(frozen=True)
class RunCurve:
    """What one run recorded: one dictionary an epoch, accuracies in [0, 1]."""

    name: str
    defense: str
    preset: str
    seed: int
    metrics: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Study:
    """One result file of an analysis."""

    path: Path
    kind: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Everything that the report reads; `audits` as `read_audits` has them."""

    board: Leaderboard
    cells: tuple[Cell, ...]
    audits: dict[tuple[str, str], Audit]
    studies: tuple[Study, ...]
    curves: tuple[RunCurve, ...]


def read_sources(results_dir: Path, runs_dir: Path) -> Sources:
    """Read a results folder and the runs behind its rows.

    Args:
        results_dir: folder that holds `cells/`, and where there are any `audits/` and `analysis/`.
        runs_dir: folder of run folders; only those of rows of the leaderboard are read.

    Raises:
        InputError: no cells yet, or a damaged file, which is named.
    """
    cells = load_cells(results_dir)
    audits = read_audits(results_dir)
    board = build(cells, audits=audits)
    return Sources(
        board=board,
        cells=tuple(cells),
        audits=audits,
        studies=tuple(_studies(results_dir / "analysis")),
        curves=tuple(_curves(board, runs_dir)),
    )


def single_rows(row: Row) -> tuple[Row, ...]:
    """The row itself, or one row a seed."""
    return row.members or (row,)


def _studies(folder: Path) -> Iterable[Study]:
    for path in sorted(folder.rglob("*.json")):
        content = _json(path)
        kind = content.get("analysis") if isinstance(content, dict) else None
        if kind in ANALYSES:
            yield Study(path, str(kind), content)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"damaged file {path}: {first_line(error)}; move it away and make it again"
        ) from None


def _curves(board: Leaderboard, runs_dir: Path) -> Iterable[RunCurve]:
    """One a run, in the order in which their rows stand in the tables."""
    records = [
        single.model for table in board.tables for row in table.rows for single in single_rows(row)
    ]
    runs = dict.fromkeys(r.target.partition("@")[0] for r in records if r.source == "run")
    for name in runs:
        folder = RunFolder(runs_dir / Path(name).name)
        if not folder.begun():
            continue
        settings, metrics = folder.info()["settings"], folder.metrics()
        if metrics:
            yield RunCurve(
                name=folder.name,
                defense=settings["defense"],
                preset=settings["preset"],
                seed=settings["seed"],
                metrics=tuple(metrics),
            )
