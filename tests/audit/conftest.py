"""Real images without the whole data set, small trained models, and the faults to be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from frbench.data import Dataset, Split, to_float
from frbench.models import build_model, load_weights

WEIGHTS = Path(__file__).parent / "weights"
CIFAR10 = Path(__file__).parents[1] / "fixtures" / "cifar10_test_128.safetensors"


class Quantized(nn.Module):
    """A step function before the network: its gradient is 0."""

    def __init__(self, net: nn.Module, levels: int = 8) -> None:
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images * (self.levels - 1)).round() / (self.levels - 1))


class Cold(nn.Module):
    """Logits divided by a temperature: softmax is certain and its gradient underflows."""

    def __init__(self, net: nn.Module, temperature: float = 1e-3) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) / self.temperature


class RandomlyResized(nn.Module):
    """Random resizing and padding at inference, as in Xie et al. 2018."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        size = int(torch.randint(side * 3 // 4, side + 1, ()))
        left, top = (int(torch.randint(0, side - size + 1, ())) for _ in range(2))
        small = F.interpolate(images, size=(size, size), mode="bilinear")
        return self.net(F.pad(small, (left, side - size - left, top, side - size - top)))


FAULTS = {"quantized": Quantized, "cold": Cold, "random": RandomlyResized}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Callable[[nn.Module], nn.Module]:
    """Each fault in turn, to be put around an honest model."""
    return FAULTS[request.param]


@pytest.fixture(scope="session")
def robust() -> dict[str, nn.Module]:
    """The models of the quick preset in `weights/`."""
    return {name: load_weights(WEIGHTS / f"{name}.safetensors")[0] for name in ("pgd_at", "at_fr")}


@pytest.fixture(scope="session")
def cifar10() -> Split:
    with safe_open(CIFAR10, framework="pt") as file:
        digest = file.metadata()["split_sha256"]
        return Split(file.get_tensor("images"), file.get_tensor("labels"), digest)


@pytest.fixture(scope="session")
def tiny(digits: Dataset) -> nn.Module:
    """A network that has learnt digits under one-step attacks, in about a second."""
    images, labels = to_float(digits.train.images), digits.train.labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("tiny", classes=10, channels=images.shape[1])
        weights = list(model.parameters())
        speed = [torch.zeros_like(weight) for weight in weights]
        for step in range(120):  # SGD by hand: importing torch's optimizers takes seconds
            chosen = torch.arange(step * 64, step * 64 + 64) % len(images)
            x, y = images[chosen].clone().requires_grad_(), labels[chosen]
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), [x])
            x = (x + 8 / 255 * gradient.sign()).clamp(0, 1).detach()
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
            with torch.no_grad():
                for weight, moving, gradient in zip(weights, speed, gradients, strict=True):
                    weight -= 0.1 * (1 - step / 120) * moving.mul_(0.9).add_(gradient)
    return model.eval().requires_grad_(False)
