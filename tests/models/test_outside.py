from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from frbench.errors import InputError
from frbench.models import NORMALIZATIONS, Normalized, weights_digest
from frbench.models.outside import OutsideModel, confirm, renormalized, try_model

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


class Fixed(nn.Module):
    """Gives the same answer whatever it sees."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


IMAGES = torch.rand(4, 3, 32, 32)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(4, 100), "100 classes, the dataset has 10"),
        (torch.full((4, 10), float("nan")), "4 of 4 images are NaN"),
        (torch.tensor([[0.0] * 10] * 3 + [[float("inf")] * 10]), "1 of 4 images"),
        (torch.zeros(4, 10, 1, 1), "not one row of logits"),
        ((torch.zeros(4, 10),), "tuple"),
    ],
)
def test_senseless_logits_are_refused(answer, message):
    with pytest.raises(InputError, match=message):
        try_model(Fixed(answer), IMAGES, 10)


def test_a_model_of_another_input_size_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 10))
    with pytest.raises(InputError, match="the model cannot take images of 3x32x32: mat1 and mat2"):
        try_model(net, IMAGES, 10)


def test_images_outside_the_unit_range_are_refused():
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        try_model(Fixed(torch.zeros(4, 10)), IMAGES * 255, 10)


def test_a_sound_model_passes():
    try_model(Fixed(torch.zeros(4, 10)), IMAGES, 10)
