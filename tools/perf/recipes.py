"""One training step of every recipe, set against what the device can do at most."""

from __future__ import annotations

from typing import Any

import torch

from frbench.engine.plan import Plan
from frbench.engine.registry import defenses
from tools.perf.machine import MATMUL, forward_flops, matmul, matmul_flops, peak_memory
from tools.perf.options import Options
from tools.perf.ours import OurLoop, best
from tools.perf.report import Figure, Result, Table
from tools.perf.subjects import EPOCH_IMAGES, fresh_model, ours, plan_for
from tools.perf.timing import Candidate


def add(result: Result, options: Options, model: str) -> None:
    """Add the table of one architecture; every recipe has all of its mechanisms active.

    Recipes come one after another, each interleaved with the matrix product that is its ceiling, so
    that only one of them needs memory at a time.
    """
    plans = {n: plan_for(n, model, options) for n in options.recipes or defenses()[0]}
    first = next(iter(plans.values()))
    flops = forward_flops(fresh_model(first).eval(), torch.rand(2, 3, 32, 32))
    rows = [_measured(name, plan, options, flops) for name, plan in plans.items()]
    note = (
        f"{first.recipe.attack.steps}-step attack; a forward pass is {flops / 1e6:.1f} MFLOP an "
        f"image; an epoch has {EPOCH_IMAGES} images; the ceiling is a matrix product in "
        f"{options.device.precision}; memory: "
        + ("peak that torch allocates" if options.device.cuda else "held by the process")
    )
    variant = best(options.device)
    result.tables.append(Table(f"Recipes: {model}, {variant}, batch {options.batch}", rows, note))
    if options.device.cuda and model == "wrn-34-10" and "pgd_at" in plans:
        share = next(row["of_ceiling"] for row in rows if row["name"] == "pgd_at")
        result.figures.append(Figure(f"{model}: share of the matmul ceiling", 0.4, share))


def _measured(name: str, plan: Plan, options: Options, flops: float) -> dict[str, Any]:
    loops: list[OurLoop] = []

    def build() -> None:
        loops.append(ours(plan, options, best(options.device)))
        loops[0].run(2)

    memory = peak_memory(options.device, build)
    size = 512 if options.rehearsal else 8192 if options.device.cuda else 2048
    timings = options.timed([Candidate(name, loops[0].run), matmul(options.device, size)])
    timing, units = timings[name], plan.recipe.forward_units()
    achieved = flops * units * options.batch / timing.median
    ceiling = matmul_flops(size) / timings[MATMUL].median
    return {
        **timing.row(),
        "forward_units": units,
        "images_per_second": options.batch / timing.median,
        "epoch_seconds": EPOCH_IMAGES / options.batch * timing.median,
        "tflop_per_second": achieved / 1e12,
        "ceiling": ceiling / 1e12,
        "of_ceiling": achieved / ceiling,
        "memory_mib": memory,
    }
