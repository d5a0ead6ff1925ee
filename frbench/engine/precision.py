"""In which precision a training runs: what was typed or begun with, unless it is unsound here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from frbench.engine.device import Device, Precision
from frbench.engine.plan import Plan
from frbench.engine.run import RunFolder
from frbench.errors import InputError


def training_precision(
    plan: Plan,
    device: Device,
    folder: RunFolder,
    model: nn.Module,
    shape: Sequence[int],
    notice: Callable[[str], None],
) -> Precision:
    """The one that was typed; else the one that the run began with; else the device's.

    torch leaves the bf16 weight gradient of some convolutions undefined on a CPU (2.11, oneDNN): of
    taps that see nothing but padding, as in a 3x3 kernel of stride 2 on a 1x1 map. Networks that
    have such taps train in float32 there.

    Args:
        plan: says what was typed.
        device: where, in the precision that it would choose.
        folder: of the run, which may have begun on another machine.
        model: on the device.
        shape: (channels, height, width) of an image.
        notice: told why a network trains in float32.

    Raises:
        InputError: bf16 was typed where its gradients are undefined.
    """
    typed = plan.frame.precision
    began = folder.info().get("precision") if folder.begun() else None
    wanted: Precision = began if began in ("fp32", "bf16") else device.precision
    if typed != "auto":
        wanted = typed
    if wanted == "fp32" or device.cuda:
        return wanted
    blind = blind_convolutions(model, shape)
    if not blind:
        return wanted
    why = f"weights of {blind[0]} see only padding, and a CPU leaves their bf16 gradient undefined"
    if typed == "bf16":
        raise InputError(f"precision=bf16 is not possible here: {why}; use precision=fp32")
    notice(f"training in float32: {why}")
    return "fp32"


@torch.no_grad()
def blind_convolutions(model: nn.Module, shape: Sequence[int]) -> list[str]:
    """Names of the convolutions with a tap that sees nothing but padding.

    Args:
        model: left as it was.
        shape: (channels, height, width) of an image.
    """
    found: list[str] = []

    def look(name: str, layer: nn.Conv2d, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if _has_blind_tap(layer, inputs[0]):
            found.append(name)

    hooks = [
        module.register_forward_pre_hook(partial(look, name, module))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    training, device = model.training, next(model.parameters()).device
    try:
        model.eval()(torch.zeros(1, *shape, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _has_blind_tap(convolution: nn.Conv2d, features: Tensor) -> bool:
    """A tap's gradient is the sum of what it sees: of ones, 0 says that it saw padding alone."""
    if convolution.padding_mode != "zeros":
        return False
    how: Any = (convolution.stride, convolution.padding, convolution.dilation)
    taps = torch.ones(1, 1, *convolution.kernel_size, requires_grad=True)
    with torch.enable_grad():
        seen = functional.conv2d(torch.ones(1, 1, *features.shape[2:]), taps, None, *how)
        (sums,) = torch.autograd.grad(seen.sum(), taps)
    return bool((sums == 0).any())
