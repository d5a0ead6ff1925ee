"""Run a model over images: who is right, and what an attack makes of the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from frbench.analysis.inputs import ImageSet
from frbench.attacks import build_attack
from frbench.attacks.spec import AttackSpec
from frbench.errors import InputError
from frbench.evaluation.target import Target

BATCH = 128


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.inference_mode()
def correct(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int = BATCH
) -> torch.Tensor:
    """Which images the model classifies correctly; boolean (n,) on the CPU.

    Logits that are not finite count as wrong.
    """
    device = device_of(model)
    verdicts = []
    for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
        logits = model(x.to(device))
        right = (logits.argmax(1) == y.to(device)) & logits.isfinite().all(1)
        verdicts.append(right.cpu())
    return torch.cat(verdicts)


def craft(
    target: Target,
    samples: ImageSet,
    spec: AttackSpec,
    *,
    seed: int = 0,
    batch: int = BATCH,
    model: nn.Module | None = None,
) -> torch.Tensor:
    """Adversarial versions of the images, float32 (n, channels, height, width) on the CPU.

    A later stage of an attack only sees images that withstood the ones before. Batch number i is
    attacked with seed `seed + i`; the caller's random state is left as it was.

    Args:
        model: what to attack when it is not the target's own model, such as a filtered one.
    """
    attacked = target.model if model is None else model
    device = device_of(attacked)
    results = []
    pieces = zip(
        torch.split(samples.images, batch), torch.split(samples.labels, batch), strict=True
    )
    for index, (x, y) in enumerate(pieces):
        x, y = x.float().contiguous().to(device), y.to(device)
        x_adv = _run_stages(attacked, x, y, spec, seed + index, target.record.classes)
        results.append(x_adv.detach().cpu())
    return torch.cat(results)


def _run_stages(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, spec: AttackSpec, seed: int, classes: int
) -> torch.Tensor:
    x_adv = x
    alive = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for stage in spec.stages:
        if not alive.any():
            break
        attack = build_attack(spec, stage, model, device=x.device, seed=seed, classes=classes)
        x_adv = x_adv.clone()
        x_adv[alive] = attack(x[alive].contiguous(), y[alive]).to(x.dtype)
        if len(spec.stages) > 1:
            alive &= correct(model, x_adv, y, len(x)).to(x.device)
    return x_adv


def check_targets(targets: Sequence[Target]) -> str:
    """The data set of all targets.

    Raises InputError for no target, targets of several data sets, or two of the same name.
    """
    datasets = sorted({target.record.dataset for target in targets})
    names = [target.record.name for target in targets]
    if not names:
        raise InputError("no target given; name one or more models")
    if len(datasets) > 1:
        raise InputError(f"targets of several data sets ({', '.join(datasets)}); choose one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"target '{twice[0]}' given twice; name each model once")
    return datasets[0]
