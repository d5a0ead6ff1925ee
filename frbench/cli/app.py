"""The `frbench` command. Thin: each function here turns what was typed into one call."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from frbench.cli import analyze as analyses
from frbench.cli import audit as audits
from frbench.cli import data as datasets
from frbench.cli import leaderboard as boards
from frbench.cli import listing, outcome, recipes
from frbench.cli import report as reports
from frbench.cli import verify as verification
from frbench.cli.options import (
    RESULTS,
    RUNS,
    AttackList,
    CompileMode,
    DefenseName,
    DeviceName,
    Overrides,
    PresetName,
    ProtocolName,
    ResultsDir,
    RunsDir,
    SearchMode,
    Seed,
)

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


@app.command()
def train(
    defense: DefenseName,
    overrides: Overrides = None,
    preset: PresetName = None,
    protocol: ProtocolName = "common",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    device: DeviceName = "auto",
    compile_: CompileMode = "auto",
    estimate: Annotated[
        bool, typer.Option(help="Forecast time and memory, train nothing.")
    ] = False,
) -> None:
    """Train a defense, or go on with an unfinished run of the same settings.

    Examples:

        frbench train pgd_at --preset quick

        frbench train trades+awp+ema --preset resnet18 beta=5 awp.gamma=0.005
    """
    from frbench.cli import work

    work.train(defense, overrides, preset, protocol, seed, runs_dir, device, compile_, estimate)


@app.command()
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="A run, natural, file:PATH, robustbench:ID, timm:NAME."
        ),
    ],
    attacks: AttackList = "clean,fgsm,pgd20,cw,aa",
    n: Annotated[int | None, typer.Option(min=1, help="Test images, from the first on.")] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    eps: Annotated[str | None, typer.Option(help="Radius in [0, 1], such as 8/255.")] = None,
    stages: Annotated[str | None, typer.Option(help="Of AutoAttack: apgd-ce,apgd-t,...")] = None,
    arch: Annotated[str | None, typer.Option(help="Of file: weights, if not detected.")] = None,
    normalization: Annotated[
        str | None, typer.Option(help="Of file: weights: none or cifar10.")
    ] = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Images a chunk, which decides their random numbers: a number, or fastest to try "
            "on this device. Default: the preset's for a run, else 256."
        ),
    ] = None,
    search: SearchMode = "exact",
    runs_dir: RunsDir = RUNS,
    results_dir: ResultsDir = RESULTS,
) -> None:
    """Attack models with every column that is not there yet.

    Examples:

        frbench evaluate natural --attacks clean,fgsm,pgd20 --n 256

        frbench evaluate file:model.pt --arch resnet18 --attacks aa --stages apgd-ce,apgd-t
    """
    from frbench.cli import work

    work.evaluate(
        targets,
        attacks,
        n,
        norm,
        eps,
        stages,
        arch,
        normalization,
        device,
        seed,
        batch,
        search,
        runs_dir,
        results_dir,
    )


@app.command()
def bench(
    defenses: Annotated[
        list[str],
        typer.Argument(metavar="DEFENSE...", help="Names or compositions; key=value after them."),
    ],
    preset: PresetName = None,
    protocol: ProtocolName = "common",
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many, one run each.")] = 1,
    n: Annotated[int | None, typer.Option(min=1, help="Test images in every column.")] = None,
    runs_dir: RunsDir = RUNS,
    results_dir: ResultsDir = RESULTS,
    device: DeviceName = "auto",
    compile_: CompileMode = "auto",
    search: SearchMode = "exact",
    jobs: Annotated[
        int, typer.Option(min=1, help="Trainings at once, a process each; GPUs are shared out.")
    ] = 1,
    estimate: Annotated[bool, typer.Option(help="Forecast time and memory only.")] = False,
) -> None:
    """Train (or reuse), attack with every column, print the leaderboard.

    Examples:

        frbench bench at_fr_swa --preset quick

        frbench bench pgd_at at_swa at_fr at_fr_swa --preset quick --seeds 3 --jobs 2
    """
    from frbench.cli import work

    work.bench(
        defenses,
        preset,
        protocol,
        seed,
        seeds,
        n,
        runs_dir,
        results_dir,
        device,
        compile_,
        search,
        jobs,
        estimate,
    )


# `--help` lists commands in the order of their registration: the main job first.
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
