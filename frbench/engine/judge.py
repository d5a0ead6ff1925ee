"""Judge an epoch on the held-out split: clean accuracy and accuracy under PGD-20."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from frbench.data import Split
from frbench.data.batches import to_float
from frbench.engine.device import Device
from frbench.engine.inner import InnerAttack
from frbench.errors import FrbenchError
from frbench.models import Normalized
from frbench.models.folding import Folded
from frbench.notices import to_stderr

_STEPS = 20
JUDGE_UNITS = 2 * _STEPS + 2
"""Forward units an image of a judgement: the attack, and two passes that judge."""
BATCH = 1000
"""Images whose noise is drawn at once, and that are judged at once where memory allows."""


@dataclass(frozen=True)
class Judgement:
    """Accuracies in [0, 1] of float32 forward passes, and the spread of the clean logits."""

    clean: float
    robust: float
    logit_std: float


class Judge:
    """PGD-20 (2/255 a step) within the recipe's radius, for choosing the best epoch.

    It picks weights and draws learning curves; numbers that are reported come from the evaluation.

    Args:
        split: held-out images of the training set.
        device: where; bf16 searches for adversarial images if it can, float32 counts them.
        attack: the recipe's, for its radius.
        notice: told, in one line, when memory is too small for all images at once.
    """

    def __init__(
        self,
        split: Split,
        device: Device,
        attack: InnerAttack,
        notice: Callable[[str], None] = to_stderr,
    ) -> None:
        self.device, self.notice = device, notice
        self.images, self.labels = split.images.to(device.device), split.labels.to(device.device)
        self.piece = BATCH
        self.attack = InnerAttack(eps=attack.eps, step_size=2 / 255, steps=_STEPS)

    def __call__(self, model: Normalized, seed: int) -> Judgement:
        """Judge `model`, which is left as it was; the same seed draws the same random starts."""
        victim = Folded(model, self.device.half)
        generator = torch.Generator(self.device.device).manual_seed(seed)
        training = model.training
        model.eval()
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(self.labels), BATCH):
            images = to_float(self.images[start : start + BATCH], memory_format=torch.channels_last)
            noise = self.attack.initial_noise(images, generator)
            parts += self._in_pieces(model, victim, images, self.labels[start:][:BATCH], noise)
        model.train(training)
        logits = torch.cat([logits for logits, _ in parts])
        robust = torch.cat([robust for _, robust in parts])
        clean = logits.argmax(dim=1) == self.labels
        return Judgement(_mean(clean), _mean(robust), logits.std(dim=0).mean().item())

    def _in_pieces(
        self, model: Normalized, victim: Folded, images: Tensor, labels: Tensor, noise: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Judge so many images at once as memory holds; their noise, and so the verdicts, stay."""
        while True:
            try:
                pieces = [slice(i, i + self.piece) for i in range(0, len(labels), self.piece)]
                return [self._piece(model, victim, images[p], labels[p], noise[p]) for p in pieces]
            except torch.OutOfMemoryError:
                smallest = self.piece == 1
            if smallest:  # outside the handler, whose traceback keeps the tensors alive
                raise FrbenchError(
                    f"out of memory on {self.device.describe()} while judging one image: "
                    "free the device; finished epochs are kept"
                )
            self.piece = (min(self.piece, len(images)) + 1) // 2
            self.notice(f"out of memory: judging goes on with {self.piece} images at once")
            torch.cuda.empty_cache()

    def _piece(
        self, model: Normalized, victim: Folded, images: Tensor, labels: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clean logits, and whether the image under attack is classified correctly."""
        with self.device.autocast():
            adversarial = self.attack.perturb(victim, images, labels, noise)
        with torch.no_grad():
            return model(images), model(adversarial).argmax(dim=1) == labels


def _mean(correct: Tensor) -> float:
    return correct.float().mean().item()
