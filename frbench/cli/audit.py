"""`frbench audit`: is this number to be trusted?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from frbench.cli.options import RESULTS, RUNS, DeviceName, Format, ResultsDir, RunsDir, Seed
from frbench.cli.outcome import plain_console


def audit(
    target: Annotated[
        str, typer.Argument(help="Run, natural, file:PATH, robustbench:ID, timm:NAME.")
    ],
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="TARGET to transfer from, repeatable; default: the other runs, natural."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Test images; default: 128, or 1000 on a GPU.")
    ] = None,
    eps: Annotated[str, typer.Option(help="Linf radius in [0, 1].")] = "8/255",
    arch: Annotated[str | None, typer.Option(help="Architecture of file: weights.")] = None,
    normalization: Annotated[str | None, typer.Option(help="Of file: weights.")] = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    results_dir: ResultsDir = RESULTS,
    form: Format = "table",
) -> None:
    """Is a robust accuracy to be trusted? Twelve checks, one verdict: trusted, suspicious, broken.

    Examples:

        frbench audit natural --n 32

        frbench audit at_fr_swa --from pgd_at --from natural
    """
    from frbench import storage
    from frbench.attacks import parse_eps
    from frbench.audit import save_report
    from frbench.audit.run import audit as carry_out
    from frbench.audit.sources import default_sources, named_sources
    from frbench.data import load_dataset
    from frbench.engine.device import find_device
    from frbench.evaluation import resolve_target

    log = plain_console(stderr=True, soft_wrap=True)
    radius = parse_eps(eps)
    storage.check_folder(results_dir)
    where = find_device(device)
    audited = resolve_target(
        target,
        device=where.device,
        runs_dir=runs_dir,
        architecture=arch,
        normalization=normalization,
    )
    if sources:
        others = named_sources(sources, audited, device=where.device, runs_dir=runs_dir)
    else:
        others = default_sources(audited, device=where.device, runs_dir=runs_dir, console=log)
    split = load_dataset(audited.record.dataset).test
    report = carry_out(
        audited,
        split,
        n=n if n is not None else min(1000 if where.cuda else 128, len(split)),
        sources=others,
        eps=radius,
        seed=seed,
        batch=256 if where.cuda else 128,
        console=log,
    )
    if form == "json":
        typer.echo(json.dumps(report.model_dump(mode="json")))
    else:
        plain_console().print(report.table())
    log.print(f"wrote {save_report(report, results_dir)}")
