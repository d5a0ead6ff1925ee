"""What rows are called: each differently, so that nobody takes one for another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from frbench.evaluation.cells import ModelRecord
from frbench.leaderboard.selection import full_name


def labels_of(groups: Sequence[Sequence[ModelRecord]]) -> list[str]:
    """A different name for every row, with no more in it than it takes to tell them apart.

    Args:
        groups: for each row its models, several where it is over seeds.
    """
    firsts = [group[0] for group in groups]
    labels = [full_name(record) for record in firsts]
    labels = _told_apart(labels, [record.preset for record in firsts])
    labels = _told_apart(labels, [record.protocol for record in firsts])
    labels = _told_apart(labels, [_changes(record) for record in firsts])
    labels = _told_apart(labels, [f"engine {r.engine}" if r.engine else None for r in firsts])
    labels = _told_apart(labels, [record.training_precision for record in firsts])
    labels = _told_apart(labels, [f"settings {r.settings}" if r.settings else None for r in firsts])
    seeds = [
        f"seed {first.seed}" if len(group) == 1 and first.seed is not None else None
        for first, group in zip(firsts, groups, strict=True)
    ]
    labels = _told_apart(labels, seeds)
    seen = Counter(labels)
    return [
        f"{label} {first.digest[:6]}" if seen[label] > 1 else label
        for label, first in zip(labels, firsts, strict=True)
    ]


def _told_apart(labels: Sequence[str], values: Sequence[str | None]) -> list[str]:
    """The labels, with their values behind those that are equal but have several values."""
    known: dict[str, set[str | None]] = defaultdict(set)
    for label, value in zip(labels, values, strict=True):
        known[label].add(value)
    return [
        f"{label} {value}" if len(known[label]) > 1 and value is not None else label
        for label, value in zip(labels, values, strict=True)
    ]


def _changes(record: ModelRecord) -> str | None:
    """The settings that a run's note names as changed, such as `epochs=1, lr=0.9`."""
    return ", ".join(part for part in record.note.split("; ") if "=" in part) or None
