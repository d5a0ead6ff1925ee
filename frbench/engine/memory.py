"""What to say when training runs out of memory: the batch that would fit."""

from __future__ import annotations

import gc

import torch
from torch import nn

from frbench.engine.device import Device
from frbench.engine.recipe import Recipe
from frbench.engine.settings import Frame
from frbench.engine.step import TrainingStep
from frbench.errors import FrbenchError


def out_of_memory(
    model: nn.Module,
    recipe: Recipe,
    frame: Frame,
    device: Device,
    shape: tuple[int, int, int],
) -> FrbenchError:
    """The error to end a training with; call it after the `except` block, which holds tensors.

    Args: as `largest_batch`.
    """
    batch = largest_batch(model, recipe, frame, device, shape)
    lead = f"out of memory on {device.describe()} with batch_size={frame.batch_size}"
    if batch is None:
        return FrbenchError(
            f"{lead}, and smaller ones do not fit either; free the device or take another model"
        )
    return FrbenchError(
        f"{lead}; batch_size={batch} fits now (it is another training: scale lr with it), or "
        "free the device"
    )


def largest_batch(
    model: nn.Module,
    recipe: Recipe,
    frame: Frame,
    device: Device,
    shape: tuple[int, int, int],
) -> int | None:
    """The first of half, a quarter, ... of the batch size that trains one step; None below 2.

    Args:
        model: in train mode on the device; its weights are spoiled.
        recipe: with all of its mechanisms active, which is when it needs most.
        frame: whose batch size was too large.
        device: where.
        shape: of one image, (channels, height, width).
    """
    batch = frame.batch_size // 2
    while batch >= 2:
        if _fits(model, recipe, frame, device, (batch, *shape)):
            return batch
        batch //= 2
    return None


def _fits(
    model: nn.Module,
    recipe: Recipe,
    frame: Frame,
    device: Device,
    shape: tuple[int, int, int, int],
) -> bool:
    model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    try:
        images = torch.rand(shape, device=device.device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(shape[0], dtype=torch.int64, device=device.device)
        noise = torch.zeros_like(images)
        step = TrainingStep(model, recipe, frame, device)
        step(images, labels, noise, epoch=frame.epochs - 1, lr=frame.lr)
    except torch.OutOfMemoryError:
        return False
    return True
