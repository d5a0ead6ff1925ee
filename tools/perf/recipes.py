"""One training step of every recipe, set against what the device can do at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from frbench.engine.plan import Plan
from frbench.engine.registry import defenses
from tools.perf.machine import (
    COPY,
    MATMUL,
    activations,
    copy,
    copy_bytes,
    forward_flops,
    matmul,
    matmul_flops,
    peak_memory,
)
from tools.perf.options import Options
from tools.perf.ours import OurLoop, best
from tools.perf.report import Figure, Result, Table
from tools.perf.subjects import EPOCH_IMAGES, fresh_model, ours, plan_for
from tools.perf.timing import Candidate

_COPIED = 256
"""Megabytes; more than any cache holds."""


@dataclass(frozen=True)
class Asked:
    """What one forward pass of one image asks of a device.

    Attributes:
        flops: floating-point operations.
        moved: bytes that convolutions and linear layers write, and as many that are read.
    """

    flops: float
    moved: float


def add(result: Result, options: Options, model: str) -> None:
    """Add the table of one architecture; every recipe has all of its mechanisms active.

    Recipes come one after another, each interleaved with the matrix product and the copy that are
    its ceilings, so that only one of them needs memory at a time.
    """
    plans = {n: plan_for(n, model, options) for n in options.recipes or defenses()[0]}
    first = next(iter(plans.values()))
    network, images = fresh_model(first).eval(), torch.rand(2, 3, 32, 32)
    size = 2 if options.device.precision == "bf16" else 4
    asked = Asked(forward_flops(network, images), 2 * size * activations(network, images))
    rows = [_measured(name, plan, options, asked) for name, plan in plans.items()]
    note = (
        f"{first.recipe.attack.steps}-step attack; a forward pass is {asked.flops / 1e6:.1f} MFLOP "
        f"an image and moves {asked.moved / 1e6:.3g} MB; an epoch has {EPOCH_IMAGES} images; the "
        f"ceiling is a matrix product in {options.device.precision}; the floors are what that "
        "product's rate, and that of a copy, would need for an epoch; memory: "
        + ("peak that torch allocates" if options.device.cuda else "held by the process")
    )
    variant = best(options.device)
    result.tables.append(Table(f"Recipes: {model}, {variant}, batch {options.batch}", rows, note))
    if options.device.cuda and model == "wrn-34-10" and "pgd_at" in plans:
        share = next(row["of_ceiling"] for row in rows if row["name"] == "pgd_at")
        result.figures.append(Figure(f"{model}: share of the matmul ceiling", 0.4, share))


def _measured(name: str, plan: Plan, options: Options, asked: Asked) -> dict[str, Any]:
    loops: list[OurLoop] = []

    def build() -> None:
        loops.append(ours(plan, options, best(options.device)))
        loops[0].run(2)

    memory = peak_memory(options.device, build)
    size = 512 if options.rehearsal else 8192 if options.device.cuda else 2048
    copied = 1 if options.rehearsal else _COPIED
    timings = options.timed(
        [
            Candidate(name, loops[0].run),
            matmul(options.device, size),
            copy(options.device, copied),
        ]
    )
    timing, units = timings[name], plan.recipe.forward_units()
    achieved = asked.flops * units * options.batch / timing.median
    ceiling = matmul_flops(size) / timings[MATMUL].median
    bandwidth = copy_bytes(copied) / timings[COPY].median
    passes = units * EPOCH_IMAGES
    return {
        **timing.row(),
        "forward_units": units,
        "images_per_second": options.batch / timing.median,
        "epoch_seconds": EPOCH_IMAGES / options.batch * timing.median,
        "arithmetic_floor": passes * asked.flops / ceiling,
        "memory_floor": passes * asked.moved / bandwidth,
        "tflop_per_second": achieved / 1e12,
        "ceiling": ceiling / 1e12,
        "of_ceiling": achieved / ceiling,
        "gb_per_second": bandwidth / 1e9,
        "memory_mib": memory,
    }
