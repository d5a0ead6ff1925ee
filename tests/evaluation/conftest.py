"""A small network on the real digits, trained in a moment, ready to be evaluated."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from frbench.data import Dataset, to_float
from frbench.evaluation import CellStore, Target
from frbench.models import build_model


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
def target(_trained: nn.Module, make_target: Callable[..., Target]) -> Target:
    return make_target(copy.deepcopy(_trained))


@pytest.fixture
def convolutional(_convolutional: nn.Module, make_target: Callable[..., Target]) -> Target:
    """A network with convolutions and BatchNorm, as `--search fast` folds them."""
    return make_target(_convolutional, "tiny")


@pytest.fixture
def store(tmp_path: object) -> CellStore:
    return CellStore(tmp_path / "results")  # type: ignore[operator]
