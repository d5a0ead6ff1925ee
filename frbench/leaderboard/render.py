"""Leaderboards and comparisons as terminal table, Markdown, CSV, LaTeX and JSON.

All five are printed from the same typed rows; terminal, Markdown and LaTeX from the same grids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from frbench import storage
from frbench.leaderboard.compare import RowComparison
from frbench.leaderboard.grids import (
    Entry,
    Grid,
    comparison_grids,
    leaderboard_grids,
    published_beside,
)
from frbench.leaderboard.rows import Leaderboard, Neighbour, Row, Score, Table
from frbench.leaderboard.table import leaderboard
from frbench.names import lookup

WIDTH = 100
_NEAREST = 5
_NAME_WIDTH = 14
BOUNDLESS = 10_000  # characters a line; wider than any table, for files and pipes
_SUFFIXES = {"markdown": "md", "csv": "csv", "latex": "tex", "json": "json"}


def render(board: Leaderboard, form: str, *, width: int = WIDTH, color: bool = False) -> str:
    """A leaderboard as `table`, `markdown`, `csv`, `latex` or `json`.

    Args:
        width: characters a line, for the terminal.
        color: with terminal codes.

    Raises:
        InputError: unknown format.
    """
    writers: dict[str, Callable[[], str]] = {
        "table": lambda: terminal(
            leaderboard_grids(board, nearest=_NEAREST), width=width, color=color
        ),
        "markdown": lambda: markdown(leaderboard_grids(board)),
        "csv": lambda: as_csv(board),
        "latex": lambda: latex(leaderboard_grids(board)),
        "json": lambda: board.model_dump_json(indent=1) + "\n",
    }
    return lookup("format", form, writers)()


def render_comparison(
    found: RowComparison, form: str, *, width: int = WIDTH, color: bool = False
) -> str:
    """A comparison as `table`, `markdown` or `json` (which names every image)."""
    grids = comparison_grids(found)
    writers: dict[str, Callable[[], str]] = {
        "table": lambda: terminal(grids, width=width, color=color),
        "markdown": lambda: markdown(grids),
        "json": lambda: found.model_dump_json(indent=1) + "\n",
    }
    return lookup("format", form, writers)()


def write_tables(root: Path, *, each_seed: bool = False) -> list[Path]:
    """Write `leaderboard.{md,csv,tex,json}` beside the cells of a results folder.

    Args:
        root: the folder.
        each_seed: one row a seed instead of mean and standard deviation.

    Returns:
        The files.
    """
    board = leaderboard(root, each_seed=each_seed)
    paths = []
    for form, suffix in _SUFFIXES.items():
        path = root / f"leaderboard.{suffix}"
        storage.write_text(path, render(board, form))
        paths.append(path)
    return paths


def terminal(grids: Sequence[Grid], *, width: int, color: bool) -> str:
    """Text for a terminal; intervals stand below their numbers, and no number is ever cut."""
    file = io.StringIO()

    def console(columns: int) -> Console:
        return Console(
            file=file, width=columns, force_terminal=color, no_color=not color, highlight=False
        )

    page = console(width)
    for grid in grids:
        page.print(Text(grid.title, style="bold"))
        if grid.rows:
            boundless = page.options.update(max_width=BOUNDLESS)
            table = _rich_table(grid)
            if Measurement.get(page, boundless, table).maximum > width:
                table = _rich_table(grid, folded=True)
            needed = Measurement.get(page, boundless, table).minimum
            console(max(width, needed)).print(table, crop=False)
        for note in grid.notes:
            page.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))
        page.print()
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _rich_table(grid: Grid, *, folded: bool = False) -> RichTable:
    """The table; `folded` gives a column of numbers no more room than its numbers need."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(grid.header):
        words = place < grid.text_columns
        longest = max(len(row[place].text) for row in grid.rows)
        cells = (_rich_text(row[place], grid.inline).plain for row in grid.rows)
        lines = [*(line for cell in cells for line in cell.split("\n")), *name.split()]
        table.add_column(
            name,
            justify="left" if words else "right",
            no_wrap=not words and not folded,
            width=max(map(len, lines)) if folded and not words else None,
            min_width=min(longest, _NAME_WIDTH) if words else None,
            overflow="fold",
        )
    for row in grid.rows:
        table.add_row(*(_rich_text(entry, grid.inline) for entry in row))
    return table


def _rich_text(entry: Entry, inline: bool) -> Text:
    text = Text(entry.text)
    detail = f" ({entry.detail})" if inline else f"\n{entry.detail}"
    return text.append(detail, style="dim") if entry.detail else text


def markdown(grids: Sequence[Grid]) -> str:
    """Markdown tables; intervals stand behind their numbers."""
    return "\n".join(_markdown_grid(grid) for grid in grids)


def _markdown_grid(grid: Grid) -> str:
    lines = [f"### {_markdown_text(grid.title)}", ""]
    if grid.rows:
        rule = [":--" if i < grid.text_columns else "--:" for i in range(len(grid.header))]
        body = [[_with_detail(entry) for entry in row] for row in grid.rows]
        lines += [
            "| " + " | ".join(map(_markdown_text, line)) + " |"
            for line in ([*grid.header], rule, *body)
        ]
        lines.append("")
    lines += [f"- {_markdown_text(note)}" for note in grid.notes]
    return "\n".join(lines) + ("\n" if grid.notes else "")


