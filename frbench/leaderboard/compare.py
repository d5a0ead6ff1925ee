"""Two rows image by image: which images changed sides under each attack, and is that noise?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

from pydantic import Field

from frbench.engine.mechanisms import AVERAGES
from frbench.errors import InputError
from frbench.evaluation.cells import BROKEN, ROBUST, Cell, ModelRecord
from frbench.leaderboard import statistics
from frbench.leaderboard.columns import columns_of
from frbench.leaderboard.labels import labels_of
from frbench.leaderboard.rows import Column, Difference, Part
from frbench.leaderboard.scores import paired_difference, percent
from frbench.leaderboard.selection import (
    Task,
    cut,
    full_name,
    load_cells,
    pick,
    recipe_of,
    spec_id,
    task_of,
)
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
    """One attack that both rows have finished; accuracies are percent on `n_a` and `n_b` images.

    Of rows over seeds they are means, each on at least so many images, and interval and p-value are
    the widest and the largest of any seed of one with any seed of the other, as in a table's ranks.
    """

    column: Column
    dataset: str
    precision: str
    accuracy_a: float
    accuracy_b: float
    n_a: int
    n_b: int
    difference: Difference
    test: str
    pairs: int = Field(default=1, description="of seeds")
    paired: PairedImages | None = Field(description="none for rows over seeds")


class RowComparison(Part):
    """Everything that two rows share; `a` and `b` are the models of their first seeds."""

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
    digests_a, digests_b = find_seeds(cells, a), find_seeds(cells, b)
    if digests_a & digests_b:
        raise InputError(f"'{a}' and '{b}' are the same weights: name two different rows")
    return compare_rows(
        [c for c in cells if c.model.digest in digests_a],
        [c for c in cells if c.model.digest in digests_b],
    )


def find_row(cells: Sequence[Cell], text: str) -> str:
    """The digest of the one model that a user names, as in `find_seeds`.

    Raises InputError for a row over several seeds.
    """
    found = find_seeds(cells, text)
    if len(found) > 1:
        raise _several(cells, text, found)
    return found.pop()


def find_seeds(cells: Sequence[Cell], text: str) -> set[str]:
    """The digests of the models behind the row that a user names: one a seed.

    A bare name is what `evaluate` takes for it: the best weights rather than the last, and of a run
    its average where it has one; `@best` are the plain weights. A run's folder is its name.

    Raises InputError if there is no such row, or several.
    """
    names: dict[str, set[str]] = {}
    text = text.rstrip("/")
    for cell in cells:
        for name in _names(cell.model):
            names.setdefault(name, set()).add(cell.model.digest)
    text = _without_folder(text, names)
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
    models = {c.model.digest: c.model for c in cells if c.model.digest in found}.values()
    of_one_row = len({(recipe_of(model), model.weights) for model in models}) == 1
    if of_one_row and len({model.seed for model in models}) == len(models):
        return found
    raise _several(cells, text, found)


def _without_folder(text: str, names: Iterable[str]) -> str:
    """A run's name where its folder was typed, as training prints it; else the text."""
    bare, known = Path(text).name, {name.partition("@")[0] for name in names}
    typed, inside = text.partition("@")[0], bare.partition("@")[0]
    return bare if typed not in known and inside in known else text


def _several(cells: Sequence[Cell], text: str, found: set[str]) -> InputError:
    models = {c.model.digest: c.model for c in cells if c.model.digest in found}.values()
    choices = [
        f"{m.digest[:8]} ({full_name(m)}, {m.preset or 'no preset'}, seed {m.seed})"
        for m in sorted(models, key=lambda m: (full_name(m), m.preset or "", m.seed or 0, m.digest))
    ]
    return InputError(f"'{text}' names {len(found)} rows: choose one of {'; '.join(choices)}")


def _labelled(cells: Sequence[Cell], text: str) -> set[str]:
    """Digests of the rows that a table labels so, which tells apart what names alone do not."""
    tables = [t for each_seed in (False, True) for t in build(cells, each_seed=each_seed).tables]
    rows = [row for table in tables for row in table.rows if row.label == text]
    return {member.model.digest for row in rows for member in row.members or (row,)}


def _names(model: ModelRecord) -> set[str]:
    """Every way to write a row's name."""
    names = {model.name, model.target, full_name(model), model.explicit_target}
    if model.seed is not None:
        names |= {f"{full_name(model)} seed {model.seed}"}
    return names


def compare_rows(a: Sequence[Cell], b: Sequence[Cell]) -> RowComparison:
    """Compare two rows attack by attack, paired wherever they saw the same images.

    Args:
        a: the cells of one row: of one model, or of one a seed.
        b: the cells of the other.
    """
    label_a, label_b = _labels(a, b)
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
                skipped.append(f"{what}: {label_b if own_a else label_a} has no such cell")
                continue
            seeds = product(_by_seed(own_a), _by_seed(own_b))
            found = [pair for one, other in seeds if (pair := _matched(one, other))]
            if not found:
                skipped.append(f"{what}: not finished for both")
                continue
            matched = _on_same_images(found)
            compared.append(_joined([_compared(column, *pair) for pair in matched], matched))
            skipped += [f"{what}: not finished for {who}" for who in _left_out(a, b, found)]
    if not compared:
        raise InputError(f"nothing to compare: {'; '.join(skipped)}")
    return RowComparison(
        label_a=label_a,
        label_b=label_b,
        a=a[0].model,
        b=b[0].model,
        attacks=tuple(compared),
        skipped=tuple(skipped),
    )


