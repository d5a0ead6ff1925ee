"""The inner maximization: adversarial inputs to train on.

Written for training only (frozen weights, fixed shapes, no host synchronization); numbers that are
reported come from the attack libraries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from frbench.engine.returned import one_number


class InnerAttack(BaseModel):
    """Projected gradient ascent in the L-infinity ball (Madry et al. 2018).

    One step: x' <- clip(x' + step_size * sign(grad), x - eps, x + eps), clipped to [0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    eps: Annotated[float, Field(ge=0, le=1, description="radius, pixels in [0, 1]")] = 8 / 255
    step_size: Annotated[float, Field(gt=0, le=1, description="one step's length")] = 2 / 255
    steps: Annotated[int, Field(ge=1, description="gradient steps")] = 10
    start: Annotated[
        Literal["uniform", "gaussian"],
        Field(description="uniform in the ball and the box, or 0.001 * N(0, 1), not clipped"),
    ] = "uniform"
    maximize: Annotated[
        Literal["ce", "kl"],
        Field(description="cross-entropy at the label, or KL from the clean prediction"),
    ] = "ce"
    batchnorm: Annotated[
        Literal["eval", "train"], Field(description="mode of BatchNorm while attacking")
    ] = "eval"

    def forward_units(self) -> int:
        """Declared cost an image: each step a forward and an input gradient; KL needs a target."""
        return 2 * self.steps + (self.maximize != "ce")

    def batchnorm_forwards(self) -> int:
        """Forwards of the attack that update BatchNorm statistics."""
        return self.steps + (self.maximize != "ce") if self.batchnorm == "train" else 0

    def initial_noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random start, same shape and layout as `images`, drawn on the generator's device."""
        noise = torch.empty_like(images)
        if self.start == "uniform":
            return noise.uniform_(-self.eps, self.eps, generator=generator)
        return noise.normal_(generator=generator).mul_(0.001)

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Adversarial images: within `eps` of `images` and in [0, 1], same shape, detached.

        The model's parameters get no gradient, and in eval mode its buffers do not move.

        Args:
            model: maps images in [0, 1] to logits; may run under autocast.
            images: float32 in [0, 1], shape (batch, channels, height, width).
            labels: int64, shape (batch,).
            noise: the random start, from `initial_noise`.
        """
        low, high = (images - self.eps).clamp_(min=0), (images + self.eps).clamp_(max=1)
        adversarial = images + noise
        if self.start == "uniform":
            adversarial = adversarial.clamp_(0, 1)
        with attacking(model, self.batchnorm):
            target = self._target(model, images)
            for _ in range(self.steps):
                adversarial.requires_grad_(True)
                value = self.ascended(model(adversarial).float(), labels, target)
                loss = one_number(self, "ascended", value, gradient=True)
                (gradient,) = torch.autograd.grad(loss, adversarial)
                # In place: nothing needs the last iterate any more, and memory is what this costs.
                adversarial = adversarial.detach().add_(gradient.sign_(), alpha=self.step_size)
                adversarial.clamp_(low, high)
        return adversarial.detach()

    def _target(self, model: nn.Module, images: Tensor) -> Tensor | None:
        """Clean probabilities, unless labels are attacked; they do not change between steps."""
        if self.maximize == "ce":
            return None
        with torch.no_grad():
            probabilities: Tensor = model(images).float().softmax(dim=1)
        return probabilities

    def ascended(self, logits: Tensor, labels: Tensor, target: Tensor | None) -> Tensor:
        """What the attack maximizes, a scalar; a subclass may put another loss here.

        Summed, not averaged: the sign is the same and small gradients do not underflow.

        Args:
            logits: float32, of the adversarial images, shape (batch, classes).
            labels: int64, shape (batch,).
            target: probabilities of the clean images; None when `maximize` is `ce`.
        """
        if target is None:
            return F.cross_entropy(logits, labels, reduction="sum")
        return F.kl_div(logits.log_softmax(dim=1), target, reduction="sum")


@contextlib.contextmanager
def attacking(model: nn.Module, batchnorm: Literal["eval", "train"]) -> Iterator[None]:
    """Freeze the parameters and set the mode; both are as before on leaving."""
    training = model.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Also in the mode that it has: some of timm's networks drop then what they cached of weights.
    model.train(batchnorm == "train")
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(training)
