"""The charts of the report. Each comes with its numbers as a table, for readers and for checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import dist, inf
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from frbench.engine.mechanisms import AVERAGES
from frbench.leaderboard.grids import Entry, Grid, cost_text, number, score_entry
from frbench.leaderboard.rows import Column, Score, Table
from frbench.published import PaperTable2
from frbench.report import svg
from frbench.report.sources import RunCurve

_WIDTH, _HEIGHT = 5.0, 3.9
_SMALL = 3.3, 2.7
_SPREAD = "its 95 % interval, or one standard deviation over seeds"
_PAPER, _ROBUSTBENCH = "the paper's Table 2", "RobustBench"
# Where the number of a point may stand, in points from its centre; the first free place is taken.
_PLACES = [(8, 4), (8, -9), (-13, 4), (-13, -9), (-3, 9), (-3, -15), (16, -2), (-22, -2)]


@dataclass(frozen=True)
class Chart:
    """A picture with its title, what it says in plain words, and the numbers behind it."""

    name: str
    title: str
    caption: str
    picture: Markup
    numbers: Grid


@dataclass(frozen=True)
class Point:
    """A row as a point: clean and robust accuracy in percent, with intervals where known."""

    key: str
    label: str
    source: str
    clean: float
    robust: float
    clean_score: Score | None = None
    robust_score: Score | None = None


def clean_robust(name: str, table: Table, paper: PaperTable2 | None) -> Chart | None:
    """Clean against robust accuracy with the Pareto front; None with fewer than two points.

    Args:
        name: of the chart, unique in the page.
        table: the measured rows; one that has not both accuracies is left out.
        paper: the published rows of the same task.
    """
    column = ranking_column(table)
    measured = [] if column is None else _measured(table, column)
    published = [] if column is None else _published(table, column, paper)
    if column is None or not measured or len(measured) + len(published) < 2:
        return None
    front = pareto_front(measured)
    with svg.figure(_WIDTH, _HEIGHT) as made:
        axes = made.subplots()
        axes.set(xlabel="clean accuracy (%)", ylabel=f"accuracy under {column.label} (%)")
        _draw_published(axes, published)
        _draw_front(axes, front)
        for point in measured:
            _draw_point(axes, name, point)
        outside = _frame(axes, measured, published)
        _number_points(axes, [(p.clean, p.robust, p.key) for p in measured])
        axes.legend(loc="best")
        titles = {f"{name}-row-{p.key}": _hint(p, column) for p in measured}
        titles |= {f"pub-{i}": _hint(p, column) for i, p in enumerate(published)}
        title = f"Clean against robust accuracy, {column.label}"
        picture = svg.inline(made, name, f"{title}; the numbers are in the table below", titles)
    best = ", ".join(p.label for p in front)
    caption = (
        f"Every numbered point is a row of the table above, n = {table.n:,}, with {_SPREAD}; up "
        f"and to the right is better. On the Pareto front no other measured row is better in both: "
        f"{best}."
    )
    if published:
        caption += " Published points were measured by others, on all test images."
        if any(not row.model.comparable for row in table.rows):
            caption += " Rows with † are not comparable with them."
    if outside:
        caption += f" {outside} published points lie outside of the frame; the table has them."
    return Chart(name, title, caption, picture, _point_grid(measured, published, column))


def ranking_column(table: Table) -> Column | None:
    """The attack that the table is ranked by, else its strongest; None without attacks."""
    attacked = [c for c in table.columns if c.attack.eps > 0]
    ranked = [c for c in attacked if c.key == table.ranked_by]
    return next(iter(ranked or attacked[-1:]), None)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in one accuracy and equals in the other, by clean accuracy."""
    front = [
        p
        for p in points
        if not any(
            min(q.clean - p.clean, q.robust - p.robust) >= 0 and _place(q) != _place(p)
            for q in points
        )
    ]
    return sorted(front, key=lambda p: (p.clean, -p.robust))


def _place(point: Point) -> tuple[float, float]:
    return point.clean, point.robust


