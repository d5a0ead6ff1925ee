"""How adversarial images are searched for: with the model itself, or with a faster twin of it.

Whatever searches, a verdict is a float32 forward pass of the model itself on what was found.

`exact` attacks the model as it is, in float32. `fast` attacks a twin with BatchNorm folded away and
a layout that the device likes; on CUDA its convolutions may use TF32, and on a CPU with bf16
instructions they use bf16 for the attacks that are `rounding_tolerant`. AutoAttack's FAB projects
without sorting. `compiled` is the same with the twin compiled, once for all attacks: minutes that
only a long evaluation on a GPU may get back. All of this computes the same function up to rounding,
so such attacks differ from exact ones as two seeds do, and a success that the model itself does not
confirm counts as robust.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frbench.attacks import AttackSpec
from frbench.attacks.projection import sortless_fab
from frbench.engine.device import compile_anew, has_bf16
from frbench.models import Normalized
from frbench.models.folding import Folded

Search = Literal["exact", "fast", "compiled"]
PRECISION: dict[Search, str] = {
    "exact": "fp32",
    "fast": "fp32 verdicts, fast search",
    "compiled": "fp32 verdicts, compiled search",
}
_MULTIPLE = 64
"""Batches are filled up to multiples of this on CUDA, so that few shapes have to be tuned for."""


def searcher(model: nn.Module, search: Search) -> nn.Module:
    """What the attacks of a cell run on: `model`, or its faster twin if it can have one."""
    if search == "exact" or not isinstance(model, Normalized):
        return model
    return _Twin(model, compiled=search == "compiled")


@contextlib.contextmanager
def searching(search: Search, spec: AttackSpec, device: torch.device) -> Iterator[None]:
    """Within the block, the arithmetic is the one that `spec` is searched with."""
    if search == "exact":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.get_float32_matmul_precision()
    saved = (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = True, False, True
    bf16 = device.type == "cpu" and has_bf16(device) and rounding_tolerant(spec)
    fab = sortless_fab() if spec.is_autoattack else contextlib.nullcontext()
    try:
        with fab, torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = saved


def rounding_tolerant(spec: AttackSpec) -> bool:
    """Whether an attack only follows signs of gradients, and leaves the judging to us.

    AutoAttack keeps the first image that its own forward pass finds misclassified; with the eight
    bits of bf16 it would stop at images that the model still gets right.
    """
    return not spec.is_autoattack


class _Twin(nn.Module):
    """The folded model behind plain images; the attack libraries want those contiguous."""

    def __init__(self, model: Normalized, *, compiled: bool) -> None:
        super().__init__()
        self.folded: nn.Module = Folded(model)
        self.folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:  # its first shape as it is, then once for all numbers of images
            self.folded = compile_anew(self.folded)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), float32, for images (n, c, h, w) in [0, 1]."""
        n = len(images)
        if images.requires_grad:  # the libraries reshape the gradient without a copy
            images = images.view_as(images)
            images.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        if images.is_cuda and n % _MULTIPLE:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, _MULTIPLE - n % _MULTIPLE))
        logits: Tensor = self.folded(images.contiguous(memory_format=torch.channels_last))
        return logits[:n].float()
