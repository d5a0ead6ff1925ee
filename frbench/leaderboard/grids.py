"""The tables of a leaderboard as plain text cells, once for every format that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frbench.leaderboard import marks
from frbench.leaderboard.compare import MCNEMAR, AttackComparison, RowComparison
from frbench.leaderboard.rows import (
    Difference,
    Leaderboard,
    Neighbour,
    Neighbours,
    Row,
    Score,
    Table,
)

_FACTS = {
    "architecture": "Architecture",
    "preset": "Preset",
    "protocol": "Protocol",
    "training_precision": "Trained in",
}
_COSTS = {
    "train_seconds": "Train s",
    "forward_units": "Fwd/step",
    "images_per_second": "Images/s",
}
_SHOWN_IMAGES = 8
_OF_PAIRS = "p and interval of the seeds that say least, p 1 where they disagree on who is ahead"


@dataclass(frozen=True)
class Entry:
    """One cell: the number, and in smaller print what belongs to it."""

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Grid:
    """A titled table; the first `text_columns` columns hold words, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: int = 1
    inline: bool = False  # details stand on the same line even in a terminal


def number(value: float) -> str:
    """Two decimals, as every format prints percentages."""
    return f"{value:.2f}"


def cost_text(value: float) -> str:
    """Three digits, or all before the point: costs repeat to a few percent at best."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(value: float) -> str:
    """Two decimals with the sign, for differences."""
    return f"{value:+.2f}"


def score_entry(score: Score | None, seeds: int = 0) -> Entry:
    """`52.06` with its interval, `≤ 52.10` while unfinished, mean and ± over seeds.

    Args:
        seeds: of the row; a score of fewer says so.
    """
    if score is None:
        return Entry("-")
    text = ("≤ " if score.at_most else "") + number(score.accuracy)
    share = f"{score.seeds} of {seeds} seeds" if score.seeds < seeds else ""
    return Entry(text, ", ".join(filter(None, (_spread(score), share))))


def _spread(score: Score) -> str:
    if score.sd is not None:
        return f"± {number(score.sd)}"
    if score.low is None or score.high is None:
        return ""
    if score.at_most:
        return f"up to {number(score.high)}"
    return f"{number(score.low)}-{number(score.high)}"


def difference_entry(difference: Difference | None) -> Entry:
    """`+0.64` with its interval; `≤ -2.38` with the upper end alone, as the lower is unknown."""
    if difference is None:
        return Entry("-")
    text = ("≤ " if difference.at_most else "") + signed(difference.points)
    if difference.low is None or difference.high is None:
        return Entry(text)
    if difference.at_most:
        return Entry(text, f"up to {signed(difference.high)}")
    return Entry(text, f"{signed(difference.low)} to {signed(difference.high)}")


def leaderboard_grids(board: Leaderboard, *, nearest: int | None = None) -> list[Grid]:
    """Every section of a leaderboard, in reading order.

    Args:
        nearest: show only this many RobustBench entries a row, those with the nearest accuracy.
    """
    grids: list[Grid] = []
    for table in board.tables:
        grids += [accuracy_grid(table), model_grid(table)]
        grids += neighbour_grids(board, table, nearest)
    if board.paper is not None:
        grids.append(paper_grid(board))
    unmatched = unmatched_grid(board)
    return grids if unmatched is None else [*grids, unmatched]


def accuracy_grid(table: Table) -> Grid:
    """Accuracy in percent of each row under each attack; best checkpoints and last ones alike."""
    varying = _varying(table)
    attacked = table.norm is not None
    header = (
        *("Model", *(field.capitalize() for field in varying)),
        *(column.label for column in table.columns),
        *(["Worst case"] if attacked else []),
        *(["Rank"] if table.ranked_by else []),
    )
    rows = tuple(
        (
            row_label(row, marks.mark(row)),
            *(Entry(str(getattr(row.model, field) or "-")) for field in varying),
            *(score_entry(row.scores.get(c.key), len(row.members)) for c in table.columns),
            *([score_entry(row.worst_case)] if attacked else []),
            *([rank_entry(row)] if table.ranked_by else []),
        )
        for row in table.rows
    )
    notes = list(table.notes)
    if any(s.sd is not None for row in table.rows for s in row.scores.values()):
        notes.append("± standard deviation over seeds")
    if table.ranked_by:
        by = next(c.label for c in table.columns if c.key == table.ranked_by)
        notes.append(
            f"Rank under {by}: rows that McNemar's test cannot tell apart, at 5 % for all pairs "
            "together, share a range"
        )
    notes += marks.legend(table.rows)
    notes += [f"warning: {row.label}: {warning}" for row in table.rows for warning in row.warnings]
    return Grid(
        f"Measured: {table.title}, percent correct with 95 % intervals",
        header,
        rows,
        tuple(notes),
        text_columns=1 + len(varying),
    )


def row_label(row: Row, mark: str = "") -> Entry:
    """With a mark, the number of seeds, and a dagger when published numbers are out of reach."""
    seeds = f"{len(row.members)} seeds" if row.members else ""
    return Entry(row.marked_label + mark, seeds)


def _varying(table: Table) -> list[str]:
    """Preset and protocol get a column where the rows differ in them."""
    return [
        field
        for field in ("preset", "protocol")
        if len({getattr(row.model, field) for row in table.rows}) > 1
    ]


def rank_entry(row: Row) -> Entry:
    """The rank, or the range of ranks that the data leave open."""
    return Entry("-" if row.rank is None else str(row.rank))


def model_grid(table: Table) -> Grid:
    """What was trained, how long, and how far the last checkpoint fell below the best."""
    named = {
        field: [str(getattr(row.model, field) or "-") for row in table.rows] for field in _FACTS
    }
    shared = {
        field: values[0]
        for field, values in named.items()
        if len(set(values)) == 1 and (len(values) > 1 or field == "training_precision")
    }
    shown = [field for field in named if field not in shared]
    costs = [key for key in _COSTS if any(key in row.cost for row in table.rows)]
    gaps = any(row.overfitting_gap for row in table.rows)
    header = (
        *("Model", *(_FACTS[field] for field in shown), "Params", "Epoch", "Seed"),
        *(["Overfitting"] if gaps else []),
        *(_COSTS[key] for key in costs),
    )
    rows = tuple(
        (
            row_label(row),
            *(Entry(named[field][i]) for field in shown),
            Entry(f"{row.model.parameters:,}"),
            Entry(_range_text(row.epochs)),
            Entry(_range_text(row.seeds)),
            *([difference_entry(row.overfitting_gap)] if gaps else []),
            *(Entry(cost_text(row.cost[key]) if key in row.cost else "-") for key in costs),
        )
        for i, row in enumerate(table.rows)
    )
    notes = [
        f"{field.replace('_', ' ')} of every row: {value}"
        for field, value in shared.items()
        if value != "-"
    ]
    if gaps:
        notes.append("Overfitting: best minus last checkpoint under PGD-20, percentage points")
    title = f"Models: {table.title}"
    return Grid(title, header, rows, tuple(notes), text_columns=1 + len(shown))


def _range_text(values: Sequence[int]) -> str:
    if not values:
        return "-"
    return str(values[0]) if len(values) == 1 else f"{min(values)}-{max(values)}"


def paper_grid(board: Leaderboard) -> Grid:
    """The paper's Table 2, as printed there."""
    paper = board.paper
    assert paper is not None
    rows = tuple(
        (
            Entry(row.method),
            Entry(row.trained_by),
            *(Entry(number(value)) for value in row.accuracies.values()),
        )
        for row in paper.rows
    )
    header = ("Method", "Trained by", "Clean", "FGSM", "PGD-20", "C&W", "AA")
    return Grid(f"Published: {paper.caption}", header, rows, paper.remarks, text_columns=2)


