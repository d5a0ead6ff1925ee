"""A cell: what one attack did to one model on one range of images, image by image.

A cell is one JSON file, rewritten atomically after every chunk, that opens to everything that made
it. Its key names all that can change its value; where and when it was made is kept beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from frbench import storage
from frbench.attacks.spec import AttackSpec
from frbench.errors import InputError, first_line
from frbench.models.outside import ExtraData
from frbench.notices import to_stderr

SCHEMA = 1
ROBUST, BROKEN, UNSEEN = "1", "0", "."


class ModelRecord(BaseModel):
    """The model of a cell, as a table needs to know it. Only `digest` enters the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(description="row label, such as 'at_fr_swa' or 'natural'")
    target: str = Field(description="what the user typed, or the run folder")
    digest: str = Field(description="SHA-256 of the weights with architecture and normalization")
    architecture: str
    parameters: int
    dataset: str
    classes: int
    source: Literal["run", "outside"]
    defense: str | None = Field(default=None, description="canonical recipe name of a run")
    preset: str | None = None
    protocol: str | None = None
    weights: str | None = Field(default=None, description="of a training: best or last")
    seed: int | None = None
    epoch: int | None = Field(default=None, description="epochs trained when these were saved")
    engine: int | None = Field(
        default=None, description="of a training: frbench's ENGINE_VERSION; None before it was kept"
    )
    training_precision: str | None = Field(default=None, description="of a run: fp32 or bf16")
    settings: str | None = Field(
        default=None, description="of a run: digest of all that was trained, seed left out"
    )
    comparable: bool = Field(default=True, description="may stand beside published numbers")
    extra_data: ExtraData = "none"
    note: str = Field(default="", description="what the preset shortens, what the adapter saw")
    cost: dict[str, float] = Field(default_factory=dict, description="training cost of a run")

    @property
    def explicit_target(self) -> str:
        """The target that names these weights even where their run has an average too."""
        plain = self.source == "run" and self.weights == "best" and "@" not in self.target
        return f"{self.target}@best" if plain else self.target

    def better_than(self, other: ModelRecord) -> bool:
        """Whether a cell of both, which have the same weights, shall tell this one.

        A run knows more than a file, and now more than when it was unfinished. Where its last
        weights are its best ones, they are the best. What was once said of the training data holds.
        """
        if self.target == other.target:
            forgets = self.extra_data == "unknown" != other.extra_data
            return self != other and not forgets
        return (self.source == "run", self.weights == "best") > (
            other.source == "run",
            other.weights == "best",
        )


class DataRange(BaseModel):
    """Images `start` (inclusive) to `stop` (exclusive) of one split, in its official order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    split: Literal["train", "test"] = "test"
    sha256: str
    start: int = Field(default=0, ge=0)
    stop: int = Field(ge=1)

    @property
    def n(self) -> int:
        return self.stop - self.start


class Cell(BaseModel):
    """Verdicts of one attack on one model; see the module's text.

    `verdicts` has one string a stage and one character an image: '1' still classified correctly
    after this stage, '0' misclassified in it or before, '.' not seen by it yet. An AutoAttack cell
    also has the verdicts of the clean pass, under 'clean'.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA
    model: ModelRecord
    attack: AttackSpec
    data: DataRange
    seed: int = 0
    batch: int = Field(ge=1, description="images a chunk; it decides the random numbers drawn")
    precision: str = "fp32"
    versions: dict[str, str] = Field(description="of the libraries that decide the value")
    verdicts: dict[str, str]
    seconds: dict[str, float] = Field(
        default_factory=dict, description="wall clock, a stage; the sum over processes"
    )
    seconds_left: float | None = Field(
        default=None, description="of an unfinished cell: expected where it was last computed"
    )
    flags: list[str] = Field(default_factory=list, description="warnings of the attack libraries")
    provenance: dict[str, Any] = Field(default_factory=dict, description="device, host, commit, …")
    updated: str = ""

    @property
    def key(self) -> str:
        """Digest of everything that can change the value."""
        parts = self.model_dump(mode="json", include=_KEY_FIELDS)
        return storage.canonical_digest({**parts, "digest": self.model.digest})

    @property
    def stages(self) -> tuple[str, ...]:
        return self.attack.stages

    @property
    def complete(self) -> bool:
        """Every image has its final verdict."""
        return self.pending == 0

    @property
    def pending(self) -> int:
        """Images that could still change from correct to misclassified."""
        return sum(v == UNSEEN for v in self.final_verdicts())

    def final_verdicts(self) -> str:
        """One character an image: '0' once wrong in any pass, '1' after the last, else '.'."""
        passes = [self.verdicts[stage] for stage in self.stages]
        columns = zip(self.verdicts.get("clean", passes[0]), *passes, strict=True)
        return "".join(BROKEN if BROKEN in column else column[-1] for column in columns)

    def correct(self) -> int:
        """Images not known to be misclassified; an upper bound until the cell is complete."""
        return self.data.n - self.final_verdicts().count(BROKEN)

    def stages_done(self) -> tuple[str, ...]:
        """Stages that have seen every image that was left to them."""
        return tuple(s for s in self.stages if UNSEEN not in self.verdicts[s])

    @property
    def accuracy(self) -> float:
        """Share of correct images in [0, 1]; an upper bound until the cell is complete."""
        return self.correct() / self.data.n

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


