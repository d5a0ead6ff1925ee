"""Shuffled, augmented batches made on the device; every one follows from (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from frbench.data.seeds import derive_seed
from frbench.data.types import Split
from frbench.errors import InputError
from frbench.names import unknown

Padding = Literal["zero", "reflect"]


@dataclass(frozen=True)
class Batch:
    """One training step's input: float32 images in [0, 1] (n, c, h, w) and int64 labels (n,)."""

    images: torch.Tensor
    labels: torch.Tensor
    index: int  # step in the epoch, from 0


def to_float(
    images: torch.Tensor, *, memory_format: torch.memory_format = torch.contiguous_format
) -> torch.Tensor:
    """uint8 images (n, c, h, w) as float32 in [0, 1], each value divided by 255."""
    return images.to(torch.float32, memory_format=memory_format).div_(255)


def augment(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    padding: Padding = "zero",
    pad: int = 4,
    flip: bool = True,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Random crop after padding, then a horizontal flip of every second image on average.

    Args:
        images: uint8, contiguous, shape (n, c, h, w).
        generator: on the device of `images`; three numbers are drawn for an image.
        padding: what lies around an image: zeros (black), or its mirror image without the edge.
        pad: pixels added on each side; the crop has the original size.
        flip: off for data whose labels a mirror would change.
        memory_format: of the result.

    Returns:
        float32 in [0, 1], shape (n, c, h, w), on the same device; nothing waits for the device.
    """
    _check(padding, pad, images.shape[-2:])
    n, channels, height, width = images.shape
    down, right, mirrored = _draw(n, generator, pad, flip)
    row, row_inside = _source(down, height, padding)
    column, column_inside = _source(right, width, padding)
    column = torch.where(mirrored[:, None], column.flip(1), column)

    # Whole rows first, then pixels in a row: 10 times faster on a CPU than indexing both at once.
    first = torch.arange(n * channels, device=images.device).view(n, channels, 1) * height
    crops = images.reshape(-1, width).index_select(0, (first + row[:, None]).view(-1))
    crops = crops.view(n, channels, height, width)
    crops = crops.gather(3, column[:, None, None].expand(n, channels, height, width))
    if padding == "zero":
        column_inside = torch.where(mirrored[:, None], column_inside.flip(1), column_inside)
        crops *= (row_inside[:, None, :, None] & column_inside[:, None, None]).to(torch.uint8)
    return to_float(crops, memory_format=memory_format)


def _check(padding: str, pad: int, size: torch.Size) -> None:
    if padding not in get_args(Padding):
        raise unknown("padding", padding, get_args(Padding))
    if pad < 0 or (padding == "reflect" and pad >= min(size)):
        raise InputError(f"pad {pad} is impossible for {padding} padding of {tuple(size)} images")


def _draw(
    n: int, generator: torch.Generator, pad: int, flip: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shifts of the crop down and right in [-pad, pad], and whether it is mirrored, each (n,)."""
    device = generator.device
    shifts = torch.randint(-pad, pad + 1, (2, n), generator=generator, device=device)
    coins = torch.randint(0, 2, (n,), generator=generator, device=device)
    return shifts[0], shifts[1], coins.bool() & flip


def _source(shift: torch.Tensor, size: int, padding: Padding) -> tuple[torch.Tensor, torch.Tensor]:
    """For every image and place of the crop: the index it shows, and whether it is inside."""
    index = shift[:, None] + torch.arange(size, device=shift.device)
    inside = (index >= 0) & (index < size)
    if padding == "reflect":
        return (size - 1) - ((size - 1) - index.abs()).abs(), inside
    return index.clamp(0, size - 1), inside


class Batches:
    """A split that lives on the device as uint8 and is served in shuffled batches.

    Each epoch has its own permutation and each step its own crops, derived from (seed, epoch,
    step) alone: starting at any epoch gives the batches of an uninterrupted run, bit for bit.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device | str,
        batch_size: int,
        seed: int,
        *,
        padding: Padding = "zero",
        pad: int = 4,
        flip: bool = True,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Upload the split; see `augment` for `padding`, `pad`, `flip` and `memory_format`.

        Args:
            split: what to serve.
            device: where it shall live.
            batch_size: images a batch; the last one of an epoch may be smaller.
            seed: of the run.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} is impossible: give 1 or more")
        _check(padding, pad, split.images.shape[-2:])
        self.device = torch.device(device)
        self.batch_size, self.seed = batch_size, seed
        self._images = split.images.to(self.device)
        self._labels = split.labels.to(self.device)
        self._padding, self._pad, self._flip = padding, pad, flip
        self._memory_format = memory_format

    def __len__(self) -> int:
        """Steps an epoch."""
        return -(-len(self._labels) // self.batch_size)

    @property
    def images(self) -> int:
        """Images an epoch."""
        return len(self._labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self._images.shape
        return channels, height, width

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch in order; every image comes exactly once."""
        order = self._order(epoch)
        generator = torch.Generator(self.device)
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            generator.manual_seed(derive_seed(self.seed, epoch, step, "augment"))
            images = self._images.index_select(0, chosen)
            yield Batch(self._serve(images, generator), self._labels.index_select(0, chosen), step)

    def _serve(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return augment(
            images,
            generator,
            padding=self._padding,
            pad=self._pad,
            flip=self._flip,
            memory_format=self._memory_format,
        )

    def _order(self, epoch: int) -> torch.Tensor:
        """The epoch's permutation, drawn on the CPU so that every device sees the same order."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, "shuffle"))
        order = torch.randperm(len(self._labels), generator=generator)
        if self.device.type == "cuda":  # a copy from pinned memory waits for nothing
            return order.pin_memory().to(self.device, non_blocking=True)
        return order.to(self.device)
