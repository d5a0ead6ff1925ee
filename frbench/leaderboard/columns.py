"""The columns of a table: one attack with one setting each, in order of strength."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from frbench.attacks.spec import AA_STAGES, AttackSpec, format_length
from frbench.leaderboard.rows import Column

LABELS = {"clean": "Clean", "fgsm": "FGSM", "pgd20": "PGD-20", "cw": "C&W", "aa": "AA"}
_STRENGTH = {name: place for place, name in enumerate(LABELS)}


def columns_of(specs: Mapping[str, AttackSpec]) -> list[Column]:
    """In order of strength; two settings of one attack are two columns that say how they differ."""
    names = Counter(spec.name for spec in specs.values())
    columns = []
    for identity, spec in sorted(specs.items(), key=lambda item: _order(*item)):
        same_name = [s for s in specs.values() if s.name == spec.name]
        suffix = _difference_text(spec, same_name)
        columns.append(
            Column(
                key=spec.name if names[spec.name] == 1 else f"{spec.name}@{identity}",
                label=LABELS.get(spec.name, spec.name) + (f" ({suffix})" if suffix else ""),
                settings=_settings(spec),
                attack=spec,
            )
        )
    return columns


def _order(identity: str, spec: AttackSpec) -> tuple[int, str, int, str]:
    return _STRENGTH.get(spec.name, len(_STRENGTH)), spec.name, len(spec.stages), identity


def _difference_text(spec: AttackSpec, same_name: list[AttackSpec]) -> str:
    """What sets this column apart: fewer stages than AutoAttack has, or another setting."""
    if spec.name == "aa" and spec.stages != AA_STAGES:
        return "+".join(spec.stages) + " only"
    fields = [
        field
        for field in AttackSpec.model_fields
        if any(getattr(other, field) != getattr(spec, field) for other in same_name)
    ]
    return ", ".join(f"{field} {getattr(spec, field)}" for field in fields)


def _settings(spec: AttackSpec) -> str:
    parts = [spec.threat_model if spec.eps else "unperturbed images"]
    if spec.steps:
        step = f" of {format_length(spec.step_size)}" if spec.step_size else ""
        parts.append(f"{spec.steps} step{'s' if spec.steps > 1 else ''}{step}")
    if spec.random_start:
        parts.append("random start")
    if len(spec.stages) > 1:
        parts.append("+".join(spec.stages))
    if spec.eps:
        parts.append(spec.library)
    return ", ".join(parts)
