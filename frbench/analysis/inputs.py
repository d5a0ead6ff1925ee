"""What every analysis takes: checked images, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from frbench.errors import InputError
from frbench.evaluation.cells import DataRange


@dataclass(frozen=True)
class ImageSet:
    """Images to look at a model with.

    `images` are floats in [0, 1], shape (n, channels, height, width); `labels` are int64, shape
    (n,). Raises InputError when they are not.
    """

    images: torch.Tensor
    labels: torch.Tensor
    data: DataRange | None = None

    def __post_init__(self) -> None:
        images = self.images
        if images.ndim != 4 or not images.is_floating_point():
            raise InputError(
                f"images must be floats of shape (n, channels, height, width), not {images.dtype} "
                f"of shape {tuple(images.shape)}"
            )
        if not len(images) or self.labels.shape != (len(images),):
            raise InputError(
                f"need one label an image and at least one image, not {len(images)} images and "
                f"labels of shape {tuple(self.labels.shape)}"
            )
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):  # written so that NaN fails too
            raise InputError(
                f"images out of range: values from {float(low):g} to {float(high):g}, models here "
                "take [0, 1]; divide bytes by 255 and leave normalization to the model"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def subset(self, indices: torch.Tensor) -> ImageSet:
        """The chosen images alone; they are no longer one range of the data set."""
        return ImageSet(self.images[indices], self.labels[indices])

    def describe(self) -> dict[str, Any] | None:
        """The range as JSON, or None when it is not known."""
        return None if self.data is None else self.data.model_dump(mode="json")