def _labels(*rows: Sequence[Cell]) -> list[str]:
    """What the rows are called, and over which seeds."""
    models = [[own[0].model for own in _by_seed(cells)] for cells in rows]
    names = zip(labels_of(models), models, strict=True)
    return [name + (_over_seeds(group) if len(group) > 1 else "") for name, group in names]


def _over_seeds(models: Sequence[ModelRecord]) -> str:
    return f" over seeds {', '.join(map(str, sorted(m.seed or 0 for m in models)))}"


def _by_seed(cells: Sequence[Cell]) -> list[list[Cell]]:
    digests = dict.fromkeys(cell.model.digest for cell in cells)
    return [[c for c in cells if c.model.digest == digest] for digest in digests]


def _cells_of(cells: Sequence[Cell], task: Task, column: Column) -> list[Cell]:
    wanted = spec_id(column.attack)
    return [c for c in cells if task_of(c) == task and spec_id(c.attack) == wanted]


def _matched(a: Sequence[Cell], b: Sequence[Cell]) -> tuple[Cell, Cell] | None:
    """The largest range that complete cells of both cover; else all that each has seen."""
    ranges = {
        (max(one.data.start, other.data.start), min(one.data.stop, other.data.stop))
        for one in a
        for other in b
    }
    for start, stop in sorted(ranges, key=lambda r: (r[0] - r[1], r)):
        if start < stop:
            left, right = pick(a, start, stop), pick(b, start, stop)
            if left and right and left.cell.complete and right.cell.complete:
                return left.cell, right.cell
    if any(start < stop for start, stop in ranges):
        return None
    complete = [[c for c in cells if c.complete] for cells in (a, b)]
    if not all(complete):
        return None
    left_whole, right_whole = (max(cells, key=lambda c: c.data.n) for cells in complete)
    return left_whole, right_whole


def _on_same_images(pairs: Sequence[tuple[Cell, Cell]]) -> list[tuple[Cell, Cell]]:
    """All pairs cut to the images that every cell has, as in a table; as they are without any."""
    cells = [cell for pair in pairs for cell in pair]
    start, stop = max(c.data.start for c in cells), min(c.data.stop for c in cells)
    if start >= stop:
        return list(pairs)
    return [(cut(one, start, stop), cut(other, start, stop)) for one, other in pairs]


def _left_out(
    a: Sequence[Cell], b: Sequence[Cell], pairs: Sequence[tuple[Cell, Cell]]
) -> list[str]:
    """The seeds of both rows that no pair has."""
    compared = {cell.model.digest for pair in pairs for cell in pair}
    models = {c.model.digest: c.model for c in [*a, *b] if c.model.digest not in compared}
    return [f"{full_name(model)} seed {model.seed}" for model in models.values()]


def _compared(column: Column, a: Cell, b: Cell) -> AttackComparison:
    """Image by image if both saw the same ones."""
    images = None
    if a.data == b.data:
        counts = statistics.pair_counts(a.final_verdicts(), b.final_verdicts())
        difference, test = paired_difference(counts), MCNEMAR
        images = _paired_images(a, b, counts)
    else:
        difference, test = _unpaired_difference(a, b), FISHER
    return AttackComparison(
        column=column,
        dataset=a.data.dataset,
        precision=a.precision,
        accuracy_a=percent(a.accuracy),
        accuracy_b=percent(b.accuracy),
        n_a=a.data.n,
        n_b=b.data.n,
        difference=difference,
        test=test,
        paired=images,
    )


def _paired_images(a: Cell, b: Cell, counts: statistics.PairCounts) -> PairedImages:
    pairs = list(enumerate(zip(a.final_verdicts(), b.final_verdicts(), strict=True), a.data.start))
    return PairedImages(
        start=a.data.start,
        stop=a.data.stop,
        both=counts.both,
        only_a=counts.only_a,
        only_b=counts.only_b,
        neither=counts.neither,
        images_only_a=tuple(i for i, pair in pairs if pair == (ROBUST, BROKEN)),
        images_only_b=tuple(i for i, pair in pairs if pair == (BROKEN, ROBUST)),
    )


def _unpaired_difference(a: Cell, b: Cell) -> Difference:
    counts = (a.correct(), a.data.n, b.correct(), b.data.n)
    low, high = statistics.unpaired_interval(*counts)
    return Difference(
        points=percent(a.accuracy - b.accuracy),
        low=percent(low),
        high=percent(high),
        p_value=statistics.two_proportions(*counts),
    )


def _joined(
    found: Sequence[AttackComparison], matched: Sequence[tuple[Cell, Cell]]
) -> AttackComparison:
    """All pairs of seeds as one; where they disagree on who is ahead, the p-value is 1."""
    if len(found) == 1:
        return found[0]
    a, b = (fmean(pair[side].accuracy for pair in matched) for side in (0, 1))
    ahead = {one.correct() * other.data.n > other.correct() * one.data.n for one, other in matched}
    each = [comparison.difference for comparison in found]
    p_value = max(d.p_value for d in each if d.p_value is not None)
    difference = Difference(
        points=percent(a - b),
        low=min(d.low for d in each if d.low is not None),
        high=max(d.high for d in each if d.high is not None),
        p_value=p_value if len(ahead) == 1 else 1.0,
    )
    return found[0].model_copy(
        update={
            "accuracy_a": percent(a),
            "accuracy_b": percent(b),
            "n_a": min(one.data.n for one, _ in matched),
            "n_b": min(other.data.n for _, other in matched),
            "difference": difference,
            "pairs": len(found),
            "paired": None,
        }
    )
