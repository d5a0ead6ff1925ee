"""Gradient ascent that can be watched: the audit's own L-infinity PGD.

Reported numbers come from the attack libraries. The audit needs what they do not show: the iterate
after every step, gradients themselves, and other losses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, classes) and labels (n,) to one value an image (n,), which is increased."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy an image."""
    return F.cross_entropy(logits, labels, reduction="none")


def unit_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image's logits brought to standard deviation 1.

    The scale is a constant to the gradient, so it decides nothing but which float32 numbers occur.
    """
    scale = logits.detach().std(dim=1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    return cross_entropy(logits / scale, labels)


def value_and_gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    surrogate: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and each image's own gradient, of the shape of `images`.

    A model that cuts the graph, as a cast to integers does, has the gradient 0.

    Args:
        model: in eval mode, parameters frozen.
        images: (n, c, h, w) in [0, 1].
        labels: (n,).
        loss: one value an image.
        surrogate: context of the forward pass that is differentiated; the logits returned are
            then those of the surrogate.
    """
    inputs = images.detach().requires_grad_()
    with torch.enable_grad(), surrogate():
        logits: Tensor = model(inputs)
        total = loss(logits, labels).sum()
    if not total.requires_grad:
        return logits.detach(), torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(total, [inputs], allow_unused=True)
    found = cast("Tensor | None", gradient)
    return logits.detach(), torch.zeros_like(images) if found is None else found


@dataclass(frozen=True)
class Ascent:
    """PGD with the sign of the gradient in an L-infinity ball.

    Attributes:
        eps: radius, in [0, 1] pixel units.
        steps: gradient steps.
        step_size: by default eps / 4, as in the columns of the matrix.
        loss: what is increased.
        random_start: uniform in the ball; otherwise from the image itself.
        surrogate: see `value_and_gradient`.
    """

    eps: float
    steps: int = 20
    step_size: float | None = None
    loss: Loss = cross_entropy
    random_start: bool = True
    surrogate: Callable[[], AbstractContextManager[object]] | None = None

    def start(self, images: Tensor) -> Tensor:
        """The first iterate."""
        if not self.random_start:
            return images.clone()
        noise = torch.empty_like(images).uniform_(-self.eps, self.eps)
        return (images + noise).clamp(0, 1)

    def moved(self, adversarial: Tensor, images: Tensor, gradient: Tensor) -> Tensor:
        """The next iterate: in the ball around `images` and in [0, 1]."""
        step = self.eps / 4 if self.step_size is None else self.step_size
        offset = adversarial + step * gradient.sign() - images
        return (images + offset.clamp(-self.eps, self.eps)).clamp(0, 1)

    def iterates(self, model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """The iterates after 1, 2, ..., `steps` steps."""
        adversarial = self.start(images)
        for _ in range(self.steps):
            gradient = self._gradient(model, adversarial, labels)[1]
            adversarial = self.moved(adversarial, images, gradient)
            yield adversarial

    def last(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The last iterate: going on after an image is broken makes it transfer better."""
        *_, adversarial = self.iterates(model, images, labels)
        return adversarial

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """For each image the first iterate that is misclassified, or else the last one.

        Images that are broken cost nothing more, so a weak model is quickly done.
        """
        result = self.start(images)
        alive = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            logits, gradient = self._gradient(model, result[alive], labels[alive])
            right = logits.argmax(dim=1) == labels[alive]
            alive, gradient = alive[right], gradient[right]
            if not len(alive):
                break
            result[alive] = self.moved(result[alive], images[alive], gradient)
        return result

    def _gradient(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.surrogate is None:
            return value_and_gradient(model, images, labels, self.loss)
        gradient = value_and_gradient(model, images, labels, self.loss, self.surrogate)[1]
        with torch.no_grad():
            return model(images), gradient
