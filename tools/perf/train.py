"""Suite `train`: our training step against the usual loops, and every recipe against the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from frbench.data import Split
from frbench.data.types import make_split
from frbench.engine.plan import Plan, resolve
from frbench.engine.registry import defenses
from frbench.models import NORMALIZATIONS, build_model
from tools.perf.machine import forward_flops, matmul_ceiling, peak_memory
from tools.perf.options import Options
from tools.perf.ours import BEST, VARIANTS, OurLoop
from tools.perf.report import Figure, Result, Table
from tools.perf.textbook import PlainLoop, PlainStep, careful, textbook
from tools.perf.timing import Candidate, Timing, interleave

EPOCH_IMAGES = 45_000
_PRESETS = {"quick": "quick", "resnet18": "resnet18", "wrn-34-10": "paper"}
_LR = "0.01"  # speed does not depend on it, and random labels stay finite


def run(options: Options) -> Result:
    """Time the loops on random images of CIFAR-10's shape: speed does not depend on content."""
    size = 512 if options.rehearsal else 8192 if options.device.cuda else 2048
    ceiling = matmul_ceiling(options.device, options.clock, repeats=options.repeats, size=size)
    result = Result(
        "train",
        settings={
            "batch": options.batch,
            "repeats": options.repeats,
            "seconds_a_repeat": options.seconds,
            "data": "random images 3x32x32, 100 batches",
            "variants": list(VARIANTS),
            "matmul_ceiling_flops": ceiling,
        },
    )
    for model in options.models:
        for steps in (10, 2) if model == "quick" else (10,):
            _compare_loops(result, options, model, steps)
        _recipes(result, options, model, ceiling)
    return result


def plan_for(name: str, model: str, options: Options, **overrides: str) -> Plan:
    """The plan of a recipe for a model, at the harness's batch and learning rate."""
    keys = {"architecture": model, "batch_size": str(options.batch), "lr": _LR, **overrides}
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
    step = VARIANTS[variant](model, plan.recipe, plan.frame, options.device)
    split = random_split(100 * options.batch)
    return OurLoop(step, plan.recipe, plan.frame, split, options.device)


def _compare_loops(result: Result, options: Options, model: str, steps: int) -> None:
    size = "2/255" if steps > 2 else "8/255"
    overrides = {"attack.steps": str(steps), "attack.step_size": size}
    plan = plan_for("pgd_at", model, options, **overrides)
    split, where = random_split(100 * options.batch), options.device.device
    candidates = []
    for gradient in (textbook, careful):
        step = PlainStep(fresh_model(plan).to(where), plan.recipe.attack, plan.frame, gradient)
        loop = PlainLoop(step, split, options.batch, where)
        candidates.append(Candidate(gradient.__name__, loop.run))
    candidates += [Candidate(name, ours(plan, options, name).run) for name in VARIANTS]
    timings = interleave(
        candidates, options.clock, repeats=options.repeats, seconds=options.seconds
    )
    title = f"PGD-AT, {model}, {steps}-step attack, batch {options.batch}"
    rows = [_loop_row(t, timings, options.batch) for t in timings.values()]
    result.tables.append(
        Table(f"Training loops: {title}", rows, "seconds a step; speedups against the two loops")
    )
    result.figures += _loop_figures(title, model, timings, options)


def _loop_row(timing: Timing, timings: dict[str, Timing], batch: int) -> dict[str, Any]:
    return {
        **timing.row(),
        "images_per_second": batch / timing.median,
        "times_textbook": timings["textbook"].median / timing.median,
        "times_careful": timings["careful"].median / timing.median,
    }


def _loop_figures(
    title: str, model: str, timings: dict[str, Timing], options: Options
) -> list[Figure]:
    best = timings[BEST].median
    over_textbook = timings["textbook"].median / best
    if not options.device.cuda:
        over_careful = timings["careful"].median / best
        return [
            Figure(f"{title}: times the textbook loop", 2.5, over_textbook),
            Figure(f"{title}: times the careful loop", 1.6, over_careful),
        ]
    epoch = EPOCH_IMAGES / options.batch * best
    limit = {"resnet18": 6.0, "wrn-34-10": 30.0}.get(model)
    figures = [Figure(f"{title}: times the textbook loop", 5.0, over_textbook)]
    if limit is not None:
        figures.append(Figure(f"{title}: seconds an epoch", limit, epoch, at_least=False))
    return figures if model != "wrn-34-10" else figures[1:]


def _recipes(result: Result, options: Options, model: str, ceiling: float) -> None:
    """One training step of every recipe, with all of its mechanisms active."""
    plans = {name: plan_for(name, model, options) for name in defenses()[0]}
    loops, memory = {}, {}
    for name, plan in plans.items():

        def build(name: str = name, plan: Plan = plan) -> None:
            loops[name] = ours(plan, options, BEST)
            loops[name].run(2)

        memory[name] = peak_memory(options.device, build)
    candidates = [Candidate(name, loop.run) for name, loop in loops.items()]
    timings = interleave(
        candidates, options.clock, repeats=options.repeats, seconds=options.seconds
    )
    probe = torch.rand(2, 3, 32, 32)
    flops = forward_flops(fresh_model(plans["pgd_at"]).eval(), probe)
    rows = []
    for name, timing in timings.items():
        units = plans[name].recipe.forward_units()
        achieved = flops * units * options.batch / timing.median
        rows.append(
            {
                **timing.row(),
                "forward_units": units,
                "images_per_second": options.batch / timing.median,
                "epoch_seconds": EPOCH_IMAGES / options.batch * timing.median,
                "tflop_per_second": achieved / 1e12,
                "of_ceiling": achieved / ceiling,
                "memory_mib": memory[name],
            }
        )
    attack = plans["pgd_at"].recipe.attack
    note = (
        f"{attack.steps}-step attack; one forward pass is {flops / 1e6:.1f} MFLOP an image, the "
        f"ceiling {ceiling / 1e12:.3g} TFLOP/s in {options.device.precision}; an epoch has "
        f"{EPOCH_IMAGES} images; memory is {'the peak' if options.device.cuda else 'resident'}"
    )
    result.tables.append(Table(f"Recipes: {model}, {BEST}, batch {options.batch}", rows, note))
    if options.device.cuda and model == "wrn-34-10":
        share = next(row["of_ceiling"] for row in rows if row["name"] == "pgd_at")
        result.figures.append(Figure(f"{model}: share of the matmul ceiling", 0.4, share))