def _with_detail(entry: Entry) -> str:
    return f"{entry.text} ({entry.detail})" if entry.detail else entry.text


def _markdown_text(text: str) -> str:
    for character in "\\|*_<`":
        text = text.replace(character, "\\" + character)
    return text


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "≤": r"$\le$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "…": r"\dots{}",
    "✓": r"$\surd$",
    "✗": r"$\times$",
    "[": "{[}",  # at the start of a row these two would belong to the line break before it
    "*": "{*}",
}


def latex_text(text: str) -> str:
    """`text` for LaTeX, whatever characters a name may hold."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(grids: Sequence[Grid]) -> str:
    """Booktabs tables; needs `\\usepackage{booktabs}` and nothing else."""
    return "\n".join(_latex_grid(grid) for grid in grids if grid.rows)


def _latex_grid(grid: Grid) -> str:
    numbers = len(grid.header) - grid.text_columns
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(grid.title)}}}",
        rf"\begin{{tabular}}{{{'l' * grid.text_columns}{'r' * numbers}}}",
        r"\toprule",
        " & ".join(map(latex_text, grid.header)) + r" \\",
        r"\midrule",
        *(_latex_row(grid, row) for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {latex_text(note)}" for note in grid.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(grid: Grid, row: Sequence[Entry]) -> str:
    parts = []
    for place, entry in enumerate(row):
        text, detail = latex_text(entry.text), latex_text(entry.detail)
        if place >= grid.text_columns:
            text, detail = _latex_dashes(text), _latex_dashes(detail)
        parts.append(f"{text} {{\\scriptsize ({detail})}}" if detail else text)
    return " & ".join(parts) + r" \\"


def _latex_dashes(text: str) -> str:
    """A dash for a range and a minus sign for a negative number."""
    ranges = re.sub(r"(?<=\d)-(?=\d)", "--", text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", ranges)


def as_csv(board: Leaderboard) -> str:
    """One line a measured or published row; accuracies in percent, a column for each bound."""
    records: list[dict[str, object]] = []
    for table in board.tables:
        for row in table.rows:
            records.append(_csv_row(table, row, "measured"))
            records += [_csv_row(table, member, "measured seed") for member in row.members]
            records += [
                _csv_neighbour(table, row, neighbour)
                for neighbour in published_beside(row.neighbours)
            ]
    if board.paper is not None:
        records += [
            {
                "kind": "paper",
                "dataset": board.paper.dataset,
                "n": board.paper.n,
                "threat_model": board.paper.threat_model,
                "label": row.method,
                "defense": row.defense,
                "architecture": board.paper.architecture,
                **row.accuracies,
            }
            for row in board.paper.rows
        ]
    return str(pd.DataFrame(records, dtype=object).to_csv(index=False, lineterminator="\n"))


def _csv_row(table: Table, row: Row, kind: str) -> dict[str, object]:
    model = row.model
    record: dict[str, object] = {
        "kind": kind,
        "dataset": table.dataset,
        "split": table.split,
        "start": table.start,
        "stop": table.stop,
        "n": table.n,
        "threat_model": table.threat_model,
        "precision": table.precision,
        "label": row.label,
        "defense": model.defense,
        "preset": model.preset,
        "protocol": model.protocol,
        "weights": model.weights,
        "seeds": " ".join(map(str, row.seeds)),
        "epochs": " ".join(map(str, row.epochs)),
        "architecture": model.architecture,
        "parameters": model.parameters,
        "extra_data": model.extra_data,
        "comparable": model.comparable,
        "ranked_by": table.ranked_by,
        "rank_best": row.rank.best if row.rank else None,
        "rank_worst": row.rank.worst if row.rank else None,
        "overfitting_gap": row.overfitting_gap.points if row.overfitting_gap else None,
    }
    for column in table.columns:
        record |= _csv_score(column.key, row.scores.get(column.key))
    record |= _csv_score("worst_case", row.worst_case)
    record |= {f"cost_{key}": value for key, value in row.cost.items()}
    record |= {"digest": model.digest, "warnings": "; ".join(row.warnings)}
    if row.audit:
        record |= {"audit": row.audit.verdict, "audit_reasons": "; ".join(row.audit.reasons)}
    return record


def _csv_score(key: str, score: Score | None) -> dict[str, object]:
    if score is None:
        return {}
    return {
        key: score.accuracy,
        f"{key}_low": score.low,
        f"{key}_high": score.high,
        f"{key}_sd": score.sd,
        f"{key}_seeds": score.seeds,
        f"{key}_at_most": score.at_most,
        f"{key}_correct": score.correct,
    }


def _csv_neighbour(table: Table, row: Row, neighbour: Neighbour) -> dict[str, object]:
    entry = neighbour.entry
    return {
        "kind": "robustbench",
        "dataset": table.dataset,
        "threat_model": f"{entry.threat_model} {entry.eps}",
        "label": entry.model_id,
        "beside": row.label,
        "own_claim": neighbour is row.neighbours.own_claim,
        "unreliable": entry.unreliable,
        "architecture": entry.architecture,
        "extra_data": entry.data_class,
        "clean": entry.clean_acc,
        "aa": neighbour.robust,
        "difference": neighbour.difference.points if neighbour.difference else None,
    }
