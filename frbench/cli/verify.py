"""Command `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from frbench.cli.options import RESULTS, RUNS, DefenseName, DeviceName, ResultsDir, RunsDir
from frbench.cli.outcome import plain_console
from frbench.cli.work import announce, show_settings

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` does not need it
    from frbench.verify import DefenseBands, Verification


def verify(
    defense: DefenseName,
    preset: Annotated[str, typer.Option(help="Of the runs and of the bands.")] = "quick",
    seeds: Annotated[int, typer.Option(min=1, help="How many, from seed 0 on.")] = 3,
    record: Annotated[
        bool, typer.Option("--record", help="Make the bands from cells that are there already.")
    ] = False,
    bands: Annotated[
        Path | None, typer.Option(help="File of bands; default: baselines/data.")
    ] = None,
    runs_dir: RunsDir = RUNS,
    results_dir: ResultsDir = RESULTS,
    device: DeviceName = "auto",
) -> None:
    """Train a recipe with several seeds (or reuse them): PASS or FAIL against measured bands.

    Examples:

        frbench verify pgd_at

        frbench verify trades --record --results-dir results/quick
    """
    from frbench import verify as library
    from frbench.engine.device import find_device
    from frbench.engine.plan import resolve
    from frbench.evaluation import CellStore
    from frbench.workflow import forecast

    plans = [resolve(defense, preset=preset, seed=seed) for seed in range(seeds)]
    path = bands or library.BANDS
    if record:
        _show_bands(library.record(plans, runs_dir, results_dir, path=path), path)
        return
    where, log = find_device(device), plain_console(stderr=True, soft_wrap=True)
    library.find_bands(plans[0], path)  # nothing is shown where there is nothing to compare
    show_settings(plans, where, chosen=True, protocol="common")
    log.print("estimating ...")
    announce(forecast(plans, where, runs_dir, store=CellStore(results_dir)))
    found = library.verify(plans, where, runs_dir, results_dir, log, path=path)
    _show(found)
    if not found.passed:
        raise typer.Exit(1)


def _show(found: Verification) -> None:
    """One line a metric, then the verdict."""
    out = plain_console(soft_wrap=True)
    table = Table(box=None, header_style="bold")
    table.add_column("metric")
    for result in found.results:
        table.add_column(f"seed {result.seed}", justify="right")
    for heading in ("mean", "band", "outside"):
        table.add_column(heading, justify="right")
    for outcome in found.outcomes:
        seeds = [f"{result.values[outcome.name]:.2f}" for result in found.results]
        band = f"{outcome.band.low:.2f} to {outcome.band.high:.2f}"
        outside = f"{outcome.outside:+.2f}" if outcome.outside else "-"
        table.add_row(outcome.name, *seeds, f"{outcome.value:.2f}", band, outside)
    out.print(table)
    measured = found.bands.measured
    out.print(
        f"bands: {measured.command}, seeds {', '.join(map(str, measured.seeds))}, "
        f"{measured.device}, {measured.date}"
    )
    if found.passed:
        out.print(f"PASS {found.bands.defense}: every mean lies in its band")
    else:
        out.print(f"FAIL {found.bands.defense}: {found.first_divergence()}")


def _show_bands(bands: DefenseBands, path: Path) -> None:
    out = plain_console(soft_wrap=True)
    for name, band in bands.metrics.items():
        out.print(f"{bands.defense}: {name} {band.low:.2f} to {band.high:.2f}")
    curves = f"{len(bands.curve)} epochs" if bands.curve else "none: the runs are not here"
    out.print(f"learning curves: {curves}; kept in {path}")
