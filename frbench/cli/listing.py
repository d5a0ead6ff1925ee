"""Commands that only look: `list` and `doctor`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from frbench.cli.options import as_typed
from frbench.errors import first_line
from frbench.names import lookup
from frbench.notices import to_stderr

if TYPE_CHECKING:  # `--help` does not need it
    from pydantic import BaseModel

    from frbench.engine.recipe import Recipe

Rows = Iterable[Sequence[str]]


def list_names(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="defenses, settings, attacks, targets, models, datasets or presets.",
        ),
    ],
) -> None:
    """Show what there is, with every setting that can be changed.

    Examples:

        frbench list defenses

        frbench list settings
    """
    Console(highlight=False).print(*lookup("list", what, _LISTS)(), sep="\n")


def _table(*headings: str, rows: Rows) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 1, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _defenses() -> Iterator[RenderableType]:
    """What each is, over its settings in both protocols."""
    from frbench.engine.registry import defenses

    known, broken = defenses()
    for module in broken:
        to_stderr(f"frbench: a file in defenses/ cannot be used: {module}")
    for defense in known.values():
        recipe = defense.recipe
        settings = [text for name, part in recipe.parts.items() for text in _fields(name, part)]
        table = Table("common protocol", "original protocol", box=None, header_style="italic")
        table.add_row("\n".join(settings), "\n".join(_original(recipe)) or "as common")
        units = f"{recipe.forward_units()} forward units a step"
        yield f"[bold]{defense.name}[/]  {escape(defense.summary)} {units}."
        yield Padding(table, (0, 0, 1, 2), expand=False)


def _fields(name: str, part: BaseModel) -> list[str]:
    """`key=value` of each field; `name` as in `Recipe.parts`."""
    values = ((field, getattr(part, field)) for field in type(part).model_fields)
    return [f"{name}.{field}={as_typed(value)}".removeprefix(".") for field, value in values]


def _original(recipe: Recipe) -> list[str]:
    lines = [f"{key}={as_typed(value)}" for key, value in recipe.original.items()]
    special = {f"for {name}:": values for name, values in recipe.original_for.items()}
    special |= {f"with +{kind}:": values for kind, values in recipe.original_with.items()}
    for heading, values in special.items():
        lines += [heading, *(f"  {key}={as_typed(value)}" for key, value in values.items())]
    return lines


def _settings() -> Iterator[RenderableType]:
    """Every `key=value`: what it is, which values it takes, what it is unless told otherwise."""
    from frbench.engine import MECHANISMS, InnerAttack
    from frbench.engine.registry import defenses
    from frbench.engine.settings import Frame

    yield "Written as key=value behind a defense: frbench train trades+ema beta=5 ema.decay=0.99"
    yield "Presets and the authors' own settings change some: list presets, list defenses.\n"
    common = _keys("attack", InnerAttack())
    yield from _section("every defense", _keys("", Frame()))
    yield from _section("its attack", common)
    for kind, mechanism in MECHANISMS.items():
        yield from _section(f"+{kind}", _keys(kind, mechanism()))
    for defense in defenses()[0].values():
        attack = _keys("attack", defense.recipe.attack)
        own = [key for name, key in attack.items() if name not in common]
        yield from _section(defense.name, _keys("", defense.recipe.objective), own)


def _keys(name: str, part: BaseModel) -> dict[str, tuple[str, str, str]]:
    """Of each field: `key=default`, the values it takes, what it is."""
    schemas = part.model_json_schema().get("properties", {})
    return {
        field: (text, _allowed(schemas[field]), escape(schemas[field].get("description", "")))
        for field, text in zip(type(part).model_fields, _fields(name, part), strict=True)
    }


def _section(
    heading: str, keys: dict[str, tuple[str, str, str]], more: Rows = ()
) -> Iterator[RenderableType]:
    """A heading over its settings, if it has any."""
    rows = [*keys.values(), *more]
    if not rows:
        return
    yield f"[bold]{heading}[/]"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(style="dim")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    yield Padding(table, (0, 0, 1, 2), expand=False)


def _allowed(schema: dict[str, Any]) -> str:
    """The values of a setting, from its JSON schema: `uniform, gaussian` or `number in [0, 1)`."""
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    kind = {"integer": "whole number", "number": "number"}.get(schema.get("type", ""))
    if schema.get("type") == "array":
        return f"{_allowed(schema['items'])}; several with commas"
    if kind is None:  # a name that is explained, or a type that only a user's recipe has
        return {"boolean": "true, false"}.get(schema.get("type", ""), "")
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    left = f"from {low:,}" if low is not None else f"above {above:,}" if above is not None else ""
    right = f" to {high:,}" if high is not None else ""
    right = f", below {below:,}" if below is not None else right
    return f"{kind} {left}{right}".rstrip(" ")


def _attacks() -> Iterable[RenderableType]:
    from frbench.attacks import specs

    rows = []
    for norm in ("Linf", "L2"):
        for spec in specs(norm).values():
            steps = "" if spec.steps is None else f"{spec.steps}"
            step = "" if spec.step_size is None else as_typed(spec.step_size)
            rows.append(
                (spec.name, spec.threat_model, steps, step, spec.library, ", ".join(spec.stages))
            )
    headings = ("attack", "threat model", "steps", "step", "from", "stages")
    return [_table(*headings, rows=dict.fromkeys(rows))]


def _targets() -> Iterable[RenderableType]:
    from frbench.discovery import discover
    from frbench.evaluation.outside import outside_targets

    for module in discover("baselines")[1]:
        to_stderr(f"frbench: a file in baselines/ cannot be used: {module}")
    rows = [
        ("RUN", "a run folder, its name, or a defense that one finished run has trained"),
        ("RUN@VIEW", "those of its weights: best, last, swa-best, ..."),
        *((escape(target), escape(what)) for target, what in outside_targets().items()),
    ]
    return [_table("target", "what it is", rows=rows)]


def _models() -> Iterable[RenderableType]:
    from frbench.models import architectures

    rows = [(a.name, a.summary) for a in architectures().values()]
    rows.append(("timm:NAME", "any architecture of timm"))
    return [_table("architecture", "what it is", rows=rows)]


def _datasets() -> Iterable[RenderableType]:
    from frbench.data import DATASETS

    rows = [(d.name, d.summary) for d in DATASETS.values()]
    return [_table("dataset", "what it is", rows=rows)]


def _presets() -> Iterable[RenderableType]:
    from frbench.engine.presets import PRESETS

    rows = [
        (p.name, p.summary, "\n".join(f"{k}={as_typed(v)}" for k, v in p.overrides.items()))
        for p in PRESETS.values()
    ]
    return [_table("preset", "what it is", "what it sets", rows=rows)]


_LISTS: dict[str, Callable[[], Iterable[RenderableType]]] = {
    "defenses": _defenses,
    "settings": _settings,
    "attacks": _attacks,
    "targets": _targets,
    "models": _models,
    "datasets": _datasets,
    "presets": _presets,
}


def doctor() -> None:
    """Say what this machine has, what is missing, and the command that mends it."""
    table = Table("", "what", "found", "to mend it", box=None, header_style="bold")
    healthy = True
    for what, found, mend in _examinations():
        healthy &= not mend
        table.add_row("[red]✗[/]" if mend else "[green]✓[/]", what, found, mend)
    Console(highlight=False).print(table)
    if not healthy:
        raise typer.Exit(1)


def _examinations() -> Iterable[tuple[str, str, str]]:
    """(what, what was found, the command that mends it or nothing) for each thing examined."""
    running = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield "Python", running, "" if supported else "install Python 3.11 or 3.12, then: make setup"
    yield "frbench", *_if_possible(_code)
    for name in ("torch", "torchvision", "torchattacks", "pyautoattack", "robustbench", "timm"):
        yield name, *_package(name)
    yield "robustbench's files", *_if_possible(_robustbench_files)
    yield "accelerator", *_if_possible(_accelerator)
    yield "CIFAR-10", *_if_possible(_dataset)
    free = shutil.disk_usage(".").free / 1e9
    yield "free disk", f"{free:.0f} GB here", "" if free > 2 else "free 2 GB for runs and data"


def _if_possible(examine: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """What an examination found and its remedy, even where a package that it needs is missing."""
    try:
        return examine()
    except ImportError as error:
        return f"cannot tell: {first_line(error)}", "make setup"


def _code() -> tuple[str, str]:
    from frbench.provenance import code_digest, commit

    return f"commit {commit() or 'unknown'}, code {code_digest()}", ""


def _package(name: str) -> tuple[str, str]:
    try:
        return version(name), ""
    except PackageNotFoundError:
        return "missing", "make setup"


def _robustbench_files() -> tuple[str, str]:
    from frbench.compat import shadowed_robustbench_files

    shadowed = shadowed_robustbench_files()
    if not shadowed:
        return "its own", ""
    return f"{len(shadowed)} overwritten by torchattacks", "make setup"


def _accelerator() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), ""
    return f"none; {torch.get_num_threads()} CPU threads", ""


def _dataset() -> tuple[str, str]:
    from frbench.data import cache_path
    from frbench.errors import FrbenchError

    path = cache_path("cifar10")
    if not path.is_file():
        return f"not in {path.parent}", "frbench data fetch cifar10"
    try:
        from frbench.data import verify_dataset

        verify_dataset("cifar10")
    except FrbenchError as error:
        return str(error), "frbench data fetch cifar10"
    return f"verified in {path.parent}", ""
