"""Two rows image by image: which images changed sides under each attack, and is that noise?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from frbench.engine.mechanisms import AVERAGES
from frbench.errors import InputError
from frbench.evaluation.cells import BROKEN, ROBUST, Cell, ModelRecord
from frbench.leaderboard import statistics
from frbench.leaderboard.columns import columns_of
from frbench.leaderboard.rows import Column, Difference, Part
from frbench.leaderboard.scores import paired_difference, percent
from frbench.leaderboard.selection import Task, full_name, load_cells, pick, spec_id, task_of
from frbench.leaderboard.table import build
from frbench.names import unknown

MCNEMAR = "McNemar's exact test on the same images"
FISHER = "Fisher's exact test, as no image was seen by both"


class PairedImages(Part):
    """The images that both rows have seen, by who is right on them."""

    start: int
    stop: int
    both: int
    only_a: int
    only_b: int
    neither: int
    images_only_a: tuple[int, ...] = Field(description="indices in the split, a right and b wrong")
    images_only_b: tuple[int, ...]


class AttackComparison(Part):
    """One attack that both rows have finished; accuracies are percent on `n_a` and `n_b` images."""

    column: Column
    dataset: str
    precision: str
    accuracy_a: float
    accuracy_b: float
    n_a: int
    n_b: int
    difference: Difference
    test: str
    paired: PairedImages | None


class RowComparison(Part):
    """Everything that two rows share."""

    label_a: str
    label_b: str
    a: ModelRecord
    b: ModelRecord
    attacks: tuple[AttackComparison, ...]
    skipped: tuple[str, ...] = Field(description="what could not be compared, and why")


def compare(root: Path, a: str, b: str) -> RowComparison:
    """Compare two rows of a results folder from their stored verdicts.

    Args:
        root: folder that holds `cells/`.
        a: a row's name as the table shows it, its target, or the first digits of its digest.
        b: the other.

    Raises:
        InputError: no such row, several such rows, the same row twice, nothing that they share.
    """
    cells = load_cells(root)
    digest_a, digest_b = find_row(cells, a), find_row(cells, b)
    if digest_a == digest_b:
        raise InputError(f"'{a}' and '{b}' are the same weights: name two different rows")
    return compare_rows(
        [c for c in cells if c.model.digest == digest_a],
        [c for c in cells if c.model.digest == digest_b],
    )


def find_row(cells: Sequence[Cell], text: str) -> str:
    """The digest of the model that a user names; raises InputError if there is not just one.

    A bare name is what `evaluate` takes for it: the best weights rather than the last, and of a run
    its average where it has one; `@best` are the plain weights.
    """
    names: dict[str, set[str]] = {}
    text = text.rstrip("/")
    for cell in cells:
        for name in _names(cell.model):
            names.setdefault(name, set()).add(cell.model.digest)
    averaged = {f"{text}@{kind}-best" for kind in AVERAGES}
    found = (
        {cell.model.digest for cell in cells if cell.model.target in averaged}
        or _labelled(cells, text)
        or names.get(text, set())
    )
    digits = (text.split() or [""])[-1].lstrip("#")  # a label's last word, or all there is
    if not found and len(digits) >= 6:
        found = {c.model.digest for c in cells if c.model.digest.startswith(digits)}
    if not found:
        raise unknown("row", text, names)
    best = found & {c.model.digest for c in cells if c.model.weights != "last"}
    found = best or found
    if len(found) > 1:
        choices = sorted(
            {
                f"{c.model.digest[:8]} ({full_name(c.model)}, {c.model.preset or 'no preset'}, "
                f"seed {c.model.seed})"
                for c in cells
                if c.model.digest in found
            }
        )
        raise InputError(f"'{text}' names {len(found)} rows: choose one of {'; '.join(choices)}")
    return found.pop()


def _labelled(cells: Sequence[Cell], text: str) -> set[str]:
    """Digests of the rows that a table labels so, which tells apart what names alone do not."""
    tables = [t for each_seed in (False, True) for t in build(cells, each_seed=each_seed).tables]
    return {
        row.model.digest
        for table in tables
        for row in table.rows
        if row.label == text and not row.members
    }


def _names(model: ModelRecord) -> set[str]:
    """Every way to write a row's name."""
    names = {model.name, model.target, full_name(model), model.explicit_target}
    if model.seed is not None:
        names |= {f"{full_name(model)} seed {model.seed}"}
    return names


