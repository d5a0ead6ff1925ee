"""From what was read to what the template shows: every number from the leaderboard's rows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import frbench
from frbench import provenance
from frbench.durations import duration
from frbench.leaderboard.grids import (
    Entry,
    Grid,
    accuracy_grid,
    cost_text,
    difference_entry,
    neighbour_grids,
    number,
    rank_entry,
    score_entry,
    unmatched_grid,
)
from frbench.leaderboard.rows import Leaderboard, Row, Score, Table
from frbench.report.charts import (
    COSTS,
    Chart,
    clean_robust,
    cost_robust,
    learning_curve,
    ranking_column,
)
from frbench.report.gallery import galleries
from frbench.report.sources import Sources, single_rows
from frbench.report.studies import sections

_COST_HEADINGS = {"train_seconds": "Train s", "forward_units": "Fwd units"}
# Fields of a model that become a filter where the rows of a table differ in them.
_FILTERS = {
    "architecture": "Architecture",
    "preset": "Preset",
    "protocol": "Protocol",
    "weights": "Checkpoint",
    "source": "Source",
}
_MAX_CURVES = 24


@dataclass(frozen=True)
class Value:
    """One number of a row: its text, what sorting compares, and where the dialog looks it up."""

    entry: Entry
    sort: float | None
    key: str = ""


@dataclass(frozen=True)
class RowView:
    """One row as the page shows it."""

    place: int
    row: Row
    values: tuple[Value, ...]
    facts: dict[str, str]


@dataclass(frozen=True)
class TableView:
    """One table with its headings, filters, charts and neighbours."""

    name: str
    table: Table
    summary: str
    headings: tuple[tuple[str, str], ...]
    rows: tuple[RowView, ...]
    filters: tuple[tuple[str, str, tuple[str, ...]], ...]
    notes: tuple[str, ...]
    charts: tuple[Chart, ...]
    neighbours: tuple[Grid, ...]


def render_page(sources: Sources, runs_dir: Path, *, gallery: bool, now: datetime) -> str:
    """The whole page.

    Args:
        sources: what `read_sources` returned.
        runs_dir: where the gallery finds weights.
        gallery: show images; without, nothing is computed.
        now: the date in the header, the only thing that differs between two reports of one input.
    """
    environment = Environment(
        loader=PackageLoader("frbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _template_text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    board = sources.board
    return environment.get_template("report.html.j2").render(
        board=board,
        data=embedded_json(board),
        tables=[table_view(i, table, sources) for i, table in enumerate(board.tables)],
        paper=paper_grid(board),
        unmatched=unmatched_grid(board),
        audits=sorted(sources.audits.values(), key=lambda a: (a.target, a.digest)),
        curves=[learning_curve(f"c{i}", c) for i, c in enumerate(sources.curves[:_MAX_CURVES])],
        curves_left_out=max(0, len(sources.curves) - _MAX_CURVES),
        studies=sections(sources.studies),
        galleries=galleries(board, sources.cells, runs_dir) if gallery else [],
        references=references(board),
        facts=_facts(sources, now),
        style=Markup(_template_text("page.css")),
        script=Markup(script),
        script_digest=digest,
    )


def _template_text(name: str) -> str:
    return (files("frbench.report") / "templates" / name).read_text()


def embedded_json(board: Leaderboard) -> Markup:
    """The leaderboard's JSON for a script element, which no `</script>` in a name can end."""
    text = board.model_dump_json()
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, code)
    return Markup(text)


def table_view(place: int, table: Table, sources: Sources) -> TableView:
    """One table of the leaderboard, ready to be shown."""
    name, board = f"t{place}", sources.board
    grid = accuracy_grid(table)
    gaps = any(row.overfitting_gap for row in table.rows)
    costs = [key for key in _COST_HEADINGS if any(key in row.cost for row in table.rows)]
    headings = [(column.label, column.settings) for column in table.columns]
    if table.norm is not None:
        headings.append(("Worst case", "right under every attack of the row"))
    if table.ranked_by:
        headings.append(("Rank", "rows that cannot be told apart share a range"))
    if gaps:
        headings.append(("Overfitting", "best minus last checkpoint under PGD-20, points"))
    headings += [(_COST_HEADINGS[key], COSTS[key][1]) for key in costs]
    paper = board.paper
    beside = paper if paper and paper.is_of(table.dataset, table.threat_model) else None
    made = [clean_robust(f"{name}s", table, beside)]
    made += [cost_robust(f"{name}{key[0]}", table, key) for key in COSTS]
    return TableView(
        name=name,
        table=table,
        summary=_summary(table),
        headings=tuple(headings),
        rows=tuple(
            _row_view(i, row, table, gaps, costs) for i, row in enumerate(table.rows, start=1)
        ),
        filters=tuple(_filters(table)),
        notes=grid.notes,
        charts=tuple(chart for chart in made if chart is not None),
        neighbours=tuple(neighbour_grids(board, table, None)),
    )


def _row_view(place: int, row: Row, table: Table, gaps: bool, costs: Sequence[str]) -> RowView:
    seeds = len(row.members)
    values = [_score_value(row.scores.get(c.key), c.key, seeds) for c in table.columns]
    if table.norm is not None:
        values.append(_score_value(row.worst_case, "worst_case", seeds))
    if table.ranked_by:
        values.append(_rank_value(row))
    if gaps:
        gap = row.overfitting_gap
        values.append(Value(difference_entry(gap), gap.points if gap else None))
    for key in costs:
        cost = row.cost.get(key)
        values.append(Value(Entry("-" if cost is None else cost_text(cost)), cost))
    facts = {field: str(getattr(row.model, field) or "-") for field in _FILTERS}
    facts["comparable"] = "yes" if row.model.comparable else "no"
    return RowView(place, row, tuple(values), facts)


