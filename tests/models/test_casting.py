"""A twin whose weights are cast once computes what autocast computes, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from frbench.models import Normalized, build_model
from frbench.models.casting import Precast

SHAPES = {"tiny": (1, 8), "quick": (3, 32), "resnet18": (3, 32)}
HALF = torch.bfloat16


def built(name):
    channels, size = SHAPES[name]
    model = build_model(name, classes=10, channels=channels)
    with torch.no_grad():
        model(torch.rand(16, channels, size, size))  # statistics of its own
    return model, torch.rand(2, channels, size, size)


def answers(model, images):
    """Logits under autocast, and the gradient to the images of a sum of theirs."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=HALF, cache_enabled=False):
        logits = model.eval()(images)
    weights = torch.arange(logits.numel(), dtype=torch.float32).view_as(logits)
    return logits, torch.autograd.grad((logits.float() * weights).sum(), images)[0]


def assert_same(model, twin, images):
    for one, other in zip(answers(model, images), answers(twin, images), strict=True):
        assert one.abs().sum() > 0
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", SHAPES)
def test_twin_equals_the_model_under_autocast(name):
    model, images = built(name)
    before = copy.deepcopy(model.state_dict())
    twin = Precast(model, HALF)
    assert_same(model, twin, images)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad and p.dtype is torch.float32 for p in model.parameters())


def test_weights_of_layers_alone_are_cast():
    twin = Precast(built("tiny")[0], HALF)
    for module in twin.modules():
        wanted = HALF if isinstance(module, nn.Conv2d | nn.Linear) else torch.float32
        assert {p.dtype for p in module.parameters(recurse=False)} <= {wanted}


def test_refresh_takes_over_new_weights_and_statistics():
    model, images = built("tiny")
    twin = Precast(model, HALF)
    before = answers(twin, images)[0]
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
    assert torch.equal(answers(twin, images)[0], before), "until it is told"
    twin.refresh()
    assert not torch.equal(answers(twin, images)[0], before)
    assert_same(model, twin, images)


class Standardized(nn.Conv2d):
    """Computes with its weights before they are cast."""

    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)


@pytest.mark.parametrize(
    "layer", [Standardized(1, 4, 3), weight_norm(nn.Conv2d(1, 4, 3))], ids=["own", "parametrized"]
)
def test_weights_that_a_layer_computes_with_stay_as_they_are(layer):
    model = Normalized(nn.Sequential(layer, nn.Flatten(), nn.Linear(144, 10)), None)
    assert_same(model, Precast(model, HALF), torch.rand(2, 1, 8, 8))
