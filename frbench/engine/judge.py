"""Judge an epoch on the held-out split: clean accuracy and accuracy under PGD-20."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frbench.data import Split
from frbench.data.batches import to_float
from frbench.engine.device import Device
from frbench.engine.inner import InnerAttack
from frbench.models import Normalized
from frbench.models.folding import Folded

BATCH = 1000


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
        device: where; lower precision may search for adversarial images, float32 counts them.
        attack: the recipe's, for its radius.
    """

    def __init__(self, split: Split, device: Device, attack: InnerAttack) -> None:
        self.device = device
        self.images, self.labels = split.images.to(device.device), split.labels.to(device.device)
        self.attack = InnerAttack(eps=attack.eps, step_size=2 / 255, steps=20)

    def __call__(self, model: Normalized, seed: int) -> Judgement:
        """Judge `model`, which is left as it was; the same seed draws the same random starts."""
        victim = Folded(model)
        generator = torch.Generator(self.device.device).manual_seed(seed)
        training = model.training
        model.eval()
        clean, robust, logits = [], [], []
        for start in range(0, len(self.labels), BATCH):
            images = to_float(self.images[start : start + BATCH], memory_format=torch.channels_last)
            labels = self.labels[start : start + BATCH]
            noise = self.attack.initial_noise(images, generator)
            with self.device.autocast():
                adversarial = self.attack.perturb(victim, images, labels, noise)
            with torch.no_grad():
                logits.append(model(images))
                clean.append(logits[-1].argmax(dim=1) == labels)
                robust.append(model(adversarial).argmax(dim=1) == labels)
        model.train(training)
        return Judgement(_mean(clean), _mean(robust), torch.cat(logits).std(dim=0).mean().item())


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).float().mean().item()
