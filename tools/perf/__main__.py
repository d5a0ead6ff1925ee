"""Measure speed, print tables, keep JSON.

python -m tools.perf --suite train
python -m tools.perf --device cuda --suite all --run runs/NAME
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from frbench.engine.device import find_device
from frbench.engine.presets import default_preset
from frbench.errors import FrbenchError
from frbench.evaluation.search import Search
from tools.perf import bench, data, evaluate, precision, train
from tools.perf.options import Options
from tools.perf.report import ENOUGH, Result, show, write

SUITES: dict[str, Callable[[Options], Result]] = {
    "train": train.run,
    "eval": evaluate.run,
    "data": data.run,
    "bench": bench.run,
    "precision": precision.run,
}
SEARCHES: tuple[Search, ...] = ("exact", "fast", "compiled")
_FILE_WIDTH = 140
_ALL = ("train", "eval", "data", "bench")


def main(arguments: list[str] | None = None) -> int:
    """Run the suites that were asked for; 1 when one of them failed, the others still run."""
    typed = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    failed = False
    try:
        options = _options(typed, lambda line: console.print(line, soft_wrap=True))
    except FrbenchError as error:
        console.print(f"perf: {error}", soft_wrap=True)
        return error.exit_code
    for suite in _ALL if typed.suite == "all" else (typed.suite,):
        try:
            result = SUITES[suite](options)
        except FrbenchError as error:
            console.print(f"perf: suite {suite}: {error}", soft_wrap=True)
            failed = True
            continue
        show(result, console)
        print(write(result, options.device, typed.out, rehearsal=options.rehearsal))
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.perf",
        description="Measure speed, print tables, keep JSON under --out/DEVICE/SUITE.json.",
    )
    add = parser.add_argument
    add("--device", default="auto", help="auto (default), cpu or cuda")
    add(
        "--suite",
        default="all",
        choices=[*SUITES, "all"],
        help="default all: every one but precision",
    )
    add(
        "--out",
        type=Path,
        default=Path("results/perf"),
        help="folder of the results (default results/perf)",
    )
    add(
        "--repeats",
        type=_positive,
        default=ENOUGH,
        help=f"samples behind every median (default {ENOUGH}; fewer make it a rehearsal)",
    )
    add("--seconds", type=float, default=2.0, help="length of one sample (default 2)")
    add("--threads", type=_positive, help="on the CPU (default: torch's own choice)")
    add("--models", help="of suite train, joined by commas (default quick; resnet18 on CUDA)")
    add("--recipes", default="", help="of suite train, joined by commas (default all)")
    add(
        "--batch",
        type=_positive,
        help="images a step (default 128), a chunk of an evaluation (default 128; 512 on CUDA)",
    )
    add("--images", type=_positive, help="to attack (default 256; 512 on CUDA)")
    add("--run", help="run folder of a robust model, for AutoAttack")
    add(
        "--attacks",
        nargs="+",
        choices=evaluate.ATTACKS,
        default=evaluate.ATTACKS,
        help="of suite eval: pgd20 (on `natural`), aa (on --run); default both",
    )
    add(
        "--searches",
        nargs="+",
        choices=SEARCHES,
        help="of suite eval (default exact fast; on CUDA compiled too)",
    )
    add("--preset", help="of bench and precision (default quick; resnet18 on CUDA)")
    add("--seeds", type=_positive, default=1, help="trainings a precision (default 1)")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of these trainings")
    add(
        "--folder",
        type=Path,
        help="keeps runs and cells of bench and precision; a second call goes on",
    )
    add("--quick", action="store_true", help="a rehearsal: tiny sizes, numbers that say nothing")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


def _options(typed: argparse.Namespace, say: Callable[[str], object]) -> Options:
    device = find_device(typed.device)
    if typed.threads:
        torch.set_num_threads(typed.threads)
    quick = typed.quick
    models = typed.models or ("resnet18" if device.cuda and not quick else "quick")
    preset = typed.preset or ("smoke" if quick else default_preset(device.cuda))
    return Options(
        device=device,
        repeats=2 if quick else typed.repeats,
        seconds=0.1 if quick else typed.seconds,
        models=tuple(models.split(",")),
        recipes=tuple(name for name in typed.recipes.split(",") if name),
        batch=8 if quick else typed.batch or 128,
        # A GPU is as fast as it can be with large chunks only.
        chunk=8 if quick else typed.batch or (512 if device.cuda else 128),
        images=8 if quick else typed.images or (512 if device.cuda else 256),
        run=typed.run,
        attacks=tuple(typed.attacks),
        # Compiling for one evaluation takes minutes that a CPU never gets back.
        searches=tuple(typed.searches or (SEARCHES if device.cuda else SEARCHES[:2])),
        preset=preset,
        seeds=typed.seeds,
        overrides=tuple(typed.set),
        folder=typed.folder,
        rehearsal=quick,
        say=say,
    )


if __name__ == "__main__":
    sys.exit(main())
