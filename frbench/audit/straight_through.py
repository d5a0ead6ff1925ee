"""Backward passes that ignore rounding: the straight-through estimate (Bengio et al. 2013).

A model that rounds its inputs has the gradient 0 almost everywhere, and no gradient attack moves.
Inside `StraightThrough`, torch's step functions keep their values and pass gradients on unchanged,
which is BPDA with the identity (Athalye et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside"}


class StraightThrough(TorchFunctionMode):
    """Within this context torch's step functions have the derivative 1.

    Attributes:
        met: step functions that were called on tensors with a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in _STEPS or not args:
            return value
        source = args[0]
        if not isinstance(source, Tensor) or not source.requires_grad:
            return value
        self.met += 1
        return source + (value - source).detach()


def step_functions(model: torch.nn.Module, images: Tensor) -> int:
    """How many step functions lie between the images and the logits, as far as torch tells."""
    mode = StraightThrough()
    with torch.enable_grad(), mode:
        model(images.detach().requires_grad_())
    return mode.met
