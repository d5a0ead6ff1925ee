"""Which cells a table or a comparison may use, and the part of each that it needs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from frbench import storage
from frbench.attacks.spec import AttackSpec
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, CellStore, ModelRecord

CLEAN = "clean"


@dataclass(frozen=True, order=True)
class Task:
    """What two cells must share before their images may be compared."""

    dataset: str
    split: str
    sha256: str
    precision: str


@dataclass(frozen=True)
class Picked:
    """A cell cut to the images that are asked for, and the whole cell it was cut from."""

    cell: Cell
    source: Cell


def load_cells(root: Path) -> list[Cell]:
    """Every sound cell of a results folder; a damaged one is named on stderr and left out.

    Raises:
        InputError: there are none yet.
    """
    store = CellStore(root)
    cells = store.all() if store.folder.is_dir() else []
    if not cells:
        raise InputError(f"no cells yet in {root}; run `make bench DEFENSE=at_fr_swa` to measure")
    return cells


def task_of(cell: Cell) -> Task:
    """The task of a cell."""
    return Task(cell.data.dataset, cell.data.split, cell.data.sha256, cell.precision)


@functools.cache
def spec_id(spec: AttackSpec) -> str:
    """Equal for two attacks exactly when they may share a column; clean images have no norm."""
    return CLEAN if spec.eps == 0 else storage.canonical_digest(spec.model_dump(mode="json"), 8)


def pick(cells: Iterable[Cell], start: int, stop: int) -> Picked | None:
    """The best of several cells of one model and attack, cut to images `start` to `stop`.

    Complete ones come first, then those measured on exactly this range, then the newest.
    """
    covering = [
        Picked(cut(cell, start, stop), cell)
        for cell in cells
        if cell.data.start <= start and stop <= cell.data.stop
    ]
    return max(covering, key=_preference, default=None)


def _preference(picked: Picked) -> tuple[bool, bool, str, str]:
    exact = picked.cell.data == picked.source.data
    return picked.cell.complete, exact, picked.source.updated, picked.source.key


def cut(cell: Cell, start: int, stop: int) -> Cell:
    """The cell as if it were of images `start` to `stop` alone, which it must cover."""
    low, high = start - cell.data.start, stop - cell.data.start
    return cell.model_copy(
        update={
            "data": cell.data.model_copy(update={"start": start, "stop": stop}),
            "verdicts": {stage: v[low:high] for stage, v in cell.verdicts.items()},
        }
    )


def full_name(record: ModelRecord) -> str:
    """`at_fr (best)`; the checkpoint is left out where the name already ends with it."""
    if not record.weights or record.name.endswith(record.weights):
        return record.name
    return f"{record.name} ({record.weights})"


def recipe_of(record: ModelRecord) -> tuple[object, ...]:
    """Equal for the seeds of one recipe, checkpoint left out.

    A recipe's file may have changed between two seeds, as may the engine.
    """
    return (
        *(record.name, record.source, record.defense, record.preset, record.protocol),
        *(record.architecture, record.parameters, record.comparable, record.note),
        *(record.engine, record.training_precision, record.settings),
    )


@dataclass(frozen=True)
class Single:
    """One model with its cells, cut to the images of the table, by column key."""

    record: ModelRecord
    aliases: tuple[str, ...]
    picked: dict[str, Picked]

    @property
    def training(self) -> str:
        """The run folder's name, which all checkpoints of one training share."""
        return self.record.target.partition("@")[0]
