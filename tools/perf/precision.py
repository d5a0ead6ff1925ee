"""Suite `precision`: does the fast path train the same models as float32?

Each recipe is trained twice a seed, once in float32 by the plain step and once as a user's run is,
in bf16, with the same initial weights, batches and attack noise. Both are evaluated in float32 on
the same test images. A second seed shows how far two trainings lie apart that differ in luck alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from scipy import stats

from frbench.attacks import specs
from frbench.data import load_dataset
from frbench.engine import MECHANISMS
from frbench.engine.device import Device
from frbench.engine.plan import Plan, parse_overrides, resolve
from frbench.engine.registry import parse_defense
from frbench.errors import InputError
from frbench.evaluation import Cell, CellStore, evaluate, run_target
from frbench.leaderboard.statistics import pair_counts, paired_interval
from frbench.workflow import train
from tools.perf.options import Options
from tools.perf.report import Result, Table

RECIPES = ("pgd_at", "at_fr")


def run(options: Options) -> Result:
    """Train, evaluate, and set the differences beside their intervals.

    Raises:
        InputError: the device has no bf16.
    """
    if options.device.precision == "fp32":
        raise InputError(f"{options.device.describe()} has no bf16: there is no other precision")
    devices = [Device(options.device.device, "fp32", "off"), options.device]
    rows = []
    with options.workspace("precision") as folder:
        for name in RECIPES:
            for seed in range(options.seeds):
                slow, fast = (_cells(name, seed, device, options, folder) for device in devices)
                rows += [_row(name, seed, *pair) for pair in zip(slow, fast, strict=True)]
    settings = {
        "preset": options.preset,
        "overrides": list(options.overrides),
        "seeds": options.seeds,
        "images": options.images,
        "compile": {device.precision: device.compile for device in devices},
    }
    note = "accuracies in %; difference is fp32 less bf16 with its paired 95 % interval over images"
    tables = [Table(f"Precision of training: {options.preset}", rows, note)]
    if options.seeds > 1:
        note = "mean of fp32 less bf16 over seeds, with its 95 % interval (paired t): training luck"
        tables.append(Table(f"Over {options.seeds} seeds", _over_seeds(rows), note))
    return Result("precision", settings, tables)


def _cells(name: str, seed: int, device: Device, options: Options, folder: Path) -> list[Cell]:
    """Clean and PGD-20 of the last weights of one training; found again if it was done before."""
    recipe = parse_defense(name).recipe
    keys: dict[str, str] = {} if device is options.device else {"precision": device.precision}
    for key, value in parse_overrides(options.overrides).items():
        kind = key.partition(".")[0]
        if kind not in MECHANISMS or recipe.mechanism(kind):
            keys[key] = value
    plan = resolve(name, preset=options.preset, seed=seed, overrides=keys)
    run = train(plan, device, folder / "runs", Console(stderr=True))
    data = load_dataset(plan.frame.dataset)
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


def _over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean difference of each recipe and attack, with an interval that seeds alone decide."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["recipe"], row["attack"]), []).append(row["difference"])
    found = []
    for (recipe, attack), differences in groups.items():
        mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
        reach = error * float(stats.t.ppf(0.975, len(differences) - 1))
        found.append(
            {
                "recipe": recipe,
                "attack": attack,
                "difference": mean,
                "low": mean - reach,
                "high": mean + reach,
                "zero_inside": abs(mean) <= reach,
            }
        )
    return found