def neighbour_grids(board: Leaderboard, table: Table, nearest: int | None) -> list[Grid]:
    """The RobustBench entries beside each row that has AutoAttack; none when there are none."""
    lines: list[tuple[Entry, ...]] = []
    tasks: dict[str, list[str]] = {}
    around = [(row, _beside(row.neighbours)) for row in table.rows]
    around = [(row, found) for row, found in around if found]
    for row, found in around:
        kept = found if nearest is None else _nearest(found, nearest if len(around) == 1 else 2)
        count = "" if len(kept) == len(found) else f", the nearest {len(kept)} of {len(found)}"
        task = f"{row.model.architecture}, data class '{row.model.extra_data}'{count}"
        tasks.setdefault(task, []).append(row.label)
        lines += [
            (Entry(row.label if i == 0 else ""), *_neighbour_row(n, row.neighbours.own_claim))
            for i, n in enumerate(kept)
        ]
    if not lines:
        return []
    notes = [f"{', '.join(labels)}: {task}" for task, labels in tasks.items()]
    notes.append(f"theirs on their full test set, ours on n = {table.n:,}; the interval is ours")
    if any("*" in line[2].text for line in lines):
        notes.append("* another radius than the measured one")
    title = (
        f"RobustBench ({board.robustbench.state}) beside: {table.dataset} {table.threat_model}, "
        "the same architecture and data class"
    )
    header = ("Model", "Entry", "eps", "Clean", "AA", "Ours - theirs")
    return [Grid(title, header, tuple(lines), tuple(notes), text_columns=3, inline=True)]


