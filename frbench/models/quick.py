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


class PatchConv(nn.Conv2d):
    """A convolution whose stride is its kernel: each patch of the image is seen once.

    Computed as one matrix product over the pixels of the patches, because the gradient to an image
    of three channels is slow otherwise. The patch must divide height and width.
    """

    def __init__(self, inputs: int, outputs: int, patch: int) -> None:
        super().__init__(inputs, outputs, patch, stride=patch, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, outputs, h / patch, w / patch), channels_last, of (n, inputs, h, w)."""
        patch, (n, channels, height, width) = self.stride[0], x.shape
        kind = x.device.type
        if torch.is_autocast_enabled(kind):  # the product casts; cast before, half the bytes move
            x = x.to(torch.get_autocast_dtype(kind))
        rows, columns = height // patch, width // patch
        # Of channels_last images this is a view, and then one copy that moves whole pixels.
        pixels = x.permute(0, 2, 3, 1).reshape(n, rows, patch, columns, patch * channels)
        patches = pixels.transpose(2, 3).reshape(n, rows, columns, patch * patch * channels)
        features = F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return features.permute(0, 3, 1, 2)


class QuickNet(nn.Module):
    """A stem, one block a stage, global average pooling, a linear layer.

    Args:
        classes: length of the logits.
        stem: the first convolution; a stride of 4 makes every later layer sixteen times cheaper,
            for a few points of accuracy.
        widths: channels of each stage, the first those of the stem; every stage but the first
            halves the resolution.
    """

    def __init__(self, classes: int, stem: nn.Conv2d, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = stem
        self.bn = nn.BatchNorm2d(widths[0])
        inputs = (widths[0], *widths)
        self.stages = nn.Sequential(
            *(BasicBlock(inputs[i], w, 1 if i == 0 else 2) for i, w in enumerate(widths))
        )
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) for images (n, channels, h, w)."""
        features = self.stages(F.relu(self.bn(self.stem(x))))
        # Unlike a mean's, the gradient of this pooling is channels_last, as every layer below.
        pooled = F.avg_pool2d(features, features.shape[2:]).flatten(1)
        logits: torch.Tensor = self.linear(pooled)
        return logits


def quick(classes: int, channels: int = 3) -> QuickNet:
    """309,322 parameters for 32x32 images: patches of 4x4 pixels, three stages."""
    return QuickNet(classes, PatchConv(channels, 32, patch=4), widths=(32, 64, 128))


def tiny(classes: int, channels: int = 1) -> QuickNet:
    """A few thousand parameters for 8x8 digits: no patches, two stages."""
    stem = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
    return QuickNet(classes, stem, widths=(8, 16))
