"""Exponential moving average of the weights (EMA), updated after every step.

    w_ema <- decay * w_ema + (1 - decay) * w

The decay is warmed up, min(decay, (1 + t) / (10 + t)), so that the initial weights are forgotten.
BatchNorm statistics follow a policy of their own: averaged like the weights, or copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from frbench.engine.mechanisms.averages import State, is_averaged, updates
from frbench.engine.recipe import WeightAverage


class ExponentialMovingAverage(WeightAverage):
    """Weights that follow the trained ones with a memory of about 1 / (1 - decay) steps."""

    kind: ClassVar[str] = "ema"

    decay: Annotated[float, Field(ge=0, lt=1, description="share of the old average kept")] = 0.999
    batchnorm: Annotated[
        Literal["average", "copy"], Field(description="statistics: averaged, or the latest")
    ] = "average"

    @torch.no_grad()
    def after_step(self, state: State, model: nn.Module) -> None:
        seen = updates(state)
        decay = min(self.decay, (1 + seen) / (10 + seen))
        averages, latest = [], []
        for name, tensor in model.state_dict().items():
            if is_averaged(name, tensor, statistics=self.batchnorm == "average"):
                averages.append(state[name])
                latest.append(tensor)
            else:
                state[name].copy_(tensor)
        torch._foreach_lerp_(averages, latest, 1 - decay)
        state["count"] += 1

    def after_epoch(
        self, state: State, model: nn.Module, epoch: int, images: Callable[[], Iterable[Tensor]]
    ) -> None:
        """Nothing: EMA follows every step."""
