"""How adversarial images are searched for: with the model itself, or with a faster twin of it.

Whatever searches, a verdict is a float32 forward pass of the model itself on what was found.

`exact` attacks the model as it is, in float32. `fast` attacks a twin with BatchNorm folded away and
a layout that the device likes, in the `precision` that device and attack allow. AutoAttack's FAB
projects without sorting. `compiled` is the same with the twin compiled, once for all attacks:
minutes that only a long evaluation on a GPU may get back. All of this computes the same function up
to rounding, so such attacks differ from exact ones as two seeds do, and a success that the model
itself does not confirm counts as robust.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frbench.attacks import AttackSpec
from frbench.attacks.projection import sortless_fab
from frbench.engine.device import compile_anew, has_bf16
from frbench.errors import FrbenchError
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
_FEW = 16
"""The same for fewer close calls than `_MULTIPLE`, most of which come one to a few at a time.

On an H200 64 images of ResNet-18 in float32 take 2.6 ms, the pass of 200 in float16 1.5.
"""
_CLOSE = 2**-7
"""Logits closer than this part of the largest one may have been swapped by float16.

It moved their difference by at most 0.4 % of it, on clean and attacked images of four networks.
"""


class Searcher:
    """What the attacks of a cell run on, and the arithmetic that they search with.

    Args:
        model: in eval mode with frozen parameters; kept by reference, never changed.
        search: how.

    Attributes:
        network: for the attacks to call: the model, or its faster twin.
        compiled: whether the first batches of that twin compile it.
    """

    def __init__(self, model: nn.Module, search: Search) -> None:
        self.compiled = search == "compiled"
        self._twin = None if search == "exact" else _Twin(model, compiled=self.compiled)
        self.network: nn.Module = self._twin or model

    @contextlib.contextmanager
    def arithmetic(self, spec: AttackSpec, device: torch.device) -> Iterator[None]:
        """Within the block, `network` and the attack `spec` compute as they should on `device`."""
        if self._twin is None:
            yield
            return
        cudnn = torch.backends.cudnn
        saved = cudnn.deterministic, cudnn.benchmark
        cudnn.deterministic, cudnn.benchmark = False, True
        self._twin.multiply_in(precision(device, spec))
        try:
            with sortless_fab() if spec.is_autoattack else contextlib.nullcontext():
                yield
        finally:
            cudnn.deterministic, cudnn.benchmark = saved


def precision(device: torch.device, spec: AttackSpec) -> torch.dtype:
    """What the twin multiplies in while `spec` searches on `device`.

    CUDA takes float16 for all attacks: it has the ten bits of mantissa of TF32, at twice the speed,
    and the twin settles close calls in float32. A CPU with bf16 instructions takes bf16, whose
    seven bits are enough where an attack only follows signs of gradients and leaves the judging to
    us. AutoAttack judges as it goes, so with bf16 it would stop at images that the model still gets
    right.
    """
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if has_bf16(device) and not spec.is_autoattack else torch.float32


class _Twin(nn.Module):
    """The model, folded if it is one of our networks, behind plain images and logits.

    In float16 it differs from `model` by rounding alone. Where the two largest logits are so close
    that rounding could swap them, the model's own take their place, since some attacks (Square,
    FAB) stop at the first image that looks misclassified, and most of those are close calls.

    Float16 ends at 65504 and, with fewer and fewer bits, at 6e-8. Gradients keep clear of both
    because each image's is scaled to 1 at the logits and back at the image, which changes nothing
    else: it is linear in the gradient of the logits. Logits that overflow come from the model.

    Args:
        model: kept by reference.
        compiled: whether to compile it; other people's models stay as they are.

    Attributes:
        precision: what it multiplies in.
    """

    def __init__(self, model: nn.Module, *, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self._folded, self._compiled = isinstance(model, Normalized), compiled
        self.precision = torch.float32
        self.network = self._made()

    def multiply_in(self, precision: torch.dtype) -> None:
        """Search in this precision from now on."""
        if precision is not self.precision:
            self.precision = precision
            self.network = self._made()

    def _made(self) -> nn.Module:
        """What the images go through, its weights in the present precision."""
        if not isinstance(self.model, Normalized):
            return self.model
        half = None if self.precision is torch.float32 else self.precision
        folded = Folded(self.model, half).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Compiled for its first shape as it is, then once for all numbers of images.
        return compile_anew(folded)[0] if self._compiled else folded

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), float32, for images (n, c, h, w) in [0, 1]."""
        if self.precision is not torch.float16:
            return self._logits(images)
        scale = _GradientScale()
        logits = scale.up(self._logits(scale.down(images)))
        with torch.no_grad():
            rows = _unclear(logits)
        if len(rows) == 0:
            return logits
        if bool(logits[rows].isfinite().all()):
            return logits + self._error(logits, images, rows)
        own: Tensor = self.model(images)
        return own

    def _logits(self, images: Tensor) -> Tensor:
        n, half = len(images), self.precision is not torch.float32
        if self._folded:
            images = _filled_up(images).contiguous(memory_format=torch.channels_last)
        kind = images.device.type
        with torch.autocast(kind, dtype=self.precision if half else None, enabled=half):
            logits: Tensor = self.network(images)
        return logits[:n].float()

    @torch.no_grad()
    def _error(self, logits: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        """What `rows` of the logits lack to be the values of the model's own; 0 elsewhere."""
        batch = images[rows]
        if self._folded:
            batch = _filled_up(batch, _FEW if len(rows) < _MULTIPLE else _MULTIPLE)
        own = self.model(batch)[: len(rows)]
        return torch.zeros_like(logits).index_copy(0, rows, own - logits[rows])


def _unclear(logits: Tensor) -> Tensor:
    """Indices of images whose largest two logits are too close, or whose logits are not finite.

    The host waits for the device here; once a pass, because attacks do so little between them.
    """
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    # Asked for what is clear, since no comparison holds for nan, nor this one for infinity.
    clear = first - second > _CLOSE * logits.abs().amax(dim=1)
    return (~clear).nonzero().squeeze(1)


def _filled_up(images: Tensor, multiple: int = _MULTIPLE) -> Tensor:
    """On CUDA, black images behind `images` up to a number that cuDNN will know already."""
    missing = -len(images) % multiple if images.is_cuda else 0
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images


class _GradientScale:
    """Scales each image's gradient on its way through the network, and back."""

    def __init__(self) -> None:
        self.size = torch.ones(())

    def up(self, logits: Tensor) -> Tensor:
        """`logits` (n, classes), below which every image's largest gradient is 1."""

        def normalized(gradient: Tensor) -> Tensor:
            size = gradient.abs().amax(dim=1, keepdim=True)
            self.size = torch.where(size > 0, size, 1)
            return gradient / self.size

        return _hooked(logits, normalized)

    def down(self, images: Tensor) -> Tensor:
        """`images` (n, c, h, w), above which the gradients have their own size."""

        def restored(gradient: Tensor) -> Tensor:
            if not bool(gradient.isfinite().all()):
                raise FrbenchError(
                    "a gradient does not fit into the float16 of a fast search; use --search exact"
                )
            return gradient * self.size.view(-1, 1, 1, 1)

        return _hooked(images, restored)


def _hooked(tensor: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    """A view of `tensor` whose gradient goes through `hook`."""
    if tensor.requires_grad:
        tensor = tensor.view_as(tensor)
        tensor.register_hook(hook)  # type: ignore[no-untyped-call]
    return tensor
