"""A plan: every setting of one run, resolved from recipe, protocol, preset and command line."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from frbench import storage
from frbench.engine.mechanisms import MECHANISMS
from frbench.engine.presets import find_preset
from frbench.engine.recipe import Recipe
from frbench.engine.registry import parse_defense
from frbench.engine.settings import Frame
from frbench.errors import InputError
from frbench.models.architectures import check_architecture
from frbench.names import lookup, unknown

Protocol = Literal["common", "original"]
ENGINE_VERSION = 4
"""Raised whenever the same settings would train other weights than before."""


@dataclass(frozen=True)
class Plan:
    """What to train, completely: two equal plans on as many threads of one CPU are bit-equal."""

    defense: str
    preset: str
    protocol: Protocol
    seed: int
    recipe: Recipe
    frame: Frame
    changed: tuple[str, ...] = ()
    """What the command line changed, as `key=value`; a default that was typed changes nothing."""

    @property
    def trajectory(self) -> str:
        """Digest of all that moves the weights; an average and test images watch and move none."""
        described = self.recipe.described()
        if self.recipe.average is not None:
            described["mechanisms"].pop(self.recipe.average.kind)
        return storage.canonical_digest(
            {
                "engine": ENGINE_VERSION,
                "recipe": described,
                "frame": self.frame.model_dump(mode="json", exclude={"test_images"}),
                "seed": self.seed,
            },
            length=8,
        )

    @property
    def name(self) -> str:
        """Name of the run folder: readable, and different for every different run."""
        watched = f"test{self.frame.test_images}-" if self.frame.test_images else ""
        return f"{self.preset}-{self.defense}-s{self.seed}-{watched}{self.saved}"

    @property
    def saved(self) -> str:
        """End of the name of every run that saves the same weights: trajectory and average."""
        if self.recipe.average is None:
            return self.trajectory
        average = self.recipe.described()["mechanisms"][self.recipe.average.kind]
        return f"{storage.canonical_digest(average, length=4)}-{self.trajectory}"

    @property
    def forward_units(self) -> int:
        """Declared cost of one step in forward units: the recipe's, and one for each forward of the
        frame that only moves BatchNorm statistics."""
        extra = len(self.frame.statistics_before) + len(self.frame.statistics_after)
        return self.recipe.forward_units() + extra

    def settings(self) -> dict[str, Any]:
        """Everything, as JSON-like data for the run folder."""
        return {
            "defense": self.defense,
            "preset": self.preset,
            "protocol": self.protocol,
            "seed": self.seed,
            "recipe": self.recipe.described(),
            "frame": self.frame.model_dump(mode="json"),
            "changed": list(self.changed),
        }

    def with_seed(self, seed: int) -> Plan:
        """The same plan with another seed."""
        return dataclasses.replace(self, seed=seed)


def resolve(
    defense: str,
    *,
    preset: str,
    protocol: str = "common",
    seed: int = 0,
    overrides: Mapping[str, str] | None = None,
) -> Plan:
    """Merge the layers; each may change what the ones before it said.

    Layers: the recipe's defaults in the common frame, its authors' settings (protocol `original`),
    the preset, the command line.

    Args:
        defense: a name or a composition, see `parse_defense`.
        preset: a name of `frbench list presets`.
        protocol: `common` (only what defines the defense differs) or `original`; where both are
            the same settings, the plan is of the common one.
        seed: of weights, batches and attack noise.
        overrides: `key -> value` as typed, such as `{"fr.weight": "0.2", "attack.eps": "4/255"}`.

    Raises:
        InputError: an unknown name or key (with the nearest known), or an impossible value.
    """
    if protocol not in get_args(Protocol):
        raise unknown("protocol", protocol, get_args(Protocol))
    if seed < 0:
        raise InputError(f"seed {seed} is negative; give 0 or more")
    found, chosen = parse_defense(defense), find_preset(preset)
    typed = dict(overrides or {})
    layers = _Layers(found.recipe)
    if protocol == "original":
        usual = str(chosen.overrides.get("architecture", Frame().architecture))
        layers.apply_original(typed.get("architecture", usual))
    layers.apply(chosen.overrides, where_present=True)
    try:
        before = _values(*layers.built())
    except InputError:  # only the command line makes these settings possible
        before = {}
    layers.apply({key: _typed(value) for key, value in typed.items()})
    recipe, frame = layers.built()
    _check(recipe, frame)
    _refuse_idle(frame, typed)
    after = _values(recipe, frame)
    changed = tuple(
        f"{k}={v}" for k, v in typed.items() if k not in before or after[k] != before[k]
    )
    plan = Plan(found.name, preset, protocol, seed, recipe, frame, changed)  # type: ignore[arg-type]
    if protocol == "common":
        return plan
    try:
        common = resolve(defense, preset=preset, seed=seed, overrides=overrides)
    except InputError:  # only the authors' settings make these possible
        return plan
    return common if common.saved == plan.saved else plan


def check_original(recipe: Recipe) -> None:
    """Build the authors' settings of every architecture and mechanism that a recipe tells of.

    Raises:
        InputError: an unknown key, architecture or mechanism, or an impossible value; names the
            field of the recipe and the key.
    """
    _check_layers("original", recipe, {})
    for architecture, layer in recipe.original_for.items():
        where = f'original_for["{architecture}"]'
        with _told(where):
            check_architecture(architecture)
        _check_layers(where, recipe, layer)
    for kind, layer in recipe.original_with.items():
        where, whole = f'original_with["{kind}"]', recipe
        with _told(where):
            mechanism = lookup("mechanism", kind, MECHANISMS)()
        if recipe.mechanism(kind) is None:
            try:
                whole = recipe + mechanism
            except InputError:  # it never rides along here: an average beside another
                continue
        _check_layers(where, whole, layer)


def _check_layers(where: str, recipe: Recipe, layer: Mapping[str, Any]) -> None:
    with _told(where):
        layers = _Layers(recipe)
        layers.apply(recipe.original)
        layers.apply(layer)
        _check(*layers.built())


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Let an error begin with the field of the recipe that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


class _Layers:
    """Values of every key, overwritten layer by layer and validated once at the end."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.parts = recipe.parts
        self.changes: dict[str, dict[str, Any]] = {part: {} for part in self.parts}
        self.frame: dict[str, Any] = {}

    def keys(self) -> list[str]:
        names = [
            f"{part}.{field}".removeprefix(".")
            for part, model in self.parts.items()
            for field in type(model).model_fields
        ]
        return [*Frame.model_fields, *names]

    def apply(self, layer: Mapping[str, Any], *, where_present: bool = False) -> None:
        for key, value in layer.items():
            part, _, field = key.rpartition(".")
            if key in Frame.model_fields:
                self.frame[key] = value
            elif part in self.parts and field in type(self.parts[part]).model_fields:
                self.changes[part][field] = value
            elif not (where_present and part in MECHANISMS):
                raise self._unknown(key)

    def apply_original(self, architecture: str) -> None:
        """The recipe's `original`, and what it adds for an architecture and for mechanisms."""
        self.apply(self.recipe.original)
        self.apply(self.recipe.original_for.get(architecture, {}))
        for mechanism in self.recipe.mechanisms:
            self.apply(self.recipe.original_with.get(mechanism.kind, {}))

    def _unknown(self, key: str) -> InputError:
        """The error for a key that does not exist; `eps` is `attack.eps` rather than `epochs`."""
        for known in self.keys():
            if known.rpartition(".")[2] == key:
                return InputError(f"unknown key '{key}': did you mean '{known}'?")
        return unknown("key", key, self.keys())

    def built(self) -> tuple[Recipe, Frame]:
        frame = _rebuild(Frame(), self.frame, "")
        changes = {**self.changes, "swa": {**self._swa_start(frame), **self.changes.get("swa", {})}}
        rebuilt = {name: _rebuild(p, changes[name], name) for name, p in self.parts.items()}
        recipe = self.recipe.rebuilt(
            objective=rebuilt[""],
            attack=rebuilt["attack"],
            mechanisms=tuple(rebuilt[m.kind] for m in self.recipe.mechanisms),
        )
        return recipe, frame

    def _swa_start(self, frame: Frame) -> dict[str, int]:
        """SWA averages from the first drop of the learning rate on, unless its recipe says when."""
        swa = self.parts.get("swa")
        if swa is None or "start_epoch" in swa.model_fields_set or frame.schedule == "onecycle":
            return {}
        return {"start_epoch": min(frame.milestones)} if frame.milestones else {}


