"""The `frbench` command: the names of all commands."""

from __future__ import annotations

import sys

import typer

from frbench.cli import analyze as analyses
from frbench.cli import audit as audits
from frbench.cli import data as datasets
from frbench.cli import leaderboard as boards
from frbench.cli import listing, outcome, recipes, work
from frbench.cli import report as reports
from frbench.cli import verify as verification

app = typer.Typer(
    help="Train, attack and compare adversarially robust image classifiers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_data = typer.Typer(help="Fetch and verify datasets.", no_args_is_help=True)
_export = typer.Typer(help="Write submissions for others.", no_args_is_help=True)
_baselines = typer.Typer(help="Published numbers.", no_args_is_help=True)
_analyze = typer.Typer(help="The frequency lens.", no_args_is_help=True)
app.add_typer(_data, name="data")
app.add_typer(_analyze, name="analyze")
app.add_typer(_export, name="export")
app.add_typer(_baselines, name="baselines")

# `--help` lists commands in the order of their registration: the main job first.
app.command("train")(work.train)
app.command("evaluate")(work.evaluate)
app.command("bench")(work.bench)
_data.command("fetch")(datasets.fetch)
_data.command("verify")(datasets.verify)
_export.command("robustbench")(boards.export_to_robustbench)
_baselines.command("refresh")(boards.refresh_baselines)
app.command("leaderboard")(boards.leaderboard)
app.command("compare")(boards.compare)
for _name in ("lowpass", "spectrum", "kernels", "curves", "fourier", "claims"):
    _analyze.command(_name)(getattr(analyses, _name))
app.command("report")(reports.report)
app.command("audit")(audits.audit)
app.command("check")(recipes.check)
app.command("verify")(verification.verify)
app.command("new")(recipes.new)
app.command("list")(listing.list_names)
app.command("doctor")(listing.doctor)


def main() -> None:
    """Entry point: what goes wrong becomes one line and an exit code."""
    sys.exit(outcome.run(app))