def _measured(table: Table, column: Column) -> list[Point]:
    points = []
    for place, row in enumerate(table.rows, start=1):
        clean, robust = row.scores.get("clean"), row.scores.get(column.key)
        if clean and robust:
            points.append(
                Point(
                    key=str(place),
                    label=row.marked_label,
                    source="measured",
                    clean=clean.accuracy,
                    robust=robust.accuracy,
                    clean_score=clean,
                    robust_score=robust,
                )
            )
    return points


def _published(table: Table, column: Column, paper: PaperTable2 | None) -> list[Point]:
    """The paper's rows under the same attack, and the neighbours of the table where it is AA.

    None where no row may be compared with them: they would only squeeze the rows into a corner.
    """
    points: list[Point] = []
    if not any(row.model.comparable for row in table.rows):
        return points
    if paper is not None:
        points += [
            Point("", row.method, _PAPER, row.clean, row.accuracies[column.attack.name])
            for row in paper.rows
            if column.attack.name in row.accuracies
        ]
    if column.attack.is_autoattack:
        beside = [n for row in table.rows for n in row.neighbours.entries]
        entries = {n.entry.model_id: n.entry for n in beside}
        points += [
            Point("", e.model_id, _ROBUSTBENCH, e.clean_acc, e.robust_acc)
            for e in entries.values()
            if e.clean_acc is not None and e.robust_acc is not None
        ]
    return points


def _draw_published(axes: Any, points: Sequence[Point]) -> None:
    for source, marker in ((_PAPER, "x"), (_ROBUSTBENCH, "+")):
        own = [(i, p) for i, p in enumerate(points) if p.source == source]
        for place, (i, point) in enumerate(own):
            (line,) = axes.plot(
                point.clean,
                point.robust,
                marker,
                color=svg.SOFT,
                markersize=6,
                label=source if place == 0 else None,
            )
            line.set_gid(f"pub-{i}")


def _frame(axes: Any, measured: Sequence[Point], published: Sequence[Point]) -> int:
    """Frame the measured rows and the paper's; returns how many published points are outside."""
    inside = [*measured, *(p for p in published if p.source == _PAPER)]
    outside = set()
    for name, field in (("x", "clean"), ("y", "robust")):
        values = [getattr(p, field) for p in inside]
        scores = [s for p in measured if (s := getattr(p, f"{field}_score"))]
        values += [end for s in scores for end in _ends(s) or ()]
        margin = max(1.0, 0.12 * (max(values) - min(values)))
        low, high = min(values) - margin, max(values) + margin
        getattr(axes, f"set_{name}lim")(low, high)
        outside |= {i for i, p in enumerate(published) if not low <= getattr(p, field) <= high}
    return len(outside)


def _draw_front(axes: Any, front: Sequence[Point]) -> None:
    """A staircase; a front of one place has no line, and the legend none to explain."""
    if len({_place(p) for p in front}) < 2:
        return
    axes.step(
        [p.clean for p in front],
        [p.robust for p in front],
        where="pre",
        color=svg.SERIES[1],
        linewidth=1.1,
        linestyle="--",
        label="Pareto front",
    )


def _draw_point(axes: Any, name: str, point: Point) -> None:
    """A filled marker with thin lines for its two intervals."""
    for score, along in ((point.clean_score, "x"), (point.robust_score, "y")):
        ends = _ends(score)
        if ends is None:
            continue
        xs, ys = (ends, [point.robust] * 2) if along == "x" else ([point.clean] * 2, ends)
        axes.plot(xs, ys, color=svg.SERIES[0], linewidth=0.7, alpha=0.45)
    first = point.key == "1"
    label = "measured" if first else None
    (line,) = axes.plot(
        point.clean, point.robust, "o", color=svg.SERIES[0], markersize=6, label=label
    )
    line.set_gid(f"{name}-row-{point.key}")


def _ends(score: Score | None) -> list[float] | None:
    """Where the thin lines end: the interval of one seed, one standard deviation of several."""
    if score is None:
        return None
    if score.sd is not None:
        return [score.accuracy - score.sd, score.accuracy + score.sd]
    return None if score.low is None or score.high is None else [score.low, score.high]


