"""Our small residual networks: `quick` for two CPU cores, `tiny` for tests.

Basic blocks after He et al., Deep Residual Learning (2016): every BatchNorm follows a convolution,
so that attacks can fold it away (`folding.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """3x3, BN, ReLU, 3x3, BN, plus a shortcut (1x1 and BN where the shape changes), ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class QuickNet(nn.Module):
    """Patches, a stem, one block a stage, global average pooling, a linear layer.

    Args:
        classes: length of the logits.
        channels: of the input images; any height and width that the strides leave at least 1 of.
        widths: channels of each stage; every stage but the first halves the resolution.
        patch: side of the squares whose pixels become channels; every later layer sees an image
            that much smaller, which costs a few points of accuracy.
        stem_kernel: side of the first convolution, odd.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        patch: int = 4,
        stem_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.patch = patch
        pixels = channels * patch**2
        self.stem = nn.Conv2d(pixels, widths[0], stem_kernel, padding=stem_kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        inputs = (widths[0], *widths)
        self.stages = nn.Sequential(
            *(BasicBlock(inputs[i], w, 1 if i == 0 else 2) for i, w in enumerate(widths))
        )
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) for images (n, channels, h, w)."""
        # A convolution with stride would compute the same; its gradient to three channels is slow.
        patches = F.pixel_unshuffle(x, self.patch)
        features = self.stages(F.relu(self.bn(self.stem(patches))))
        logits: torch.Tensor = self.linear(features.mean((2, 3)))
        return logits


def tiny(classes: int, channels: int = 1) -> QuickNet:
    """A few thousand parameters for 8x8 digits: no patches, two stages."""
    return QuickNet(classes, channels, widths=(8, 16), patch=1, stem_kernel=3)
