"""Commands: `leaderboard`, `compare`, `export robustbench` and `baselines refresh`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from frbench.cli.options import RESULTS, ResultsDir

# The stages are imported where they are used: pandas and scipy take longer to import than most
# commands take to run.


def leaderboard(
    form: Annotated[
        str, typer.Option("--format", help="table, markdown, csv, latex or json.")
    ] = "table",
    results_dir: ResultsDir = RESULTS,
    each_seed: Annotated[
        bool, typer.Option("--each-seed", help="One row a seed instead of mean and spread.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Also write leaderboard.{md,csv,tex,json} there.")
    ] = False,
) -> None:
    """Print the measured rows beside the published ones.

    Examples:

        frbench leaderboard

        frbench leaderboard --results-dir results/quick --each-seed --format csv
    """
    from frbench.leaderboard import render
    from frbench.leaderboard import table as tables

    board = tables.leaderboard(results_dir, each_seed=each_seed)
    _print(render.render(board, form, width=_width(), color=_color()))
    if write:
        for path in render.write_tables(results_dir, each_seed=each_seed):
            typer.echo(f"wrote {path}", err=True)


def compare(
    a: Annotated[str, typer.Argument(help="A row: its name, target or digest.")],
    b: Annotated[str, typer.Argument(help="The other row.")],
    results_dir: ResultsDir = RESULTS,
    form: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table",
) -> None:
    """Compare two rows image by image: which images changed sides, and is it noise?

    Example:

        frbench compare at_fr pgd_at
    """
    from frbench.leaderboard import compare as comparison
    from frbench.leaderboard import render

    found = comparison.compare(results_dir, a, b)
    _print(render.render_comparison(found, form, width=_width(), color=_color()))


def export_to_robustbench(
    run: Annotated[str, typer.Argument(help="A row: its name, target or digest.")],
    results_dir: ResultsDir = RESULTS,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "robustbench-submission"
    ),
    model_id: Annotated[str, typer.Option(help="Name of the entry, such as Rice2020Over.")] = "",
    title: Annotated[str, typer.Option(help="Title of the paper.")] = "N/A",
    authors: Annotated[str, typer.Option(help="Authors of the paper.")] = "N/A",
    link: Annotated[str, typer.Option(help="Address of the paper.")] = "N/A",
    venue: Annotated[str, typer.Option(help="Where it appeared.")] = "N/A",
) -> None:
    """Write a RobustBench submission: model info, loader and text.

    Example:

        frbench export robustbench at_fr_swa --model-id Huang2023Frequency -o submission
    """
    from frbench.leaderboard.export import Paper, export_robustbench

    paper = Paper(title=title, authors=authors, link=link, venue=venue)
    for path in export_robustbench(results_dir, run, output, model_id=model_id, paper=paper):
        typer.echo(path)


def refresh_baselines() -> None:
    """Fetch the newest RobustBench entries, where the network allows."""
    from frbench.leaderboard.refresh import refresh

    info = refresh()
    typer.echo(f"RobustBench {info.state}: {info.entries} entries")


def _print(text: str) -> None:
    sys.stdout.write(text)


def _color() -> bool:
    return sys.stdout.isatty() and Console().color_system is not None


def _width() -> int:
    from frbench.leaderboard.render import BOUNDLESS

    return Console().width if sys.stdout.isatty() else BOUNDLESS
