"""Suite `precision`: does the fast path train the same models as float32?

Each recipe is trained twice a seed, once in float32 by the plain step and once in bf16 by the fast
one, with the same initial weights, batches and attack noise. Both are evaluated in float32 on the
same test images. A second seed shows how far two trainings lie apart that differ in luck alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frbench.attacks import specs
from frbench.data import load_dataset
from frbench.engine import MECHANISMS
from frbench.engine.device import Compile, Device, Precision
from frbench.engine.plan import Plan, parse_overrides, resolve
from frbench.engine.registry import parse_defense
from frbench.engine.trainer import Trainer, open_run
from frbench.evaluation import Cell, CellStore, evaluate, run_target
from frbench.leaderboard.statistics import pair_counts, paired_interval
from tools.perf.options import Options
from tools.perf.report import Result, Table

RECIPES = ("pgd_at", "at_fr")
_COMPILE: dict[Precision, Compile] = {"fp32": "off", "bf16": "auto"}


def run(options: Options) -> Result:
    """Train, evaluate, and set the differences beside their intervals."""
    rows = []
    with options.workspace("precision") as folder:
        for name in RECIPES:
            for seed in range(options.seeds):
                slow, fast = (
                    _cells(name, seed, precision, options, folder) for precision in _COMPILE
                )
                rows += [_row(name, seed, *pair) for pair in zip(slow, fast, strict=True)]
    settings = {
        "preset": options.preset,
        "overrides": list(options.overrides),
        "seeds": options.seeds,
        "images": options.images,
        "compile": dict(_COMPILE),
    }
    note = "accuracies in %; difference is fp32 less bf16 with its paired 95 % interval"
    table = Table(f"Precision of training: {options.preset}", rows, note)
    return Result("precision", settings, [table])


def _cells(
    name: str, seed: int, precision: Precision, options: Options, folder: Path
) -> list[Cell]:
    """Clean and PGD-20 of the last weights of one training; found again if it was done before."""
    recipe = parse_defense(name).recipe
    keys = {"precision": str(precision)}
    for key, value in parse_overrides(options.overrides).items():
        kind = key.partition(".")[0]
        if kind not in MECHANISMS or recipe.mechanism(kind):
            keys[key] = value
    plan = resolve(name, preset=options.preset, seed=seed, overrides=keys)
    device = Device(options.device.device, precision, _COMPILE[precision])
    run = open_run(folder / "runs", plan)
    data = load_dataset(plan.frame.dataset)
    if not run.finished():
        Trainer(plan, data, device, run).run()
    return evaluate(
        run_target(run, "last", device=device.device),
        _columns(plan),
        data,
        store=CellStore(folder / "results"),
        device=device.device,
        n=min(options.images, len(data.test)),
    )


def _columns(plan: Plan) -> list[Any]:
    columns = specs(eps=plan.recipe.attack.eps)
    return [columns["clean"], columns["pgd20"]]


def _row(name: str, seed: int, slow: Cell, fast: Cell) -> dict[str, Any]:
    counts = pair_counts(slow.final_verdicts(), fast.final_verdicts())
    low, high = paired_interval(counts)
    return {
        "recipe": name,
        "seed": seed,
        "attack": slow.attack.label,
        "n": counts.n,
        "fp32": 100 * slow.accuracy,
        "bf16": 100 * fast.accuracy,
        "difference": 100 * counts.difference,
        "low": 100 * low,
        "high": 100 * high,
        "zero_inside": low <= 0 <= high,
        "fp32_seconds": slow.model.cost.get("train_seconds"),
        "bf16_seconds": fast.model.cost.get("train_seconds"),
    }
