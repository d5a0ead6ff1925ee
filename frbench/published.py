"""Published numbers as data: the paper's two tables and a dated snapshot of RobustBench.

The files lie in `baselines/data/`, each with its source and date; nothing here computes a value.
"""

from __future__ import annotations

import csv
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from frbench import storage
from frbench.discovery import PROJECT_ROOT
from frbench.errors import InputError

DATA_FOLDER = PROJECT_ROOT / "baselines" / "data"

DataClass = Literal["none", "synthetic", "extra"]
Percent = Annotated[float, Field(ge=0, le=100)]
# The snapshot leaves a field empty, or says 'null', where the entry has no such number.
OptionalPercent = Annotated[
    Percent | None, BeforeValidator(lambda v: None if v in ("", "null") else v)
]


class Data(BaseModel):
    """A part of a file in `DATA_FOLDER`: what it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Data):
    """Where the numbers of a table were read."""

    title: str
    authors: str
    venue: str
    table: str
    transcribed: str = Field(description="date, ISO 8601")


class PaperRow(Data):
    """One method of the paper's Table 2; accuracies in percent."""

    method: str
    defense: str = Field(description="our recipe of the same name")
    citation: str
    trained_by: str
    remark: str
    clean: Percent
    fgsm: Percent
    pgd20: Percent
    cw: Percent
    aa: Percent

    @property
    def accuracies(self) -> dict[str, float]:
        """By the name of the column, in the order of the paper."""
        return {name: getattr(self, name) for name in ("clean", "fgsm", "pgd20", "cw", "aa")}


class _PaperTable(Data):
    """What both tables are of."""

    source: Source
    dataset: str
    architecture: str
    norm: str
    eps: str

    @property
    def threat_model(self) -> str:
        """As a table of measured rows says it."""
        return f"{self.norm} {self.eps}"


class PaperTable2(_PaperTable):
    """Table 2: seven defenses under five attacks."""

    n: int
    remarks: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    @property
    def caption(self) -> str:
        """Which table it is, of what, and when it was transcribed."""
        return (
            f"{self.source.table} of the paper ({self.architecture}, {self.dataset}, "
            f"{self.threat_model}, n = {self.n:,}), transcribed {self.source.transcribed}"
        )

    def is_of(self, dataset: str, threat_model: str) -> bool:
        """Whether rows measured on that dataset in that ball may stand beside it."""
        return (self.dataset, self.threat_model) == (dataset, threat_model)


class LowpassRow(Data):
    """Accuracy in percent of one model on one kind of input at each bandwidth."""

    model: Literal["natural", "robust"]
    inputs: Literal["clean", "pgd20"]
    accuracies: tuple[Percent, ...]


class PaperTable1(_PaperTable):
    """Table 1: accuracy after a low-pass filter of each bandwidth."""

    bandwidths: tuple[int, ...]
    remarks: tuple[str, ...]
    rows: tuple[LowpassRow, ...]


class RobustBenchEntry(Data):
    """One model of RobustBench, as its own data say; accuracies in percent."""

    dataset: str
    threat_model: str
    model_id: str
    architecture: str
    venue: str
    paper_title: str
    link: str
    eps: str
    clean_acc: OptionalPercent
    autoattack_acc: OptionalPercent
    external_acc: OptionalPercent
    corruptions_acc: OptionalPercent
    reported_acc: OptionalPercent
    additional_data: bool
    mentions_synthetic: bool
    unreliable: bool

    @property
    def robust_acc(self) -> float | None:
        """The best known evaluation: `external_acc` overrides AutoAttack's value."""
        return self.autoattack_acc if self.external_acc is None else self.external_acc

    @property
    def radius(self) -> float | None:
        """`eps` as a number."""
        return float(Fraction(self.eps)) if self.eps else None

    @property
    def data_class(self) -> DataClass:
        """What the model saw beyond the training set; further real images outweigh synthetic."""
        if self.additional_data:
            return "extra"
        return "synthetic" if self.mentions_synthetic else "none"


class SnapshotInfo(Data):
    """Which state of RobustBench the snapshot shows."""

    repository: str
    commit: str
    date: str
    entries: int
    sha256: str = Field(description="of the CSV file")
    fields: dict[str, str] = Field(description="what each column means")

    @property
    def state(self) -> str:
        """For captions: `78fcc9e of 2025-03-31`."""
        return f"{self.commit[:7]} of {self.date}"

    @property
    def file(self) -> str:
        """The CSV file beside the description, named by its digest.

        So the description alone decides which state is read, and replacing it is one atomic step.
        """
        return f"robustbench-{self.sha256[:8]}.csv"


class Snapshot(Data):
    """RobustBench's entries at one commit."""

    info: SnapshotInfo
    entries: tuple[RobustBenchEntry, ...]


T = TypeVar("T", bound=BaseModel)


def paper_table1(folder: Path = DATA_FOLDER) -> PaperTable1:
    """The paper's Table 1; raises InputError when the file is damaged."""
    table = _read(PaperTable1, folder / "paper_table1.json")
    if any(len(row.accuracies) != len(table.bandwidths) for row in table.rows):
        raise _damaged(folder / "paper_table1.json", "a row has not one value a bandwidth")
    return table


def paper_table2(folder: Path = DATA_FOLDER) -> PaperTable2:
    """The paper's Table 2; raises InputError when the file is damaged."""
    return _read(PaperTable2, folder / "paper_table2.json")


def robustbench(folder: Path = DATA_FOLDER) -> Snapshot:
    """The RobustBench snapshot; raises InputError when it and its description disagree."""
    info = _read(SnapshotInfo, folder / "robustbench.json")
    path = folder / info.file
    content = _content(path)
    if storage.sha256(content) != info.sha256:
        raise _damaged(path, "its SHA-256 is not the one in robustbench.json")
    try:
        rows = csv.DictReader(io.StringIO(content.decode()))
        entries = tuple(RobustBenchEntry.model_validate(row) for row in rows)
    except (ValidationError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error).replace("\n", " ")) from None
    if len(entries) != info.entries:
        raise _damaged(path, f"{len(entries)} entries instead of {info.entries}")
    return Snapshot(info=info, entries=entries)


def _read(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate(json.loads(_content(path)))
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error).replace("\n", " ")) from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or "cannot be read") from None


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"damaged data file {path}: {what}; restore it with `git checkout -- {path}`")
