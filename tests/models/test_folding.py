"""A folded network is the same function in eval mode, and follows the model that it came from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frbench.models import Normalization, Normalized, build_model
from frbench.models.folding import Folded

SHAPES = {"tiny": (1, 8), "quick": (3, 32), "resnet18": (3, 32), "preactresnet18": (3, 32)}


def shaken(model):
    """Give every BatchNorm layer statistics and weights of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
    return model


def built(name, dtype=torch.float64):
    channels, size = SHAPES[name]
    torch.manual_seed(0)
    normalization = Normalization((0.4,) * channels, (0.2,) * channels)
    model = build_model(name, classes=10, channels=channels, normalization=normalization)
    return shaken(model).to(dtype).eval(), torch.rand(2, channels, size, size, dtype=dtype)


@pytest.mark.parametrize("name", SHAPES)
def test_folded_equals_the_model_in_eval_mode(name):
    model, images = built(name)
    folded = Folded(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-9, atol=1e-9)
        single = Folded(model.float())(images.float())
        torch.testing.assert_close(single, model(images.float()), rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in folded.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_folding_removes_batchnorm_where_it_follows_a_convolution(name):
    model, _ = built(name)
    left = sum(isinstance(m, nn.BatchNorm2d) for m in Folded(model).modules())
    all_of_them = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert left == (9 if name == "preactresnet18" else 0) < all_of_them


@pytest.mark.parametrize("name", ["tiny", "preactresnet18"])
def test_refresh_takes_over_new_weights_and_statistics(name):
    model, images = built(name)
    folded = Folded(model)
    with torch.no_grad():
        before = folded(images)
        for tensor in (*model.net.parameters(), *model.net.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.1)
        assert torch.equal(folded(images), before)  # a twin, until told otherwise
        folded.refresh()
        torch.testing.assert_close(folded(images), model(images), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(folded(images), before)


def test_gradients_to_the_input_are_the_same():
    model, images = built("quick")
    gradients = []
    for network in (model, Folded(model)):
        x = images.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(network(x).square().sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_a_convolution_read_twice_keeps_its_batchnorm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)

        def forward(self, x):
            features = self.conv(x)
            return (self.bn(features) + features).mean((2, 3))

    model = shaken(Normalized(Twice(), None)).eval()
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(Folded(model)(images), model(images))


def test_control_flow_that_cannot_be_traced_is_left_as_it_is():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)

        def forward(self, x):
            features = self.bn(self.conv(x))
            return features.mean((2, 3)) if features.sum() > 0 else features.amax((2, 3))

    model = shaken(Normalized(Branching(), None)).eval()
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(Folded(model)(images), model(images))
