"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DefenseName = Annotated[
    str, typer.Argument(metavar="DEFENSE", help="A name or a composition such as trades+awp+ema.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as epochs=10.")
]
PresetName = Annotated[
    str | None,
    typer.Option(help="quick, resnet18, paper, or smoke; default: quick, or resnet18 with a GPU."),
]
ProtocolName = Annotated[
    str, typer.Option(help="common: one frame for all; original: the authors' own settings.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything random.")]
RUNS = Path("runs")
RESULTS = Path("results/local")
RunsDir = Annotated[Path, typer.Option(help="Folder of run folders.")]
ResultsDir = Annotated[Path, typer.Option(help="Folder that holds cells/.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
CompileMode = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--compile", help="On CUDA: compile the network (auto: for long runs), or run it as it is."
    ),
]
Form = Literal["table", "json"]
Format = Annotated[Form, typer.Option("--format", help="What is printed.")]
AttackList = Annotated[str, typer.Option(help="Columns: clean, fgsm, pgdN, cw, aa.")]
SearchMode = Annotated[
    str,
    typer.Option(
        help="exact, or fast: a faster twin searches, the model itself judges; or compiled: the "
        "twin is compiled too, for long evaluations on a GPU."
    ),
]


def as_typed(value: object) -> str:
    """A setting's value as one types it behind `key=`: `8/255`, `75,90`, `uniform`."""
    from frbench.attacks.spec import format_length

    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    if isinstance(value, float):
        return format_length(value) if 0 < value < 0.2 else f"{value:g}"
    return str(value)
