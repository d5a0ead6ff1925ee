"""Our small pre-activation residual networks: `quick` for two CPU cores, `tiny` for tests.

Pre-activation blocks after He et al., Identity Mappings in Deep Residual Networks (2016).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class PreActBlock(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, 3x3; a projection shortcut takes the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        activated = F.relu(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(activated)
        out: torch.Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + residual


class QuickNet(nn.Module):
    """A stem, one block a stage, BN and ReLU, global average pooling, a linear layer.

    Args:
        classes: length of the logits.
        channels: of the input images; any height and width that the strides leave at least 1 of.
        widths: channels of each stage; every stage but the first halves the resolution.
        stem_kernel: side of the first convolution.
        stem_stride: 2 makes every later layer four times cheaper, for a few points of accuracy.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        stem_kernel: int = 4,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        padding = (stem_kernel - 1) // 2
        self.stem = nn.Conv2d(channels, widths[0], stem_kernel, stem_stride, padding, bias=False)
        inputs = (widths[0], *widths)
        self.stages = nn.Sequential(
            *(PreActBlock(inputs[i], w, 1 if i == 0 else 2) for i, w in enumerate(widths))
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) for images (n, channels, h, w)."""
        features = F.relu(self.bn(self.stages(self.stem(x))))
        logits: torch.Tensor = self.linear(features.mean((2, 3)))
        return logits


def tiny(classes: int, channels: int = 1) -> QuickNet:
    """A few thousand parameters for 8x8 digits: stride-1 stem, two stages."""
    return QuickNet(classes, channels, widths=(8, 16), stem_kernel=3, stem_stride=1)
