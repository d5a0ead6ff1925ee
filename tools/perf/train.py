"""Suite `train`: our training step against the usual loops, and every recipe against the device."""

from __future__ import annotations

from typing import Any

from tools.perf import recipes
from tools.perf.options import Options
from tools.perf.ours import best, variants
from tools.perf.report import Figure, Result, Table
from tools.perf.subjects import EPOCH_IMAGES, fresh_model, ours, plan_for, random_split
from tools.perf.textbook import PlainLoop, PlainStep, careful, textbook
from tools.perf.timing import Candidate, Timing

_LOADING = 0.3
"""Seconds in which the workers of a loader have filled their queue, and leave the cores alone."""


def run(options: Options) -> Result:
    """Time the loops on random images of CIFAR-10's shape: speed does not depend on content."""
    result = Result(
        "train",
        settings={
            "batch": options.batch,
            "repeats": options.repeats,
            "seconds_a_repeat": options.seconds,
            "data": "random images 3x32x32, 100 batches",
            "variants": list(variants(options.device)),
        },
        subject="-".join([*options.models, *options.recipes]),
    )
    for model in options.models:
        for steps in (10, 2) if model == "quick" else (10,):
            _compare_loops(result, options, model, steps)
        recipes.add(result, options, model)
    return result


def _compare_loops(result: Result, options: Options, model: str, steps: int) -> None:
    size = "2/255" if steps > 2 else "8/255"
    overrides = {"attack.steps": str(steps), "attack.step_size": size}
    plan = plan_for("pgd_at", model, options, **overrides)
    split, where = random_split(100 * options.batch), options.device.device
    candidates = []
    for gradient in (textbook, careful):
        step = PlainStep(fresh_model(plan).to(where), plan.recipe.attack, plan.frame, gradient)
        loop = PlainLoop(step, split, options.batch, where)
        candidates.append(Candidate(gradient.__name__, loop.run, settle=_LOADING))
    candidates += [
        Candidate(name, ours(plan, options, name).run) for name in variants(options.device)
    ]
    timings = options.timed(candidates)
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
    """The figures that are promised for this model on this kind of device."""
    own = timings[best(options.device)].median
    over_textbook = timings["textbook"].median / own
    if not options.device.cuda:
        if model != "quick":
            return []
        return [
            Figure(f"{title}: times the textbook loop", 2.5, over_textbook),
            Figure(f"{title}: times the careful loop", 1.6, timings["careful"].median / own),
        ]
    epoch = EPOCH_IMAGES / options.batch * own
    if model == "resnet18":
        return [
            Figure(f"{title}: times the textbook loop", 5.0, over_textbook),
            Figure(f"{title}: seconds an epoch", 6.0, epoch, at_least=False),
        ]
    if model == "wrn-34-10":
        return [Figure(f"{title}: seconds an epoch", 30.0, epoch, at_least=False)]
    return []
