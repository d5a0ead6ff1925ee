"""Commands for those who write recipes: `check` and `new`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from frbench.cli.outcome import plain_console
from frbench.errors import InputError


def check(
    defense: Annotated[
        str | None, typer.Argument(metavar="[DEFENSE]", help="A name or a composition.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every registered recipe.")] = False,
) -> None:
    """Check that a recipe keeps its promises to the engine, and what a step costs.

    Examples:

        frbench check trades+awp+ema

        frbench check --all
    """
    from frbench.engine.conformance import check_recipe, forward_units_table
    from frbench.engine.registry import defenses, parse_defense

    if every == (defense is not None):
        raise InputError("give one DEFENSE, or --all for every registered one")
    known, broken = defenses()
    chosen = list(known.values()) if defense is None else [parse_defense(defense)]
    out, failed = plain_console(), bool(broken and every)
    for found in chosen:
        table = Table("check", "kept", "what was seen", title=found.name, title_justify="left")
        for result in check_recipe(found):
            failed |= not result.passed
            table.add_row(result.name, "yes" if result.passed else "NO", result.detail)
        out.print(table)
    units = Table("recipe", "declared", "counted", "minimum", title="Forward units a step")
    for cost in forward_units_table([found.name for found in chosen]):
        units.add_row(cost.defense, str(cost.declared), f"{cost.counted:.2f}", str(cost.minimum))
    out.print(units)
    for module in broken if every else ():
        out.print(f"cannot be used: {module}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def new(
    name: Annotated[str, typer.Argument(help="Of the new recipe: a Python name in lower case.")],
    source: Annotated[str, typer.Option("--from", help="A recipe to start from.")] = "pgd_at",
) -> None:
    """Write a working recipe and its test, to be changed into yours.

    Example:

        frbench new score --from trades
    """
    from frbench.engine.scaffold import new_recipe

    recipe, test = new_recipe(name, source)
    print(recipe)
    print(test)
    plain_console(stderr=True, soft_wrap=True).print(
        f"change the formula in {recipe.name}, the value in {test.name}, then: frbench check {name}"
    )
