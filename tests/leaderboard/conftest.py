"""Small cells with chosen verdicts, to test tables; never written below results/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from frbench.attacks.columns import specs
from frbench.attacks.spec import AttackSpec
from frbench.evaluation.cells import Cell, DataRange, ModelRecord


@pytest.fixture
def model_record() -> Callable[..., ModelRecord]:
    """Make the record of a WRN-34-10 of the paper preset, unless told otherwise."""
    return _record


def _record(name: str, **changes: Any) -> ModelRecord:
    fields: dict[str, Any] = {
        "name": name,
        "target": f"runs/{name}",
        "digest": (name + "0" * 64)[:64],
        "architecture": "wrn-34-10",
        "parameters": 46_160_474,
        "dataset": "cifar10",
        "classes": 10,
        "source": "run",
        "defense": name,
        "preset": "paper",
        "protocol": "common",
        "weights": "best",
        "seed": 0,
        "epoch": 76,
    }
    return ModelRecord(**{**fields, **changes})


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    """Make a cell from a record, an attack and verdicts."""

    def make(
        model: ModelRecord,
        attack: str | AttackSpec,
        verdicts: str | dict[str, str],
        *,
        start: int = 0,
        **changes: Any,
    ) -> Cell:
        spec = specs()[attack] if isinstance(attack, str) else attack
        stages = dict.fromkeys(spec.stages, verdicts) if isinstance(verdicts, str) else verdicts
        n = len(next(iter(stages.values())))
        data = DataRange(dataset="cifar10", sha256="d" * 64, start=start, stop=start + n)
        fields: dict[str, Any] = {
            "model": model,
            "attack": spec,
            "data": data,
            "batch": 128,
            "versions": {"torch": "2.11.0"},
            "verdicts": stages,
            "seconds": dict.fromkeys(stages, 1.5),
            "updated": "2026-11-22T12:00:00+00:00",
        }
        return Cell(**{**fields, **changes})

    return make
