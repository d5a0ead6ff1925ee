"""The attack libraries called as their documentation shows, to compare our evaluation with."""

from __future__ import annotations

import torch
import torchattacks
from pyautoattack import AutoAttack
from torch import Tensor, nn

from frbench.attacks import AttackSpec
from frbench.errors import InputError


def plain_call(
    model: nn.Module, spec: AttackSpec, images: Tensor, labels: Tensor, *, batch: int, seed: int
) -> Tensor:
    """Which images a library's own call leaves correctly classified: bool, shape (n,).

    torchattacks is called after `torch.manual_seed(seed)` a batch, AutoAttack as pyautoattack's
    `run_standard_evaluation` with the same seed and batch size.

    Args:
        model: maps images to logits, in eval mode.
        spec: FGSM, PGD or AutoAttack (all of its stages or some) in the L-infinity ball.
        images: float in [0, 1], shape (n, channels, height, width).
        labels: int64, shape (n,).

    Raises:
        InputError: neither library has this attack.
    """
    if spec.is_autoattack:
        suite = AutoAttack(model, device=images.device, eps=spec.eps, seed=seed)
        suite.attacks_to_run = list(spec.stages)
        _, predicted = suite.run_standard_evaluation(images, labels, batch_size=batch)
        return torch.eq(predicted, labels)
    attack = _torchattack(model, spec)
    right = []
    for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
        torch.manual_seed(seed)
        adversarial = attack(x, y)
        with torch.no_grad():
            right.append(model(adversarial).argmax(dim=1) == y)
    return torch.cat(right)


def _torchattack(model: nn.Module, spec: AttackSpec) -> torchattacks.attack.Attack:
    if spec.name == "fgsm":
        return torchattacks.FGSM(model, eps=spec.eps)
    if spec.name.startswith("pgd"):
        return torchattacks.PGD(model, eps=spec.eps, alpha=spec.step_size, steps=spec.steps)
    raise InputError(f"no attack library has {spec.name}: compare fgsm, pgdN or aa")
