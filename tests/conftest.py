"""What every test shares: one thread, one seed, digits, made-up cells, the option `--defense`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from frbench.data import Dataset, Split, load_dataset

if TYPE_CHECKING:  # the attack libraries take seconds to import, and few tests need them
    from frbench.attacks.spec import AttackSpec
    from frbench.evaluation.cells import Cell, ModelRecord


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--defense",
        action="append",
        default=[],
        help="check this recipe or composition instead of every registered one",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # on networks this small, more of them only wait for each other


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test that draws weights sees the same ones alone, in any order and on any worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_digits() -> Dataset:
    """480 training images of the real digits: 14 steps an epoch, seconds of training."""
    data = load_dataset("digits")
    train = Split(data.train.images[:480], data.train.labels[:480], data.train.sha256)
    return Dataset(data.name, train, data.test, data.classes)


@pytest.fixture(scope="session")
def model_record() -> Callable[..., ModelRecord]:
    """Make the record of a WRN-34-10 of the paper preset, unless told otherwise."""
    from frbench.evaluation.cells import ModelRecord

    def make(name: str, **changes: Any) -> ModelRecord:
        fields: dict[str, Any] = {
            "name": name,
            "target": f"runs/{name}",
            "digest": name.ljust(64, "0")[:64],
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

    return make


@pytest.fixture(scope="session")
def make_cell() -> Callable[..., Cell]:
    """Make a cell with chosen verdicts, of all stages or a string a stage, to test tables."""
    from frbench.attacks.columns import specs
    from frbench.evaluation.cells import Cell, DataRange

    def make(
        model: ModelRecord,
        attack: str | AttackSpec,
        verdicts: str | dict[str, str],
        *,
        start: int = 0,
        sha256: str = "d" * 64,
        **changes: Any,
    ) -> Cell:
        spec = specs()[attack] if isinstance(attack, str) else attack
        stages = dict.fromkeys(spec.stages, verdicts) if isinstance(verdicts, str) else verdicts
        stop = start + len(next(iter(stages.values())))
        fields: dict[str, Any] = {
            "model": model,
            "attack": spec,
            "data": DataRange(dataset=model.dataset, sha256=sha256, start=start, stop=stop),
            "batch": 128,
            "versions": {"torch": "2.11.0"},
            "verdicts": stages,
            "seconds": dict.fromkeys(stages, 1.5),
            "provenance": {"device": "a test device", "commit": "abc"},
            "updated": "2026-11-22T12:00:00+00:00",
        }
        return Cell(**{**fields, **changes})

    return make