_KEY_FIELDS = {"schema_version", "attack", "data", "seed", "batch", "precision", "versions"}


class CellStore:
    """The cells of one results folder, under `<root>/cells/`, one file a cell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "cells"

    def path(self, cell: Cell) -> Path:
        """`cells/<model name>/<attack>-<key>.json`: found by eye as well as by key.

        A stored cell stays where it is, whatever name its model had then.
        """
        stored = sorted(self.folder.glob(f"*/{cell.attack.name}-{cell.key}.json"))
        if stored:
            return stored[0]
        safe = storage.safe_name(cell.model.name, kept="-_+.")
        return self.folder / safe / f"{cell.attack.name}-{cell.key}.json"

    def find(self, wanted: Cell) -> Cell | None:
        """The stored cell with the key of `wanted`, whatever name its model had then."""
        path = self.path(wanted)
        return read_cell(path) if path.is_file() else None

    def save(self, cell: Cell) -> Path:
        """Write the cell atomically and return where."""
        path = self.path(cell)
        storage.write_json(path, cell.model_dump(mode="json"))
        return path

    def all(self) -> list[Cell]:
        """Every sound cell of the folder, in order of path.

        One damaged or foreign file must not hide all others: it is named on stderr and left out.
        """
        cells = []
        for path in sorted(self.folder.glob("*/*.json")):
            try:
                cells.append(read_cell(path))
            except InputError as error:
                to_stderr(f"frbench: left out: {error}")
        return cells


def read_cell(path: Path) -> Cell:
    """Open one cell file, `<attack>-<key>.json`.

    Raises:
        InputError: it is damaged, or edited so that its key is another one; names file and place.
    """
    try:
        cell = Cell.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise _damaged(path, _first(error)) from None
    if cell.schema_version != SCHEMA:
        raise InputError(
            f"cell {path} has format {cell.schema_version}, this frbench reads {SCHEMA}; "
            "move it away to compute it again"
        )
    if not _sound(cell):
        raise _damaged(path, "verdicts do not match its range")
    if path.stem != f"{cell.attack.name}-{cell.key}":
        raise _damaged(path, f"its settings have the key {cell.key}, not the one in its name")
    return cell


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"damaged cell {path}: {what}; move it away to compute it again")


def _first(error: ValidationError | UnicodeDecodeError) -> str:
    """Place and message of the first thing that is wrong, on one line."""
    if isinstance(error, UnicodeDecodeError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first_line(first["msg"])
    return f"{place}: {message}" if place else message


def _sound(cell: Cell) -> bool:
    """Whether every stage has one verdict an image."""
    known = {ROBUST, BROKEN, UNSEEN}
    strings = cell.verdicts.values()
    whole = all(len(v) == cell.data.n and known.issuperset(v) for v in strings)
    return whole and set(cell.stages) <= set(cell.verdicts)