def _rebuild(part: BaseModel, changes: Mapping[str, Any], prefix: str) -> Any:
    """A validated copy of `part`; raises InputError that names key, value and reason."""
    values = {field: getattr(part, field) for field in type(part).model_fields}
    try:
        return type(part)(**{**values, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(x) for x in (prefix, *first["loc"][:1]) if x != "")
        reason = first["msg"].removeprefix("Value error, ")
        lead = f"{key}={first['input']}{_meaning(part, first['loc'][0])}: " if first["loc"] else ""
        raise InputError(f"impossible setting {lead}{reason[0].lower()}{reason[1:]}") from None


def _meaning(part: BaseModel, field: int | str) -> str:
    """What a field is, in parentheses: its unit tells why a value of another one is impossible."""
    described = type(part).model_fields.get(str(field))
    return f" ({described.description})" if described and described.description else ""


def _values(recipe: Recipe, frame: Frame) -> dict[str, Any]:
    """Every setting by its key, as `key=value` names it."""
    inner = {f"{part}.{field}".removeprefix("."): value for part, model in recipe.parts.items()
             for field, value in model}  # fmt: skip
    return {**inner, **dict(frame)}


def _typed(text: str) -> Any:
    """A value as typed: `8/255` is a number, `75,90` a tuple; the rest is left to validation."""
    if "," in text:
        return tuple(_typed(item) for item in text.split(",") if item)
    try:
        return float(Fraction(text)) if "/" in text else text
    except (ValueError, ZeroDivisionError, OverflowError):
        return text


def _check(recipe: Recipe, frame: Frame) -> None:
    for mechanism in recipe.mechanisms:
        if mechanism.start_epoch >= frame.epochs:
            raise InputError(
                f"{mechanism.kind}.start_epoch={mechanism.start_epoch} is beyond the last epoch "
                f"{frame.epochs - 1}; give a smaller one"
            )


def _refuse_idle(frame: Frame, typed: Mapping[str, str]) -> None:
    """Raise InputError for what was typed and does nothing beside another setting."""
    cycling = frame.schedule == "onecycle"
    idle = {
        "milestones": ("schedule", "milestones") if cycling else None,
        "warmup": None if cycling else ("schedule", "onecycle"),
        "padding": None if frame.pad else ("pad", "4"),
    }
    for key, beside in idle.items():
        if key in typed and beside is not None:
            cause, other = beside
            raise InputError(
                f"{key}={typed[key]} does nothing with {cause}={getattr(frame, cause)}; "
                f"add {cause}={other} or leave it out"
            )


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """`["epochs=10", "fr.weight=0.2"]` as a mapping; InputError at what is no `key=value`."""
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise InputError(f"'{item}' is not key=value, such as epochs=10")
        if key.strip() in pairs:
            raise InputError(f"'{key.strip()}' is given twice; once is enough")
        pairs[key.strip()] = value.strip()
    return pairs
