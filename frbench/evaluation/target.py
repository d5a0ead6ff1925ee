"""A target: a model ready to be attacked, with all that a cell must know of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frbench.evaluation import numerics
from frbench.evaluation.cells import ModelRecord


@dataclass(frozen=True)
class Target:
    """A model in eval mode on its device.

    `model` maps float images in [0, 1], shape (n, channels, height, width), to logits of shape
    (n, classes); normalization is inside.
    """

    model: nn.Module
    record: ModelRecord

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; the CPU for a model without any."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def renamed(self, name: str) -> Target:
        """The same model under another name in rows."""
        return Target(self.model, self.record.model_copy(update={"name": name}))

    def correct(self, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Which images (n, c, h, w) the model assigns to their `labels`: bool (n,).

        Raises InputError for logits of another shape, or that are not finite; `seed` as in
        `numerics.correct`.
        """
        record = self.record
        return numerics.correct(
            self.model, images, labels, classes=record.classes, name=record.name, seed=seed
        )

    @contextmanager
    def ready(self) -> Iterator[torch.device]:
        """The device, while float32 means float32 on it and parameters take no gradient.

        Raises InputError for a model in training mode, or with other than float32 weights.
        """
        numerics.check_ready(self.model, self.record.name)
        with numerics.full_precision(self.device), numerics.frozen(self.model):
            yield self.device