def compare_rows(a: Sequence[Cell], b: Sequence[Cell]) -> RowComparison:
    """Compare two models attack by attack, paired wherever they saw the same images.

    Args:
        a: the cells of one model.
        b: the cells of the other.
    """
    compared: list[AttackComparison] = []
    skipped: list[str] = []
    columns = columns_of({spec_id(c.attack): c.attack for c in [*a, *b]})
    for task in sorted({task_of(c) for c in [*a, *b]}):
        for column in columns:
            own_a, own_b = (_cells_of(cells, task, column) for cells in (a, b))
            if not own_a and not own_b:
                continue
            what = f"{column.label} ({task.dataset}, {task.precision})"
            if not own_a or not own_b:
                who = full_name((b if own_a else a)[0].model)
                skipped.append(f"{what}: {who} has no such cell")
                continue
            result = _compare_attack(column, own_a, own_b)
            if result is None:
                skipped.append(f"{what}: not finished for both")
            else:
                compared.append(result)
    if not compared:
        raise InputError(f"nothing to compare: {'; '.join(skipped)}")
    return RowComparison(
        label_a=full_name(a[0].model),
        label_b=full_name(b[0].model),
        a=a[0].model,
        b=b[0].model,
        attacks=tuple(compared),
        skipped=tuple(skipped),
    )


def _cells_of(cells: Sequence[Cell], task: Task, column: Column) -> list[Cell]:
    wanted = spec_id(column.attack)
    return [c for c in cells if task_of(c) == task and spec_id(c.attack) == wanted]


def _compare_attack(
    column: Column, a: Sequence[Cell], b: Sequence[Cell]
) -> AttackComparison | None:
    """On the largest range that complete cells of both cover; else on all that each has seen."""
    ranges = {
        (max(one.data.start, other.data.start), min(one.data.stop, other.data.stop))
        for one in a
        for other in b
    }
    for start, stop in sorted(ranges, key=lambda r: (r[0] - r[1], r)):
        if start < stop:
            left, right = pick(a, start, stop), pick(b, start, stop)
            if left and right and left.cell.complete and right.cell.complete:
                return _paired(column, left.cell, right.cell)
    if any(start < stop for start, stop in ranges):
        return None
    complete = [[c for c in cells if c.complete] for cells in (a, b)]
    if not all(complete):
        return None
    return _unpaired(column, *(max(cells, key=lambda c: c.data.n) for cells in complete))


def _paired(column: Column, a: Cell, b: Cell) -> AttackComparison:
    left, right = a.final_verdicts(), b.final_verdicts()
    counts = statistics.pair_counts(left, right)
    pairs = list(enumerate(zip(left, right, strict=True), a.data.start))
    return AttackComparison(
        column=column,
        dataset=a.data.dataset,
        precision=a.precision,
        accuracy_a=percent(a.accuracy),
        accuracy_b=percent(b.accuracy),
        n_a=counts.n,
        n_b=counts.n,
        difference=paired_difference(counts),
        test=MCNEMAR,
        paired=PairedImages(
            start=a.data.start,
            stop=a.data.stop,
            both=counts.both,
            only_a=counts.only_a,
            only_b=counts.only_b,
            neither=counts.neither,
            images_only_a=tuple(i for i, pair in pairs if pair == (ROBUST, BROKEN)),
            images_only_b=tuple(i for i, pair in pairs if pair == (BROKEN, ROBUST)),
        ),
    )


def _unpaired(column: Column, a: Cell, b: Cell) -> AttackComparison:
    counts = (a.correct(), a.data.n, b.correct(), b.data.n)
    low, high = statistics.unpaired_interval(*counts)
    return AttackComparison(
        column=column,
        dataset=a.data.dataset,
        precision=a.precision,
        accuracy_a=percent(a.accuracy),
        accuracy_b=percent(b.accuracy),
        n_a=a.data.n,
        n_b=b.data.n,
        difference=Difference(
            points=percent(a.accuracy - b.accuracy),
            low=percent(low),
            high=percent(high),
            p_value=statistics.two_proportions(*counts),
        ),
        test=FISHER,
        paired=None,
    )
