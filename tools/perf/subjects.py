"""What the training suites share: plans, models and data that only speed depends on."""

from __future__ import annotations

import torch
from torch import nn

from frbench.data import Split
from frbench.data.types import make_split
from frbench.engine.plan import Plan, resolve
from frbench.models import NORMALIZATIONS, build_model
from tools.perf.options import Options
from tools.perf.ours import OurLoop, variants

EPOCH_IMAGES = 45_000
_PRESETS = {"quick": "quick", "resnet18": "resnet18", "wrn-34-10": "paper"}
_LR = "0.01"  # speed does not depend on it, and random labels stay finite


def plan_for(name: str, model: str, options: Options, **overrides: str) -> Plan:
    """The plan of a recipe for a model, at the harness's batch, learning rate and crop."""
    same = {"batch_size": str(options.batch), "lr": _LR, "pad": "4"}
    keys = {"architecture": model, **same, **overrides}
    return resolve(name, preset=_PRESETS.get(model, "resnet18"), overrides=keys)


def random_split(images: int) -> Split:
    """CIFAR-10's shape with random pixels and labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return make_split(pixels, torch.randint(0, 10, (images,), generator=generator))


def fresh_model(plan: Plan) -> nn.Module:
    """A model in train mode on the CPU; the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        normalization = NORMALIZATIONS[plan.frame.normalization]
        return build_model(plan.frame.architecture, classes=10, normalization=normalization).train()


def ours(plan: Plan, options: Options, variant: str) -> OurLoop:
    """Our loop with a fresh model."""
    model = options.device.place(fresh_model(plan))
    step = variants(options.device)[variant](model, plan.recipe, plan.frame, options.device)
    split = random_split(100 * options.batch)
    return OurLoop(step, plan.recipe, plan.frame, split, options.device)
