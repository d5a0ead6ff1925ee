"""What a reader must know beside the numbers, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from frbench.durations import duration
from frbench.leaderboard import statistics
from frbench.leaderboard.rows import Column, Row
from frbench.leaderboard.selection import CLEAN, Single, full_name

INCOMPARABLE = "not comparable with published numbers"


def warnings_of(single: Single, columns: Sequence[Column]) -> list[str]:
    """What the attack libraries said, and attacks out of order."""
    cells = {c.key: single.picked[c.key].cell for c in columns if c.key in single.picked}
    verdicts = {c.attack.name: c.final_verdicts() for c in cells.values() if c.complete}
    flags = [f"{cell.attack.name}: {flag}" for cell in cells.values() for flag in cell.flags]
    return statistics.order_warnings(verdicts) + flags


def notes_of(
    rows: Sequence[Row], singles: Sequence[Single], columns: Sequence[Column]
) -> list[str]:
    """What a reader must know before comparing two rows."""
    notes = [f"{c.label}: {c.settings}" for c in columns if c.attack.name != CLEAN]
    notes += _daggers([row for row in rows if not row.model.comparable])
    for row in rows:
        for c in columns:
            score = row.scores.get(c.key)
            if score is not None and score.at_most:
                done = ", ".join(score.stages_done) or "no stage"
                left = score.seconds_left
                rest = "" if left is None else f"; about {duration(left)} left"
                notes.append(
                    f"{row.label}: {c.label} is an upper bound, complete so far: {done}{rest}"
                )
    for row in rows:
        notes += _missing_seeds(row, columns)
    if len({frozenset(row.scores) for row in rows}) > 1:
        notes.append("Worst case is over each row's own attacks, which differ here")
    notes += [
        f"{full_name(s.record)}: the same weights as {', '.join(s.aliases)}"
        for s in singles
        if s.aliases
    ]
    return notes + _provenance_notes(singles, columns)


def _daggers(rows: Sequence[Row]) -> list[str]:
    """Why rows are not comparable: each reason once, with the rows that have it."""
    labels: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        labels[": ".join(filter(None, (INCOMPARABLE, row.model.note)))].append(row.label)
    if len(labels) == 1 and len(rows) > 1:
        return [f"† all such rows: {reason}" for reason in labels]
    return [f"† {', '.join(own)}: {reason}" for reason, own in labels.items()]


def _missing_seeds(row: Row, columns: Sequence[Column]) -> list[str]:
    """Columns in which a row of several seeds is the mean of fewer."""
    notes = []
    for column in columns:
        seeds = [str(m.model.seed) for m in row.members if column.key in m.scores]
        if 0 < len(seeds) < len(row.members):
            share = f"{len(seeds)} of {len(row.members)} seeds ({', '.join(seeds)})"
            notes.append(f"{row.label}: {column.label} is of {share}")
    if notes and row.worst_case is None:
        notes.append(f"{row.label}: no worst case before its seeds have the same attacks")
    return notes


def _provenance_notes(singles: Sequence[Single], columns: Sequence[Column]) -> list[str]:
    """Batch sizes, seeds and library versions that differ within a column."""
    notes = []
    for column in columns:
        cells = [s.picked[column.key].cell for s in singles if column.key in s.picked]
        for what, values in (
            ("images a batch", {cell.batch for cell in cells}),
            ("attack seeds", {cell.seed for cell in cells}),
        ):
            if len(values) > 1 and column.attack.draws:
                notes.append(f"{column.label}: rows differ in {what}: {sorted(values)}")
    versions: dict[str, set[str]] = defaultdict(set)
    for single in singles:
        for picked in single.picked.values():
            for library, version in picked.cell.versions.items():
                versions[library].add(version)
    return notes + [
        f"cells were computed with {library} {' and '.join(sorted(found))}"
        for library, found in versions.items()
        if len(found) > 1
    ]
