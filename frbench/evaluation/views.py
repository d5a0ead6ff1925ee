"""Views of a training: which of its weights a row stands for, and what it says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from frbench.engine.mechanisms import AVERAGES
from frbench.engine.registry import composition, parse_defense
from frbench.errors import InputError


def headline_view(mechanisms: dict[str, object]) -> str:
    """The view that a defense's row reports: its average's best weights, or simply the best."""
    return next((f"{kind}-best" for kind in AVERAGES if kind in mechanisms), "best")


def row_name(defense: str, view: str) -> str:
    """The defense that a view of a run stands for: without its average, that of the plain weights.

    `at_fr_swa` at view `best` is `at_fr`: the same training, not averaged. Of a recipe that is not
    here any more, only a composition such as `mine+swa` still tells this.
    """
    if "-" in view:
        return defense
    try:
        found = parse_defense(defense)
    except InputError:
        return "+".join(part for part in defense.split("+") if part not in AVERAGES)
    mechanisms, average = found.recipe.mechanisms, found.recipe.average
    if average is None:
        return defense
    plain = found.recipe.rebuilt(mechanisms=tuple(m for m in mechanisms if m is not average))
    with contextlib.suppress(InputError):  # a mechanism of the file's own has no name to compose
        shorter = parse_defense(composition(plain))
        if shorter.recipe.same_training(plain):
            return shorter.name
    return f"{defense} without {average.kind}"  # a file gave its mechanisms other settings


def changes(changed: Sequence[str], view: str) -> list[str]:
    """Those of the command line's `key=value` that reach the weights of a view.

    Test images only watch, and an average's settings leave the plain weights as they are.
    """
    idle = ("test_images=", *(() if "-" in view else (f"{kind}." for kind in AVERAGES)))
    return [change for change in changed if not change.startswith(idle)]
