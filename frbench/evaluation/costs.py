"""How long an evaluation will take: passes an image needs, timed on the model itself."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from frbench.attacks import AttackSpec
from frbench.errors import FrbenchError
from frbench.evaluation.cells import ROBUST, UNSEEN, Cell

_TARGETS = 9
_PROBE_STEPS = 3
PROBE_IMAGES = 32


@dataclass(frozen=True)
class Passes:
    """Work on one image: `forwards` of the model in all, `backwards` to the input after some."""

    forwards: int
    backwards: int


# 100 steps and a first gradient an APGD run; FAB adds a forward a step; Square has no gradient.
# Each stage also begins with a prediction and ends with the verdict.
_STAGES = {
    "clean": Passes(1, 0),
    "apgd-ce": Passes(103, 101),
    "apgd-t": Passes(2 + _TARGETS * 102, _TARGETS * 101),
    "fab-t": Passes(2 + _TARGETS * 203, _TARGETS * 100),
    "square": Passes(5004, 0),
}


def passes(spec: AttackSpec, stage: str) -> Passes:
    """Passes that `stage` needs on an image that resists it; broken images can need fewer."""
    if stage in _STAGES:
        return _STAGES[stage]
    steps = spec.steps or 1
    return Passes(steps + 1, steps)


def costliest(specs: Iterable[AttackSpec]) -> AttackSpec:
    """The one with the most passes, in whose arithmetic a model is to be timed for all."""
    return max(specs, key=lambda spec: sum(passes(spec, s).forwards for s in spec.stages))


@dataclass
class Speed:
    """What the model costs on this device, corrected by each chunk that is measured.

    Attributes:
        forward: seconds an image for one forward pass.
        backward: seconds an image for the gradient after it.
        surviving: expected share of images that a gradient attack leaves correct.
        jobs: processes that share the chunks of a cell.
    """

    forward: float
    backward: float
    surviving: float
    jobs: int = 1
    _measured: dict[str, tuple[float, float]] = field(default_factory=dict)

    def seconds(self, spec: AttackSpec, stage: str, images: int) -> float:
        """Expected seconds of one stage on so many images."""
        measured, predicted = self._measured.get(stage, (1.0, 1.0))
        return self._predict(spec, stage, images) * measured / predicted

    def observe(self, spec: AttackSpec, stage: str, images: int, seconds: float) -> None:
        """Learn from a chunk that took `seconds`."""
        measured, predicted = self._measured.get(stage, (0.0, 0.0))
        expected = self._predict(spec, stage, images)
        self._measured[stage] = (measured + seconds, predicted + expected)

    def remaining(self, cell: Cell) -> float:
        """Expected seconds until the cell is complete."""
        total = 0.0
        images = cell.data.n
        if cell.attack.is_autoattack:
            total += self._shared(cell, "clean", cell.verdicts["clean"].count(UNSEEN))
        for position, stage in enumerate(cell.stages):
            verdicts = cell.verdicts[stage]
            if cell.attack.is_autoattack:
                images = self._survivors(cell, images, position)
            waiting = min(verdicts.count(UNSEEN), images)
            total += self._shared(cell, stage, waiting)
        return total

    def _shared(self, cell: Cell, stage: str, images: int) -> float:
        """Expected seconds of a stage when each job takes a chunk at a time."""
        chunks = math.ceil(images / cell.batch)
        if chunks == 0:
            return 0.0
        rounds = math.ceil(chunks / self.jobs)
        return self.seconds(cell.attack, stage, images) * rounds / chunks

    def _survivors(self, cell: Cell, before: int, position: int) -> int:
        """Images that will reach a stage: known from the one before, or expected."""
        previous = cell.verdicts["clean" if position == 0 else cell.stages[position - 1]]
        if UNSEEN not in previous:
            return previous.count(ROBUST)
        return before if position == 0 else min(before, math.ceil(self.surviving * cell.data.n))

    def _predict(self, spec: AttackSpec, stage: str, images: int) -> float:
        work = passes(spec, stage)
        return images * (work.forwards * self.forward + work.backwards * self.backward)


def probe_images(device: torch.device, batch: int) -> int:
    """How many images to time a model on that is attacked in chunks of `batch`.

    A GPU is as fast as it can be with whole chunks only, and chooses kernels for their very size.
    """
    return batch if device.type == "cuda" else PROBE_IMAGES


def measure(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Speed:
    """Time the model on one batch by a short gradient attack, which also hints at robustness.

    Args:
        model: maps images to logits, parameters frozen.
        images: float (n, c, h, w) in [0, 1]; halves of halves of them where memory is too small.
        labels: int64 (n,).
        eps: L-infinity radius of the hint.

    Raises:
        FrbenchError: out of memory.
    """
    while len(images) > PROBE_IMAGES:
        with contextlib.suppress(torch.OutOfMemoryError):
            return _measured(model, images, labels, eps)
        torch.cuda.empty_cache()
        half = len(images) // 2
        images, labels = images[:half], labels[:half]
    with enough_memory(images):
        return _measured(model, images, labels, eps)


@contextlib.contextmanager
def enough_memory(images: Tensor) -> Iterator[None]:
    """Turn running out of memory with a few images into one line that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise FrbenchError(
            f"out of memory on {images.device} while trying the model on {len(images)} images: "
            "free the device or use another one; finished chunks are kept"
        ) from None


def _measured(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Speed:
    """The fastest of a few passes, which start-up and other work on the machine touch least."""
    adversarial = images
    both, forward = math.inf, math.inf
    for _ in range(_PROBE_STEPS):
        adversarial = adversarial.detach().requires_grad_()
        begin = _now(images)
        loss = functional.cross_entropy(model(adversarial), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [adversarial])
        both = min(both, _now(images) - begin)
        moved = adversarial.detach() + eps / 2 * gradient.sign()
        adversarial = moved.clamp(images - eps, images + eps).clamp(0, 1)
    with torch.no_grad():
        for _ in range(_PROBE_STEPS):
            begin = _now(images)
            correct = model(adversarial).argmax(dim=1) == labels
            forward = min(forward, _now(images) - begin)
    n = len(images)
    return Speed(forward / n, max(both - forward, 0.0) / n, float(correct.float().mean()))


def _now(images: Tensor) -> float:
    """Seconds on the clock once the device of `images` has done what it was given."""
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()
