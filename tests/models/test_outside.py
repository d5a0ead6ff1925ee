from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from frbench.models import NORMALIZATIONS, Normalized, weights_digest
from frbench.models.outside import OutsideModel, confirm, renormalized

CIFAR = NORMALIZATIONS["cifar10"]


class Brightness(nn.Module):
    """Calls an image light when its mean is above `threshold`: right only behind its own scale."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x):
        light = x.mean((1, 2, 3)) - self.threshold
        return torch.stack([-light, light], dim=1)


def outside(threshold, normalization, certainty):
    module = Normalized(Brightness(threshold), normalization).eval()
    digest = weights_digest(module.state_dict(), "x", normalization)
    return OutsideModel(
        module, "x", "file:x", "x", normalization, "cifar10", 2, digest, certainty=certainty
    )


@pytest.fixture
def dark_and_light():
    levels = torch.tensor([0.3, 0.7]).repeat(32)
    return levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), torch.tensor([0, 1] * 32)


def test_a_guessed_normalization_gives_way_to_the_one_that_explains_the_labels(dark_and_light):
    found = confirm(outside(0.0, None, "guessed"), *dark_and_light)
    assert found.normalization == CIFAR
    assert found.accuracy == 1.0
    assert not found.warning
    assert str(found) == "100.0% clean on 64 training images"


def test_a_declared_normalization_stays_with_a_warning(dark_and_light):
    found = confirm(outside(0.0, None, "declared"), *dark_and_light)
    assert found.normalization is None
    assert found.accuracy == 0.5
    assert "0.4914" in found.warning
    assert "100.0%" in found.warning


def test_no_normalization_is_found_too(dark_and_light):
    found = confirm(outside(0.5, CIFAR, "guessed"), *dark_and_light)
    # Behind the normalization 0.7 becomes 0.9 and 0.3 becomes -0.6: both scales separate them.
    assert found.normalization == CIFAR
    found = confirm(outside(0.6, CIFAR, "declared"), dark_and_light[0] * 0.95, dark_and_light[1])
    assert found.normalization == CIFAR
    assert not found.warning


def test_a_model_near_chance_is_a_warning(dark_and_light):
    found = confirm(outside(9.0, None, "declared"), *dark_and_light)
    assert "near chance" in found.warning


def test_a_model_with_its_own_normalization_is_measured_as_it_is(dark_and_light):
    model = dataclasses.replace(outside(0.5, None, "declared"), module=Brightness(0.5))
    assert confirm(model, *dark_and_light).accuracy == 1.0


def test_another_normalization_is_another_model():
    model = outside(0.0, None, "guessed")
    other = renormalized(model, CIFAR)
    assert other.normalization == CIFAR
    assert other.digest != model.digest
    assert other.module.net is model.module.net
