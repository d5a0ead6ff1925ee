"""What a loss may look at: one batch, and the logits of its clean and adversarial images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor


class Outputs:
    """Train-mode outputs of one batch, each computed once, when first asked for.

    A branch that nobody asks for costs nothing and moves no BatchNorm statistic; parts that share a
    branch (TRADES and FR, say) share its one forward pass. Gradients flow through every branch.

    Args:
        model: maps images to logits; called in train mode.
        images: float32 clean images in [0, 1], shape (batch, channels, height, width).
        adversarial: perturbed images of the same shape, in [0, 1].
        labels: int64, shape (batch,).
    """

    def __init__(
        self, model: Callable[[Tensor], Tensor], images: Tensor, adversarial: Tensor, labels: Tensor
    ) -> None:
        self._model = model
        self.images = images
        self.adversarial = adversarial
        self.labels = labels

    @classmethod
    def of_logits(cls, clean: Tensor, adversarial: Tensor, labels: Tensor) -> Outputs:
        """Outputs of a model that answers with these logits, (batch, classes); without images."""
        answers = (clean, adversarial)
        return cls(lambda which: answers[int(which)], torch.zeros(1), torch.ones(1), labels)

    @cached_property
    def clean_logits(self) -> Tensor:
        """float32, shape (batch, classes)."""
        return self._model(self.images).float()

    @cached_property
    def adversarial_logits(self) -> Tensor:
        """float32, shape (batch, classes)."""
        return self._model(self.adversarial).float()
