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


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_weights_in_half_precision_give_what_autocast_gives_bit_for_bit(name, half):
    """After a refresh as well, and the gradient to the images too."""
    model, images = built(name, torch.float32)
    cast, plain = Folded(model, half), Folded(model)
    layers = [m for m in cast.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for refreshed in (False, True):
        assert {p.dtype for layer in layers for p in layer.parameters()} == {half}
        images.requires_grad_()
        with torch.autocast("cpu", dtype=half):
            logits = [folded(images) for folded in (cast, plain)]
        gradients = [torch.autograd.grad(z[:, 0].float().sum(), images)[0] for z in logits]
        assert torch.equal(*logits) and torch.equal(*gradients) and gradients[0].any()
        if not refreshed:
            shaken(model).net.linear.weight.data.mul_(2)
            cast.refresh()
            plain.refresh()


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


# --- pairs that compute something else than a convolution and its BatchNorm -----------------------


class Standardized(nn.Conv2d):
    """Weight standardisation: the scale of its weights does not reach its output."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)


class StandardizedInside(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.norm(), bias)


class One(nn.Module):
    """A convolution, its BatchNorm and a second one whose pair can be folded."""

    def __init__(self, conv=None, norm=None):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3) if conv is None else conv
        self.bn = nn.BatchNorm2d(4) if norm is None else norm
        self.other, self.other_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.other_bn(self.other(self.bn(self.conv(x)).relu())).mean((2, 3))


class ConvTwice(One):
    def forward(self, x):
        return self.bn(self.conv(x)).mean((2, 3)) + self.conv(x).relu().mean((2, 3))


class NormTwice(One):
    def forward(self, x):
        return self.bn(self.other(self.bn(self.conv(x)).relu())).mean((2, 3))


class WeightRead(One):
    def forward(self, x):
        return super().forward(x) + self.conv.weight.sum()


class Tied(One):
    def __init__(self):
        super().__init__(conv=nn.Conv2d(4, 4, 1))
        self.other.weight = self.conv.weight

    def forward(self, x):
        return super().forward(x.expand(-1, 4, -1, -1))


class KeywordCall(One):
    def forward(self, x):
        return self.bn(input=self.conv(x)).mean((2, 3))


class Asserting(One):
    """As timm's vision transformers, which assert the size of their images."""

    def forward(self, x):
        assert isinstance(x.shape[-1], int)
        return super().forward(x)


class UnusedParameter(One):
    def __init__(self):
        super().__init__()
        self.unused, self.used = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return super().forward(x) * self.used


def hooked(module, before=False):
    if before:
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].square(),))
    else:
        module.register_forward_hook(lambda _, __, output: output.abs())
    return module


def overridden(conv):
    honest = conv.forward
    conv.forward = lambda x: honest(x).abs()
    return conv


ODD = {
    "weight standardisation": lambda: One(Standardized(1, 4, 3)),
    "standardisation inside": lambda: One(StandardizedInside(1, 4, 3)),
    "overridden forward": lambda: One(overridden(nn.Conv2d(1, 4, 3))),
    "spectral norm": lambda: One(nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 4, 3))),
    "spectral norm by hook": lambda: One(nn.utils.spectral_norm(nn.Conv2d(1, 4, 3))),
    "weight norm": lambda: One(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))),
    "convolution with a hook": lambda: One(hooked(nn.Conv2d(1, 4, 3))),
    "convolution with a pre-hook": lambda: One(hooked(nn.Conv2d(1, 4, 3), before=True)),
    "norm with a hook": lambda: One(norm=hooked(nn.BatchNorm2d(4))),
    "norm with a pre-hook": lambda: One(norm=hooked(nn.BatchNorm2d(4), before=True)),
    "network with a hook": lambda: hooked(One()),
    "convolution called twice": ConvTwice,
    "norm called twice": NormTwice,
    "weight read beside its convolution": WeightRead,
    "two convolutions of one weight": Tied,
    "norm called by keyword": KeywordCall,
    "norm without weights": lambda: One(norm=nn.BatchNorm2d(4, affine=False)),
    "norm without statistics": lambda: One(norm=nn.BatchNorm2d(4, track_running_stats=False)),
    "assertions about the images": Asserting,
    "unused parameter": UnusedParameter,
}


@pytest.mark.parametrize("what", ODD)
def test_the_twin_of_an_odd_network_is_the_same_function(what):
    torch.manual_seed(0)
    net = ODD[what]()
    with torch.no_grad():  # else torch refuses to copy a network with spectral norm by a hook
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
        net.train()(torch.rand(8, 1, 8, 8))
        model = Normalized(net, None).eval()
        folded, images = Folded(model), torch.rand(4, 1, 8, 8)
        torch.testing.assert_close(folded(images), model(images))
        for parameter in model.parameters():
            parameter.mul_(1.1)
        folded.refresh()
        torch.testing.assert_close(folded(images), model(images))


def test_the_other_pair_of_an_odd_network_is_folded():
    folded = Folded(Normalized(One(Standardized(1, 4, 3)), None).eval())
    left = [name for name, m in folded.net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["bn"]
