"""The typed rows of a leaderboard: every format is printed from these and from nothing else.

Accuracies and differences are percent and percentage points, rounded once to two decimals, so that
no two formats can disagree; `correct` and `n` beside them are exact.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from frbench.attacks.spec import AttackSpec, Norm
from frbench.audit import Audit
from frbench.evaluation.cells import ModelRecord
from frbench.leaderboard.statistics import RankRange
from frbench.published import PaperTable2, RobustBenchEntry, SnapshotInfo

FORMAT = 1


class Part(BaseModel):
    """What is read and printed but never changed; `model` is a word of ours, not pydantic's."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class CellRef(Part):
    """Where a number came from: a cell, of which the table may use only a part."""

    key: str
    attack: str
    start: int
    stop: int
    seed: int
    batch: int
    seconds: float
    updated: str
    versions: dict[str, str]
    provenance: dict[str, object]


class Score(Part):
    """One accuracy with all that it takes to trust it."""

    accuracy: float = Field(description="percent; the mean when there are several seeds")
    at_most: bool = Field(default=False, description="an upper bound: the attack is unfinished")
    low: float | None = Field(default=None, description="Wilson's 95 % interval of one seed")
    high: float | None = None
    n: int
    correct: int | None = Field(default=None, description="images, of one seed")
    seeds: int = Field(default=1, description="behind the number; a row may have more")
    sd: float | None = Field(default=None, description="sample standard deviation over seeds")
    stages: tuple[str, ...] = ()
    stages_done: tuple[str, ...] = ()
    seconds_left: float | None = Field(default=None, description="until it is no bound, about")
    cells: tuple[CellRef, ...] = ()


class Difference(Part):
    """Percentage points, a minus b."""

    points: float
    low: float | None = None
    high: float | None = None
    at_most: bool = False
    p_value: float | None = None


class Neighbour(Part):
    """A published entry beside a measured row."""

    entry: RobustBenchEntry
    same_eps: bool
    robust: float | None = Field(description="percent, the best known evaluation")
    difference: Difference | None = Field(description="ours minus theirs, with our interval")


class Neighbours(Part):
    """The entries of the same task, radius, network and data class, or why there are none."""

    entries: tuple[Neighbour, ...] = ()
    other_eps: tuple[Neighbour, ...] = Field(default=(), description="same but for the radius")
    own_claim: Neighbour | None = Field(default=None, description="the claim of this very model")
    reason: str = ""


class Row(Part):
    """One model, or one recipe over several seeds, on the images of its table."""

    label: str
    model: ModelRecord = Field(description="of the first seed")
    seeds: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()
    scores: dict[str, Score] = Field(description="by column key")
    worst_case: Score | None = Field(description="right under every attack of the row")
    rank: RankRange | None = None
    overfitting_gap: Difference | None = Field(
        default=None, description="best minus last checkpoint under PGD-20"
    )
    cost: dict[str, float] = Field(default_factory=dict, description="means over seeds")
    warnings: tuple[str, ...] = ()
    neighbours: Neighbours = Neighbours()
    audit: Audit | None = Field(
        default=None, description="of these weights; the worst one of several seeds"
    )
    members: tuple[Row, ...] = Field(default=(), description="one row a seed")

    @property
    def marked_label(self) -> str:
        """With a dagger when published numbers are out of reach."""
        return self.label if self.model.comparable else f"{self.label} †"


class Column(Part):
    """One attack with one setting."""

    key: str
    label: str
    settings: str
    attack: AttackSpec


class Table(Part):
    """Rows that may be compared: one dataset, threat model, range of images and precision."""

    title: str
    dataset: str
    split: str
    data_sha256: str
    start: int
    stop: int
    n: int
    norm: Norm | None = Field(description="none in a table of clean accuracies alone")
    eps: float
    threat_model: str
    precision: str
    columns: tuple[Column, ...]
    ranked_by: str | None = Field(description="key of the column behind the rank ranges")
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class Leaderboard(Part):
    """Everything that a format prints."""

    format: int = FORMAT
    confidence: float
    measured: str = Field(description="when the newest cell was written, ISO 8601")
    tables: tuple[Table, ...]
    paper: PaperTable2 | None = Field(description="where a table has the paper's task")
    robustbench: SnapshotInfo