def _number_points(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's number beside it and nearer to it than to any other point or number."""
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    places = [axes.transData.transform((x, y)) * scale for x, y, _ in points]
    taken = [(float(px), float(py)) for px, py in places]
    for i, ((x, y, text), (px, py)) in enumerate(zip(points, places, strict=True)):
        others = [place for j, place in enumerate(taken) if j != i]
        middles = {(dx, dy): (px + dx + 3, py + dy + 3) for dx, dy in _PLACES}
        room = {p: min((dist(m, o) for o in others), default=inf) for p, m in middles.items()}
        free = [p for p, m in middles.items() if room[p] > max(12, dist(m, (px, py)))]
        dx, dy = free[0] if free else max(room, key=room.__getitem__)
        taken.append(middles[dx, dy])
        axes.annotate(
            text, (x, y), textcoords="offset points", xytext=(dx, dy), fontsize=9, zorder=5
        )


def _hint(point: Point, column: Column) -> str:
    robust = f"{column.label} {number(point.robust)}"
    return f"{point.label} ({point.source}): clean {number(point.clean)}, {robust}"


def _point_grid(measured: Sequence[Point], published: Sequence[Point], column: Column) -> Grid:
    rows = [
        (Entry(p.key), Entry(p.label), Entry(p.source), *map(score_entry, _scores(p)))
        for p in measured
    ]
    rows += [
        tuple(map(Entry, ("", p.label, p.source, number(p.clean), number(p.robust))))
        for p in published
    ]
    header = ("No.", "Model", "Source", "Clean", column.label)
    return Grid("Numbers of this chart", header, tuple(rows), text_columns=3)


def _scores(point: Point) -> tuple[Score | None, Score | None]:
    return point.clean_score, point.robust_score


COSTS = {
    "train_seconds": ("Training time", "training time (s)", "Seconds depend on the machine."),
    "forward_units": (
        "Training work",
        "forward units a step",
        "One unit is a forward pass of a batch; a gradient to the input is one more, to the "
        "weights another. Units do not depend on the machine.",
    ),
}


def cost_robust(name: str, table: Table, cost: str) -> Chart | None:
    """What a row cost to train against its robust accuracy; None with fewer than two points.

    Args:
        cost: a key of `COSTS`.
    """
    column = ranking_column(table)
    if column is None:
        return None
    found = [
        (str(i), row, row.cost[cost], row.scores[column.key])
        for i, row in enumerate(table.rows, start=1)
        if row.cost.get(cost, 0) > 0 and column.key in row.scores
    ]
    if len(found) < 2:
        return None
    heading, axis, remark = COSTS[cost]
    with svg.figure(_WIDTH, _HEIGHT) as made:
        axes = made.subplots()
        axes.set(xlabel=axis, ylabel=f"accuracy under {column.label} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        for key, _, value, score in found:
            ends = _ends(score)
            if ends is not None:
                axes.plot([value] * 2, ends, color=svg.SERIES[0], linewidth=0.7, alpha=0.45)
            (line,) = axes.plot(value, score.accuracy, "o", color=svg.SERIES[0], markersize=6)
            line.set_gid(f"{name}-row-{key}")
        _cost_axis(axes, [value for _, _, value, _ in found])
        axes.margins(0.12)
        _number_points(axes, [(value, score.accuracy, key) for key, _, value, score in found])
        title = f"{heading} against robust accuracy, {column.label}"
        titles = {
            f"{name}-row-{key}": f"{row.label}: {cost_text(value)}, {number(score.accuracy)} %"
            for key, row, value, score in found
        }
        picture = svg.inline(made, name, f"{title}; the numbers are in the table below", titles)
    caption = (
        f"Numbered points are rows of the table above, n = {table.n:,}, with {_SPREAD}; up and to "
        f"the left is better. {remark}"
    )
    grid = Grid(
        "Numbers of this chart",
        ("No.", "Model", axis[0].upper() + axis[1:], column.label),
        tuple(
            (Entry(key), Entry(row.label), Entry(cost_text(value)), score_entry(score))
            for key, row, value, score in found
        ),
        text_columns=2,
    )
    return Chart(name, title, caption, picture, grid)


def _cost_axis(axes: Any, values: Sequence[float]) -> None:
    """Logarithmic where costs differ by more than a factor of five."""
    if max(values) <= 5 * min(values):
        return
    _plain_log(axes, axes.xaxis, "x")


def _plain_log(axes: Any, axis: Any, name: str) -> None:
    """A logarithmic axis with plain numbers; powers would need mathtext."""
    getattr(axes, f"set_{name}scale")("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


# Series of a learning curve: key, words, colour, dash.
_CURVES = (
    ("val_clean", "clean", 0, "--"),
    ("val_pgd20", "PGD-20", 0, "-"),
    *((f"{kind}_val_clean", f"clean, {kind.upper()}", 1, "--") for kind in AVERAGES),
    *((f"{kind}_val_pgd20", f"PGD-20, {kind.upper()}", 1, "-") for kind in AVERAGES),
)


def learning_curve(name: str, run: RunCurve) -> Chart:
    """Accuracy on the held-out images after each epoch, best epoch marked."""
    series = [
        (words, color, dash, [(m["epoch"] + 1, 100 * m[key]) for m in run.metrics if key in m])
        for key, words, color, dash in _CURVES
    ]
    with svg.figure(*_SMALL) as made:
        axes = made.subplots()
        for words, color, dash, values in series:
            if not values:
                continue
            xs, ys = zip(*values, strict=True)
            axes.plot(xs, ys, dash, color=svg.SERIES[color], label=words)
            if dash == "-":
                best = max(values, key=lambda v: v[1])
                axes.plot(*best, "o", color=svg.SERIES[color], markersize=5)
        axes.set(xlabel="epoch", ylabel="held-out accuracy (%)", ylim=(0, 102))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.legend(loc="best", fontsize=8)
        title = f"{run.defense}, {run.preset}, seed {run.seed}"
        picture = svg.inline(made, name, f"Learning curve of {title}")
    known = {words: dict(values) for words, _, _, values in series if values}
    epochs = sorted({epoch for values in known.values() for epoch in values})
    rows = tuple(
        (Entry(str(epoch)), *(Entry(_optional(v.get(epoch))) for v in known.values()))
        for epoch in epochs
    )
    grid = Grid(f"Held-out accuracy (%), run {run.name}", ("Epoch", *known), rows)
    return Chart(name, title, "", picture, grid)


def _optional(value: float | None) -> str:
    return "-" if value is None else number(value)


@dataclass(frozen=True)
class Line:
    """A series of a small chart: values at 0, 1, … with bounds where they are known."""

    label: str
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def lines(
    name: str,
    label: str,
    series: Iterable[Line],
    *,
    ticks: Sequence[str] | None,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    reference: tuple[str, float] | None = None,
) -> Markup:
    """A small chart of a few series; differs in dash and marker as well as in colour.

    Args:
        ticks: names of the places 0, 1, …; None numbers them.
        reference: words and height of a line to compare with.
    """
    with svg.figure(*_SMALL) as made:
        axes = made.subplots()
        if reference is not None:
            axes.axhline(reference[1], color=svg.SOFT, linewidth=1, label=reference[0])
        for i, line in enumerate(series):
            place = i % len(svg.SERIES)
            axes.plot(
                range(len(line.values)),
                line.values,
                color=svg.SERIES[place],
                marker=svg.MARKERS[place],
                linestyle=svg.DASHES[place],
                label=line.label,
            )
            if line.low:
                shade: dict[str, Any] = {"color": svg.SERIES[place], "alpha": 0.13, "linewidth": 0}
                axes.fill_between(range(len(line.low)), line.low, line.high, **shade)
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), ticks)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if log:
            _plain_log(axes, axes.yaxis, "y")
        else:
            axes.set_ylim(0, 102)
        axes.legend(loc="best", fontsize=8)
        return svg.inline(made, name, label)
