"""A small network on the real digits, trained in a moment, ready to be evaluated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frbench.data import Dataset, load_dataset, to_float
from frbench.evaluation import CellStore, ModelRecord, Target
from frbench.models import build_model, weights_digest


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_dataset("digits")


def as_target(model: nn.Module, name: str = "small", classes: int = 10) -> Target:
    record = ModelRecord(
        name=name,
        target="test",
        digest=weights_digest(model.state_dict(), name, None),
        architecture=name,
        parameters=sum(p.numel() for p in model.parameters()),
        dataset="digits",
        classes=classes,
        source="outside",
    )
    return Target(model.eval(), record)


def trained(model: nn.Module, digits: Dataset, steps: int) -> nn.Module:
    """The model after some steps on noisy digits, in eval mode."""
    images, labels = to_float(digits.train.images), digits.train.labels
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        noisy = (images + 0.2 * torch.randn_like(images)).clamp(0, 1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(noisy), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def _trained(digits: Dataset) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        return trained(model.append(nn.Linear(32, 10)), digits, steps=60)


@pytest.fixture(scope="session")
def _convolutional(digits: Dataset) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(build_model("tiny", classes=10, channels=1), digits, steps=30)


@pytest.fixture
def target(_trained: nn.Module) -> Target:
    return as_target(copy.deepcopy(_trained))


@pytest.fixture
def convolutional(_convolutional: nn.Module) -> Target:
    """A network with convolutions and BatchNorm, as `--search fast` folds them."""
    return as_target(_convolutional, "tiny")


@pytest.fixture
def make_target() -> object:
    return as_target


@pytest.fixture
def store(tmp_path: object) -> CellStore:
    return CellStore(tmp_path / "results")  # type: ignore[operator]
