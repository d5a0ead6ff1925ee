"""Our loop, as the trainer runs it, in the variants that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from frbench.data import Batches, Split, derive_seed
from frbench.engine.device import Device
from frbench.engine.graphed import WORTH_COMPILING, make_step
from frbench.engine.recipe import Recipe
from frbench.engine.settings import Frame
from frbench.engine.step import TrainingStep

MakeStep = Callable[[nn.Module, Recipe, Frame, Device], TrainingStep]


def variants(device: Device) -> dict[str, MakeStep]:
    """Step factories by name; the last is what a long training on `device` uses."""
    if not device.cuda:
        return {"frbench": TrainingStep}
    return {
        "eager": TrainingStep,
        "captured": partial(make_step, steps=0),
        "compiled": partial(make_step, steps=WORTH_COMPILING),
    }


def best(device: Device) -> str:
    """Name of the variant that a long training uses."""
    return list(variants(device))[-1]


class OurLoop:
    """Training steps with `Batches` and seeded attack noise, nothing read back to the host.

    Args:
        step: what trains the model.
        recipe: whose attack starts from the noise.
        frame: for batch size, padding and learning rate.
        split: training images.
        device: where.
    """

    def __init__(
        self, step: TrainingStep, recipe: Recipe, frame: Frame, split: Split, device: Device
    ) -> None:
        self.step, self.frame, self.attack = step, frame, recipe.attack
        self.device = device
        self.batches = Batches(
            split,
            device.device,
            frame.batch_size,
            seed=0,
            padding=frame.padding,
            pad=frame.pad,
            memory_format=torch.channels_last,
        )
        self.loss = torch.zeros((), device=device.device)
        self._generator = torch.Generator(device.device)
        self._stream = self._endless()

    def run(self, steps: int) -> None:
        """Train so many steps, with every mechanism of the recipe active."""
        self.device.prepare()
        for _ in range(steps):
            images, labels, noise = next(self._stream)
            last = self.frame.epochs - 1
            self.loss += self.step(images, labels, noise, epoch=last, lr=self.frame.lr)

    def _endless(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        epoch = 0
        while True:
            for batch in self.batches.epoch(epoch):
                self._generator.manual_seed(derive_seed(0, epoch, batch.index, "attack"))
                noise = self.attack.initial_noise(batch.images, self._generator)
                yield batch.images, batch.labels, noise
            epoch += 1
