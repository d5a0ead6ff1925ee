"""Stochastic weight averaging (SWA; Izmailov et al. 2018), as the paper uses it.

    w_swa <- (n * w_swa + w) / (n + 1)      after each epoch >= start, every `cycle` epochs

Parameters are averaged, buffers are not: BatchNorm statistics are estimated anew on clean augmented
training images after every update, without which the average is another (wrong) model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from frbench.engine.mechanisms.averages import (
    State,
    averaged_tensors,
    reestimate_batchnorm,
    updates,
)
from frbench.engine.recipe import WeightAverage


class StochasticWeightAveraging(WeightAverage):
    """Equal-weight mean of the weights at the ends of epochs."""

    kind: ClassVar[str] = "swa"

    start_epoch: Annotated[
        int, Field(ge=0, description="first epoch (from 0) in the average; the first lr drop")
    ] = 75
    cycle: Annotated[int, Field(ge=1, description="epochs between updates")] = 1

    def after_step(self, state: State, model: nn.Module) -> None:
        """Nothing: SWA looks at the ends of epochs."""

    @torch.no_grad()
    def after_epoch(
        self, state: State, model: nn.Module, epoch: int, images: Callable[[], Iterable[Tensor]]
    ) -> None:
        if (epoch - self.start_epoch) % self.cycle:
            return
        seen = updates(state)
        for name, weight in model.named_parameters():
            state[name].mul_(seen / (seen + 1)).add_(weight, alpha=1 / (seen + 1))
        state["count"] += 1
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(averaged_tensors(state))
        reestimate_batchnorm(averaged, images())
        for name, buffer in averaged.named_buffers():
            if name in state:
                state[name].copy_(buffer)
