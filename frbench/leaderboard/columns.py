"""The columns of a table: one attack with one setting each, in order of strength."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from frbench.attacks.spec import AttackSpec, format_length
from frbench.leaderboard.rows import Column

_PART = "a part of AutoAttack without its APGD"
_STRENGTH = ("clean", "fgsm", _PART, "pgd", "cw", "aa")


def columns_of(specs: Mapping[str, AttackSpec]) -> list[Column]:
    """In order of strength; two settings of one attack are two columns that say how they differ.

    Args:
        specs: the attacks by identity, see `selection.spec_id`.
    """
    names = Counter(spec.name for spec in specs.values())
    columns = []
    for identity, spec in sorted(specs.items(), key=lambda item: _order(*item)):
        suffix = _difference_text(spec, [s for s in specs.values() if s.name == spec.name])
        columns.append(
            Column(
                key=spec.name if names[spec.name] == 1 else f"{spec.name}@{identity}",
                label=spec.label + (f" ({suffix})" if suffix else ""),
                settings=_settings(spec),
                attack=spec,
            )
        )
    return columns


def _order(identity: str, spec: AttackSpec) -> tuple[int, int, int, str]:
    family = spec.name.rstrip("0123456789")
    if spec.is_autoattack:
        family = "aa" if any(stage.startswith("apgd") for stage in spec.stages) else _PART
    place = _STRENGTH.index(family) if family in _STRENGTH else len(_STRENGTH)
    return place, len(spec.stages), spec.steps or 0, identity


def _difference_text(spec: AttackSpec, same_name: list[AttackSpec]) -> str:
    """The settings in which attacks of one name differ."""
    fields = [
        field
        for field in AttackSpec.model_fields
        if any(getattr(other, field) != getattr(spec, field) for other in same_name)
    ]
    return ", ".join(f"{field} {_text(getattr(spec, field))}" for field in fields)


def _text(value: object) -> str:
    """A setting as people write it; of those with a point, all are lengths."""
    return format_length(value) if isinstance(value, float) else str(value)


def _settings(spec: AttackSpec) -> str:
    parts = [spec.threat_model if spec.eps else "unperturbed images"]
    if spec.steps:
        step = f" of {format_length(spec.step_size)}" if spec.step_size else ""
        parts.append(f"{spec.steps} step{'s' if spec.steps > 1 else ''}{step}")
    if spec.random_start:
        parts.append("random start")
    if len(spec.stages) > 1:
        parts.append(" + ".join(stage.upper() for stage in spec.stages))
    if spec.eps:
        parts.append(spec.library)
    return ", ".join(parts)
