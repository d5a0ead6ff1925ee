"""A target: a model ready to be attacked, with all that a cell must know of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from frbench.evaluation.cells import ModelRecord


@dataclass(frozen=True)
class Target:
    """A model in eval mode on its device.

    `model` maps float images in [0, 1], shape (n, channels, height, width), to logits of shape
    (n, classes); normalization is inside.
    """

    model: nn.Module
    record: ModelRecord