def _score_value(score: Score | None, key: str, seeds: int) -> Value:
    return Value(score_entry(score, seeds), score.accuracy if score else None, key if score else "")


def _rank_value(row: Row) -> Value:
    rank = row.rank
    return Value(rank_entry(row), None if rank is None else rank.best + rank.worst / 1000)


def _filters(table: Table) -> list[tuple[str, str, tuple[str, ...]]]:
    """Field, words and choices of every filter that can tell rows of this table apart."""
    found = []
    for field, words in _FILTERS.items():
        values = sorted({str(getattr(row.model, field) or "-") for row in table.rows})
        if len(values) > 1:
            found.append((field, words, tuple(values)))
    if len({row.model.comparable for row in table.rows}) > 1:
        found.append(("comparable", "Comparable", ("yes", "no")))
    return found


def _summary(table: Table) -> str:
    """The first finished row in one sentence, with what it cannot be told apart from."""
    column = ranking_column(table)
    ranked = [row for row in table.rows if row.rank is not None]
    first = next(iter(ranked or table.rows), None)
    if column is None or first is None or column.key not in first.scores:
        return ""
    entry = score_entry(first.scores[column.key])
    detail = f" ({entry.detail})" if entry.detail else ""
    text = f"Highest under {column.label}: {first.label} with {entry.text} %{detail}."
    if first.rank is None or len(ranked) < 2:
        return text
    tied = first.rank.worst - 1
    if not tied:
        others = "every other row" if len(ranked) == len(table.rows) else "the other finished rows"
        return f"{text} It is ahead of {others} at the 5 % level."
    rows = "the next row" if tied == 1 else f"{tied} other rows"
    return f"{text} On n = {table.n:,} images it cannot be told apart from {rows}."


def paper_grid(board: Leaderboard) -> Grid | None:
    """The paper's Table 2, and below each of its rows what was measured here for that defense."""
    paper = board.paper
    if paper is None:
        return None
    rows: list[tuple[Entry, ...]] = []
    for published in paper.rows:
        values = (Entry(number(value)) for value in published.accuracies.values())
        rows.append(
            (Entry(published.method), Entry(f"paper (trained by {published.trained_by})"), *values)
        )
        for table in board.tables:
            if not paper.is_of(table.dataset, table.threat_model):
                continue
            keys = {c.attack.name: c.key for c in table.columns}
            rows += [
                (
                    Entry(row.marked_label),
                    Entry(f"measured, {row.model.architecture}, n = {table.n:,}"),
                    *(
                        score_entry(row.scores.get(keys.get(name, "")), len(row.members))
                        for name in published.accuracies
                    ),
                )
                for row in table.rows
                if row.model.defense == published.defense
            ]
    header = ("Method", "Source", "Clean", "FGSM", "PGD-20", "C&W", "AA")
    return Grid(paper.caption, header, tuple(rows), paper.remarks, text_columns=2)


def references(board: Leaderboard) -> Grid:
    """Every cell of the leaderboard with what made it, once."""
    rows: dict[str, tuple[Entry, ...]] = {}
    for table in board.tables:
        labels = {c.key: c.label for c in table.columns}
        for row in table.rows:
            for single in single_rows(row):
                for key, score in single.scores.items():
                    for ref in score.cells:
                        made = ref.provenance
                        versions = ", ".join(f"{k} {v}" for k, v in ref.versions.items())
                        texts = (
                            *(single.label, labels[key], f"{table.dataset} {table.split}"),
                            *(f"{ref.start} to {ref.stop - 1}", ref.key, single.model.digest[:12]),
                            *(versions, str(made.get("device") or "-")),
                            *(str(made.get(name) or "-") for name in ("commit", "code")),
                            *(ref.updated, str(ref.seed), str(ref.batch), f"{ref.seconds:,.2f}"),
                        )
                        rows[ref.key] = tuple(map(Entry, texts))
    header = (
        *("Model", "Attack", "Data", "Images", "Cell", "Weights", "Versions", "Device", "Commit"),
        *("Code", "Finished", "Seed", "Batch", "Seconds"),
    )
    return Grid("Every cell behind this page", header, tuple(rows.values()), text_columns=11)


def _facts(sources: Sources, now: datetime) -> list[tuple[str, str]]:
    """The header's short facts."""
    cells = sources.cells
    models = {cell.model.digest for cell in cells}
    verdicts = sum(cell.data.n for cell in cells)
    devices = {str(cell.provenance.get("device")) for cell in cells} - {"None", ""}
    names = ("torch", "torchattacks", "pyautoattack")
    versions = {
        name: sorted({cell.versions[name] for cell in cells if name in cell.versions})
        for name in names
    }
    return [
        ("Report made", now.strftime("%Y-%m-%d %H:%M %Z").strip()),
        ("Newest cell", sources.board.measured.replace("T", " ")[:16] + " UTC"),
        ("Commit", provenance.commit() or "not a git checkout"),
        ("Counts", f"{len(models)} models, {len(cells)} cells, {verdicts:,} verdicts"),
        ("Attack time", duration(sum(cell.total_seconds for cell in cells))),
        ("Devices", "; ".join(sorted(devices)) or "-"),
        (
            "Versions of the cells",
            ", ".join(f"{name} {' and '.join(v)}" for name, v in versions.items() if v),
        ),
        ("Made with", f"frbench {frbench.__version__}"),
    ]
