"""Run a target over images: who is right, and what an attack makes of the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from frbench.analysis.inputs import ImageSet
from frbench.attacks import AttackSpec, build_attack
from frbench.engine.presets import EVALUATION_BATCH
from frbench.errors import InputError
from frbench.evaluation import numerics
from frbench.evaluation.cells import BROKEN, ROBUST
from frbench.evaluation.target import Target


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


def verdicts(
    target: Target,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    model: nn.Module | None = None,
    batch: int = EVALUATION_BATCH,
) -> str:
    """One character an image, '1' where the target is right, from one float32 forward pass.

    Args:
        model: what to run instead of the target's own model, such as a filter in front of it.
    """
    judge = target if model is None else Target(model, target.record)
    text = ""
    with target.ready() as device:
        for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
            right = judge.correct(x.to(device, torch.float32), y.to(device), seed=0)
            text += "".join(ROBUST if r else BROKEN for r in right.tolist())
    return text


def craft(
    target: Target,
    samples: ImageSet,
    spec: AttackSpec,
    *,
    model: nn.Module | None = None,
    seed: int = 0,
    batch: int = EVALUATION_BATCH,
) -> torch.Tensor:
    """Adversarial versions of the images, float32 (n, channels, height, width) on the CPU.

    A later stage of an attack only sees images that withstood the ones before. Every batch is
    attacked with the same seed, so an attack of one stage draws the numbers that it draws in
    `evaluate` with the same batch, from the same first image. AutoAttack does not: there a later
    stage is given survivors of the whole range, regrouped into full batches.

    Args:
        model: what to attack instead of the target's own model, such as a filter in front of it.
    """
    attacked = target if model is None else Target(model, target.record)
    results = []
    with target.ready() as device:
        for start in range(0, len(samples), batch):
            x = samples.images[start : start + batch].to(device, torch.float32).contiguous()
            y = samples.labels[start : start + batch].to(device)
            x_adv = _run_stages(attacked, x, y, spec, seed)
            indices = list(range(start, start + len(x)))
            numerics.check_ball(x_adv, x, spec, "+".join(spec.stages), indices)
            results.append(x_adv.detach().cpu())
    return torch.cat(results)


def _run_stages(
    target: Target, x: torch.Tensor, y: torch.Tensor, spec: AttackSpec, seed: int
) -> torch.Tensor:
    x_adv = x.clone()
    alive = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for stage in spec.stages:
        if not alive.any():
            break
        attack = build_attack(
            spec, stage, target.model, device=x.device, seed=seed, classes=target.record.classes
        )
        x_adv[alive] = attack(x[alive].contiguous(), y[alive])
        alive &= target.correct(x_adv, y, seed)
    return x_adv
