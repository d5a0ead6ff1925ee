from __future__ import annotations

import math

import pytest
import torch

from frbench.errors import InputError
from frbench.models import NORMALIZATIONS, Normalization, architectures, build_model
from frbench.models.quick import PatchConv, quick


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962),
        ("preactresnet18", 11_172_170),
        ("wrn-34-10", 46_160_474),
        ("wrn-28-10", 36_479_194),
    ],
)
def test_published_architectures_have_the_published_number_of_parameters(name, count):
    with torch.device("meta"):  # shapes only: nothing is allocated or drawn
        model = build_model(name, classes=10)
    assert parameters(model) == count


@pytest.mark.parametrize("name", ["quick", "resnet18", "preactresnet18"])
def test_logits_have_one_column_a_class(name):
    model = build_model(name, classes=7).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_tiny_takes_digits_of_one_channel_and_moves_batchnorm_statistics():
    model = build_model("tiny", classes=10, channels=1)
    assert 1_000 < parameters(model) < 10_000
    before = {n: b.clone() for n, b in model.named_buffers()}
    assert model(torch.rand(4, 1, 8, 8)).shape == (4, 10)
    assert all(not torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_wide_resnet_convolutions_start_as_kaiming_fan_out():
    net = build_model("wrn-28-10", classes=10).net
    conv = net.block3.layer[1].conv1.weight
    expected = math.sqrt(2 / (9 * conv.shape[0]))
    assert conv.std().item() == pytest.approx(expected, rel=0.01)
    assert torch.all(net.fc.bias == 0)


def test_preactresnet18_is_rice_network_with_the_activated_shortcut():
    net = build_model("preactresnet18", classes=10).net.eval()
    block = net.layer2[0]
    x = torch.randn(1, 64, 8, 8)
    with torch.no_grad():
        hidden = block.conv2(torch.relu(block.bn2(block.conv1(torch.relu(block.bn1(x))))))
        assert torch.equal(block(x), hidden + block.shortcut(torch.relu(block.bn1(x))))
    assert isinstance(net.bn, torch.nn.BatchNorm2d)


def test_quick_sees_patches_and_halves_them_in_later_stages():
    net = quick(10)
    x = net.stem(torch.rand(1, 3, 32, 32))
    assert x.shape == (1, 32, 8, 8)
    assert net.stages(x).shape == (1, 128, 2, 2)


def test_patches_are_a_convolution_with_their_stride():
    conv, images = PatchConv(3, 5, patch=4).double(), torch.rand(2, 3, 32, 24).double()
    images.requires_grad_(True)
    expected = torch.nn.functional.conv2d(images, conv.weight, stride=4)
    assert torch.allclose(conv(images), expected, rtol=0, atol=1e-12)
    leaves = (images, conv.weight)
    found = torch.autograd.grad(conv(images).square().sum(), leaves)
    for one, other in zip(found, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)


def test_patches_are_cast_as_autocast_casts_the_operands_of_a_product():
    conv, images = PatchConv(3, 5, patch=4), torch.rand(2, 3, 32, 24, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = conv(images)
    rows = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).flatten(3)
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
    expected = torch.nn.functional.linear(rows.bfloat16(), weight.bfloat16()).permute(0, 3, 1, 2)
    assert features.dtype == torch.bfloat16 and torch.equal(features, expected)
    leaves, direction = (images, conv.weight), torch.randn(expected.shape).bfloat16()
    found = torch.autograd.grad(features, leaves, direction)
    for one, other in zip(found, torch.autograd.grad(expected, leaves, direction), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_quick_averages_over_the_map_with_a_gradient_in_the_layout_of_the_layers_below():
    net, maps, gradients = quick(10).eval(), [], []
    net.stages.register_forward_hook(lambda _, inputs, output: maps.append(output))
    net.stages.register_full_backward_hook(lambda _, below, above: gradients.append(above[0]))
    logits = net(torch.rand(4, 3, 32, 32, requires_grad=True))
    torch.testing.assert_close(logits, net.linear(maps[0].mean((2, 3))))
    logits.sum().backward()
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


def test_normalization_is_inside_the_model_and_outside_its_state_dict():
    cifar = NORMALIZATIONS["cifar10"]
    model = build_model("quick", classes=10, normalization=cifar).eval()
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cifar.mean, cifar.std))
    with torch.no_grad():
        assert torch.equal(model(x), model.net((x - mean) / std))
    assert all(name.startswith("net.") for name in model.state_dict())


def test_without_normalization_the_model_is_the_bare_network():
    model = build_model("quick", classes=10).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), model.net(x))


def test_timm_models_come_by_prefix():
    model = build_model("timm:resnet10t", classes=5).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet81", "resnet18"),
        ("wrn-34", "wrn-34-10"),
        ("wrn-35-10", "6n . 4"),
        ("timm:resnet10", "resnet10t"),
    ],
)
def test_unknown_architecture_names_the_nearest(name, hint):
    with pytest.raises(InputError, match=hint):
        build_model(name, classes=10)


def test_wrong_channels_are_one_clear_error():
    with pytest.raises(InputError, match="3 channels, not 1"):
        build_model("resnet18", classes=10, channels=1)
    with pytest.raises(InputError, match="normalization of 3 channels"):
        build_model("tiny", classes=10, channels=1, normalization=NORMALIZATIONS["cifar10"])


def test_a_normalization_that_divides_by_zero_is_refused():
    with pytest.raises(InputError, match="positive std"):
        Normalization((0.5,), (0.0,))


def test_every_architecture_says_what_it_is():
    assert all(name == a.name and a.summary for name, a in architectures().items())