def unmatched_grid(board: Leaderboard) -> Grid | None:
    """The rows without a RobustBench neighbour, and why; None when every row has one."""
    reasons: dict[str, list[str]] = {}
    for table in board.tables:
        for row in table.rows:
            reason = _alone(row.neighbours)
            if reason:
                labels = reasons.setdefault(reason, [])
                labels += [] if row.label in labels else [row.label]
    if not reasons:
        return None
    alone = len(reasons) == 1
    notes = tuple(
        f"{'all such rows' if alone and len(labels) > 1 else ', '.join(labels)}: {reason}"
        for reason, labels in reasons.items()
    )
    title = f"RobustBench ({board.robustbench.state}): rows without a neighbour"
    return Grid(title, (), (), notes)


def _alone(neighbours: Neighbours) -> str:
    """Why a row has no entry beside it; empty if it has."""
    if not neighbours.reason and published_beside(neighbours) and not _beside(neighbours):
        return "its entries are compared under AutoAttack, which was not run on it: --attacks aa"
    return neighbours.reason


def published_beside(neighbours: Neighbours) -> list[Neighbour]:
    """A row's own claim first, then the entries."""
    own = neighbours.own_claim
    others = [*neighbours.entries, *neighbours.other_eps]
    return [*([own] if own else []), *(n for n in others if not own or n.entry != own.entry)]


def _beside(neighbours: Neighbours) -> list[Neighbour]:
    """Those that a table shows; without a difference they say nothing."""
    return [n for n in published_beside(neighbours) if n.difference is not None]


def _nearest(found: Sequence[Neighbour], count: int) -> list[Neighbour]:
    """The `count` entries with the same radius and the nearest accuracy, in their old order."""
    by_distance = sorted(
        found,
        key=lambda n: (not n.same_eps, abs(n.difference.points) if n.difference else 0.0),
    )
    return [n for n in found if n in by_distance[:count]]


def _neighbour_row(neighbour: Neighbour, own: Neighbour | None) -> tuple[Entry, ...]:
    entry = neighbour.entry
    mark = " (its own claim)" if neighbour is own else ""
    return (
        Entry(entry.model_id + mark + (" (unreliable)" if entry.unreliable else "")),
        Entry(entry.eps + ("" if neighbour.same_eps else " *")),
        Entry("-" if entry.clean_acc is None else number(entry.clean_acc)),
        Entry("-" if neighbour.robust is None else number(neighbour.robust)),
        difference_entry(neighbour.difference),
    )


def comparison_grids(found: RowComparison) -> list[Grid]:
    """What `compare` prints: one line an attack, then the images that changed sides."""
    title = f"a = {found.label_a}, b = {found.label_b}: percent correct, difference a - b"
    header = (
        *("Attack", "a", "b", "a - b", "p", "n"),
        *("Both right", "Only a", "Only b", "Neither"),
    )
    tests = dict.fromkeys(
        attack.test if attack.pairs == 1 else f"{attack.test}; {_OF_PAIRS}"
        for attack in found.attacks
    )
    notes = [f"p by {test}" for test in tests]
    for attack in found.attacks:
        notes += _changed_sides(attack)
    notes += [f"not compared: {reason}" for reason in found.skipped]
    rows = tuple(_comparison_row(attack) for attack in found.attacks)
    return [Grid(title, header, rows, tuple(notes))]


def _comparison_row(attack: AttackComparison) -> tuple[Entry, ...]:
    pair = attack.paired
    counts = [pair.both, pair.only_a, pair.only_b, pair.neither] if pair else []
    p_value = attack.difference.p_value
    same = attack.n_a == attack.n_b and attack.test == MCNEMAR
    n = f"{attack.n_a:,}" if same else f"{attack.n_a:,} and {attack.n_b:,}"
    return (
        Entry(attack.column.label),
        Entry(number(attack.accuracy_a)),
        Entry(number(attack.accuracy_b)),
        difference_entry(attack.difference),
        Entry("-" if p_value is None else f"{p_value:.2g}"),
        Entry(n),
        *([Entry(f"{count:,}") for count in counts] or [Entry("-")] * 4),
    )


def _changed_sides(attack: AttackComparison) -> list[str]:
    if attack.paired is None:
        return []
    lines = []
    for who, images in (
        ("a", attack.paired.images_only_a),
        ("b", attack.paired.images_only_b),
    ):
        if images:
            first = ", ".join(map(str, images[:_SHOWN_IMAGES]))
            more = f", … ({len(images)} in all)" if len(images) > _SHOWN_IMAGES else ""
            lines.append(f"{attack.column.label}: only {who} is right on images {first}{more}")
    return lines
