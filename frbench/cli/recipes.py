"""Commands for those who write recipes: `check` and `new`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

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
    out, honest = plain_console(), []
    for found in chosen:
        seen = Column("seen instead", overflow="fold")  # nothing is cut on a narrow terminal
        table = Table("check", "kept", seen, title=found.name, title_justify="left")
        results = check_recipe(found)
        for result in results:
            table.add_row(result.name, "yes" if result.passed else "NO", result.detail)
        out.print(table)
        if all(result.passed for result in results):
            honest.append(found.name)
    if honest:  # a step that fails has no cost to count
        units = Table("recipe", "declared", "counted", "minimum", title="Forward units a step")
        for cost in forward_units_table(honest):
            numbers = (str(cost.declared), f"{cost.counted:.2f}", str(cost.minimum))
            units.add_row(cost.defense, *numbers)
        out.print(units)
    for module in broken if every else ():
        out.print(f"cannot be used: {module}", soft_wrap=True)
    if len(honest) < len(chosen) or (every and broken):
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
