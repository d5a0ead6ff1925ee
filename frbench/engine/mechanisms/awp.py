"""Adversarial weight perturbation (AWP; Wu, Xia and Wang 2020).

    v = gamma * ||w|| * g / ||g||      for each weight tensor w, g = dL/dw at (w, x')
    w <- w - lr * dL/dw at (w + v, x')

The same x', crafted at the unperturbed weights, serves both gradients. The authors take the
optimizer's step at w + v and subtract v again, so weight decay and momentum see w + v while
rounding moves the weights; here w is put back from a copy, bit for bit, and the decay of v is added
to the gradient instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from frbench.engine.recipe import Mechanism


class AdversarialWeightPerturbation(Mechanism):
    """Descend at the weights that an adversary would pick within a relative radius `gamma`."""

    kind: ClassVar[str] = "awp"

    gamma: Annotated[float, Field(ge=0, description="radius relative to each tensor's norm")] = 0.01

    @contextlib.contextmanager
    def perturbed(
        self, model: nn.Module, loss: Callable[[], Tensor], weight_decay: float
    ) -> Iterator[None]:
        """Within the block the weights are w + v; gradients left there include the decay of v.

        Args:
            model: in train mode; its BatchNorm statistics do not move while v is computed.
            loss: evaluates the training loss of the batch at the model's present weights.
            weight_decay: of the optimizer that will use the gradients.
        """
        weights = perturbed_weights(model)
        with unmoved_buffers(model):
            gradients = torch.autograd.grad(loss(), weights)
        saved = [w.detach().clone() for w in weights]
        with torch.no_grad():
            steps = [self._step(w, g) for w, g in zip(saved, gradients, strict=True)]
            for weight, step in zip(weights, steps, strict=True):
                weight.add_(step)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value, step in zip(weights, saved, steps, strict=True):
                    weight.copy_(value)
                    if weight.grad is not None:
                        weight.grad.add_(step, alpha=weight_decay)

    def _step(self, weight: Tensor, gradient: Tensor) -> Tensor:
        step: Tensor = gradient * (self.gamma * weight.norm() / (gradient.norm() + 1e-20))
        return step


def perturbed_weights(model: nn.Module) -> list[nn.Parameter]:
    """The tensors that AWP moves: named `weight` with more than one dimension.

    These are the convolutions and the linear layer; BatchNorm and biases stay.
    """
    return [p for name, p in model.named_parameters() if "weight" in name and p.dim() > 1]


@contextlib.contextmanager
def unmoved_buffers(model: nn.Module) -> Iterator[None]:
    """Put every buffer (BatchNorm statistics) back, bit for bit, on leaving."""
    buffers = list(model.buffers())
    saved = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)
