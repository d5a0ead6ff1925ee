"""Command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frbench.cli.options import RESULTS, RUNS, ResultsDir, RunsDir

Output = Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")]
WithGallery = Annotated[
    bool, typer.Option("--gallery/--no-gallery", help="Show images and their adversarial versions.")
]


def report(
    output: Output = Path("report.html"),
    results_dir: ResultsDir = RESULTS,
    runs_dir: RunsDir = RUNS,
    gallery: WithGallery = True,
) -> None:
    """Write one HTML file that shows the whole benchmark and needs no network.

    Examples:

        frbench report -o report.html

        frbench report -o quick.html --results-dir results/quick --no-gallery
    """
    from frbench.report import write_report  # imports torch and matplotlib

    path = write_report(output, results_dir, runs_dir, gallery=gallery)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
