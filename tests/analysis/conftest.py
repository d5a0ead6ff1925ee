"""Small models and images for the analyses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from frbench.analysis.inputs import ImageSet
from frbench.evaluation.target import Target


def train_on(samples: ImageSet, seed: int) -> nn.Module:
    """A small network that has learnt the digits, in about a second."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10)
        )
    weights = list(model.parameters())
    for _ in range(80):  # by hand: importing torch's optimizers takes seconds
        loss = nn.functional.cross_entropy(model(samples.images), samples.labels)
        with torch.no_grad():
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight -= 0.3 * gradient
    return model


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """200 real 8 x 8 images of digits, one channel."""
    data = load_digits()
    images = torch.from_numpy(data.images[:200]).float().div(16).unsqueeze(1)
    return ImageSet(images, torch.from_numpy(data.target[:200]).long())


@pytest.fixture(scope="session")
def targets(digits: ImageSet, make_target: Callable[..., Target]) -> list[Target]:
    models = [train_on(digits, seed) for seed in (0, 1)]
    return [make_target(model, name) for model, name in zip(models, ("one", "two"), strict=True)]
