"""Stochastic weight averaging (SWA; Izmailov et al. 2018), as the paper uses it.

    w_swa <- (n * w_swa + w) / (n + 1)      after each epoch >= start, every `cycle` epochs

As the paper's authors do it, parameters alone are averaged, and BatchNorm statistics are estimated
anew on clean augmented training images after every update. Where the training also moves them by
adversarial images (FR, MART, TRADES) or by these alone (PGD-AT), its own statistics can be averaged
like the weights instead, for nothing. `results/README.md` tells what clean ones cost AT-FR.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from frbench.engine.mechanisms.averages import (
    State,
    averaged_tensors,
    is_averaged,
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
    batchnorm: Annotated[
        Literal["clean", "average"],
        Field(
            description="statistics: estimated anew on clean images, or averaged",
            # Runs from before there was a choice keep their names.
            exclude_if=lambda batchnorm: batchnorm == "clean",
        ),
    ] = "clean"

    def after_step(self, state: State, model: nn.Module) -> None:
        """Nothing: SWA looks at the ends of epochs."""

    @torch.no_grad()
    def after_epoch(
        self, state: State, model: nn.Module, epoch: int, images: Callable[[], Iterable[Tensor]]
    ) -> None:
        if (epoch - self.start_epoch) % self.cycle:
            return
        seen = updates(state)
        averages, latest = [], []
        for name, tensor in model.state_dict().items():
            if is_averaged(name, tensor, statistics=self.batchnorm == "average"):
                averages.append(state[name])
                latest.append(tensor)
            else:
                state[name].copy_(tensor)
        torch._foreach_mul_(averages, seen / (seen + 1))
        torch._foreach_add_(averages, latest, alpha=1 / (seen + 1))
        state["count"] += 1
        if self.batchnorm == "clean":
            self._estimate(state, model, images())

    def _estimate(self, state: State, model: nn.Module, images: Iterable[Tensor]) -> None:
        """Replace the statistics in `state` by those of its weights on `images`."""
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(averaged_tensors(state))
        reestimate_batchnorm(averaged, images)
        for name, buffer in averaged.named_buffers():
            if name in state:
                state[name].copy_(buffer)
