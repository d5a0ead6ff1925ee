"""From what a user types (`trades+awp+ema`) to one recipe with one name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from frbench.discovery import BrokenModule, discover
from frbench.engine.mechanisms import MECHANISMS
from frbench.engine.recipe import Recipe, Regularizer, WeightAverage
from frbench.engine.settings import Frame
from frbench.errors import InputError
from frbench.names import unknown


@dataclass(frozen=True)
class Defense:
    """A recipe under its canonical name."""

    name: str
    recipe: Recipe
    summary: str = ""
    path: Path | None = None


def defenses() -> tuple[dict[str, Defense], tuple[BrokenModule, ...]]:
    """The named recipes of `defenses/`, and the files there that cannot be used."""
    modules, broken = discover("defenses")
    found: dict[str, Defense] = {}
    unusable = list(broken)
    for name, module in modules.items():
        path = Path(str(module.__file__))
        recipe = getattr(module, "recipe", None)
        if not isinstance(recipe, Recipe) or not _owns_its_name(name, recipe, modules):
            unusable.append(BrokenModule(path, 1, _problem(name, recipe)))
            continue
        useless = _hidden_field(recipe) or _useless_mechanism(recipe)
        if useless is not None:
            unusable.append(BrokenModule(path, 1, useless))
            continue
        summary = (inspect.getdoc(module) or "").split("\n")[0]
        found[name] = Defense(name, recipe, summary, path)
    return found, tuple(unusable)


def _owns_its_name(name: str, recipe: Recipe, modules: Mapping[str, ModuleType]) -> bool:
    """Whether `base` is the file's own name, or that of a file whose loss got mechanisms here."""
    if recipe.base == name:
        return True
    base = getattr(modules.get(recipe.base), "recipe", None)
    return (
        bool(recipe.mechanisms)
        and isinstance(base, Recipe)
        and type(base.objective) is type(recipe.objective)
    )


def _problem(name: str, recipe: object) -> str:
    if recipe is None:
        return "defines no `recipe`; end the file with `recipe = Recipe(...)`"
    if not isinstance(recipe, Recipe):
        return f"`recipe` is a {type(recipe).__name__}, not a Recipe"
    return (
        f"its recipe says base='{recipe.base}', which is another file's name; write base='{name}'"
    )


def _hidden_field(recipe: Recipe) -> str | None:
    """What is wrong with a field that `key=value` cannot reach: a setting of the frame bears its
    name. Those of the attack and of mechanisms stand behind a name and a dot."""
    kind = type(recipe.objective)
    for field in kind.model_fields:
        if field in Frame.model_fields:
            return (
                f"the field `{field}` of {kind.__name__} cannot be set, because {field}=VALUE is "
                f"a setting of every training; rename it, such as to `loss_{field}`"
            )
    return None


def _useless_mechanism(recipe: Recipe) -> str | None:
    """What is wrong with a mechanism that nothing would call, or look up by its kind."""
    for mechanism in recipe.mechanisms:
        name, ours = type(mechanism).__name__, MECHANISMS.get(mechanism.kind)
        if ours is not None:
            if isinstance(mechanism, ours):
                continue
            return f"'{mechanism.kind}' is the kind of {ours.__name__}; call that of {name} else"
        if isinstance(mechanism, WeightAverage):
            return (
                f"{name} averages weights, and those are found by the kinds of "
                "frbench/engine/mechanisms; put its class there, as CONTRIBUTING.md tells"
            )
        if not isinstance(mechanism, Regularizer):
            return f"nothing would call {name}; derive it from Regularizer"
    return None


def parse_defense(text: str) -> Defense:
    """The defense that `text` names: a file of `defenses/`, or a base and mechanisms with `+`.

    The order of parts carries no meaning, and a composition equal to a named recipe is that recipe.

    Raises:
        InputError: an unknown part (with the nearest known name), a broken file (with its line), or
            parts that do not fit together (with the reason).
    """
    known, broken = defenses()
    parts = [part.strip() for part in text.split("+")]
    if len(parts) == 1 and parts[0] in known:
        return known[parts[0]]
    if len(parts) > 1 and not parts[-1]:
        raise InputError(f"'{text}' ends in +: name a mechanism after it")
    for part in parts:
        _check_part(part, known, broken)
    # 'awp' is a recipe and a mechanism: a recipe where no other part brings a loss.
    bases = [p for p in parts if p not in MECHANISMS] or [p for p in parts if p in known][:1]
    if len(bases) > 1:
        raise InputError(
            f"'{bases[0]}' and '{bases[1]}' both bring a loss, and a recipe has one; compose one "
            f"of them with mechanisms ({', '.join(MECHANISMS)})"
        )
    if not bases:
        raise InputError(f"'{text}' has mechanisms only; start with a recipe: {', '.join(known)}")
    recipe = known[bases[0]].recipe
    extra = list(parts)
    extra.remove(bases[0])
    for part in extra:
        recipe = recipe + MECHANISMS[part]()
    return _canonical(recipe, known, "+".join([bases[0], *sorted(extra)]))


def composition(recipe: Recipe) -> str:
    """How a recipe is composed: its file, and the mechanisms that this file does not bring."""
    own = defenses()[0][recipe.base].recipe
    more = [m.kind for m in recipe.mechanisms if own.mechanism(m.kind) is None]
    return "+".join([recipe.base, *more])


def _check_part(part: str, known: dict[str, Defense], broken: tuple[BrokenModule, ...]) -> None:
    if part in known or part in MECHANISMS:
        return
    for module in broken:
        if module.path.stem == part:
            raise InputError(f"defense '{part}' cannot be used: {module}")
    raise unknown("defense", part, [*known, *MECHANISMS])


def _canonical(recipe: Recipe, known: Mapping[str, Defense], typed: str) -> Defense:
    """The named recipe that equals `recipe`, or its composition from the base, if that says it."""
    for defense in known.values():
        if defense.recipe.same_training(recipe):
            return defense
    composed = known[recipe.base].recipe
    for mechanism in recipe.mechanisms:
        if composed.mechanism(mechanism.kind) is None and mechanism.kind in MECHANISMS:
            composed = composed + MECHANISMS[mechanism.kind]()
    # Mechanisms that a file brings or changes cannot be told by their kinds alone.
    if not composed.same_training(recipe):
        return Defense(typed, recipe, f"composed: {typed}")
    # The name tells all, the authors' own settings too: those of the base, however it was typed.
    name = composition(recipe)
    return Defense(name, composed, f"composed: {name}")
