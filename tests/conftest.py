"""What every test shares: a cache of its own, one thread, one seed, digits, made-up cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from frbench.data import Dataset, Split, load_dataset

if TYPE_CHECKING:  # the attack libraries take seconds to import, and few tests need them
    from frbench.attacks.spec import AttackSpec
    from frbench.evaluation.cells import Cell, ModelRecord
    from frbench.evaluation.target import Target

DATA = ("FRBENCH_CACHE", "FRBENCH_DATA")


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


@pytest.fixture(scope="session", autouse=True)
def _own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """No test reads or writes the user's cache; yields what the user's environment says."""
    users = {name: os.environ[name] for name in DATA if name in os.environ}
    with pytest.MonkeyPatch.context() as patch:
        for name in users:
            patch.delenv(name)
        patch.setenv("FRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield users


@pytest.fixture
def users_data(_own_data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, for a slow test of a dataset that has to be fetched."""
    for name in DATA:
        monkeypatch.delenv(name, raising=False)
    for name, value in _own_data.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The real digits."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def small_digits(digits: Dataset) -> Dataset:
    """480 training images of the real digits: 14 steps an epoch, seconds of training."""
    train = Split(digits.train.images[:480], digits.train.labels[:480], digits.train.sha256)
    return Dataset(digits.name, train, digits.test, digits.classes)


@pytest.fixture(scope="session")
def make_target() -> Callable[..., Target]:
    """Make a target of any model, in eval mode: (model, name, dataset)."""
    from frbench.evaluation.cells import ModelRecord
    from frbench.evaluation.target import Target
    from frbench.models import weights_digest

    def make(model: nn.Module, name: str = "small", dataset: str = "digits") -> Target:
        record = ModelRecord(
            name=name,
            target=name,
            digest=weights_digest(model.state_dict(), name, None),
            architecture=name,
            parameters=sum(p.numel() for p in model.parameters()),
            dataset=dataset,
            classes=10,
            source="outside",
        )
        return Target(model.eval(), record)

    return make


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
