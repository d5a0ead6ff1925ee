"""Kill an AutoAttack evaluation at random moments and compare with one that was left alone.

A process evaluates a small network on the digits; it is ended with SIGKILL at a random moment and
started again, until it has been killed often enough. Whenever the evaluation completes between two
kills, its verdicts are compared and the next round starts in a new folder.

    python tools/kill_evaluation.py [--kills 20] [--images 360] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from frbench.attacks import AA_STAGES, autoattack
from frbench.data import load_dataset, to_float
from frbench.evaluation import Cell, CellStore, ModelRecord, Target, evaluate
from frbench.models import weights_digest

READY = "ready"
EPS = 0.08


def main() -> int:
    """Run the kills (or, as `worker`, the evaluation) and report; 0 when all verdicts agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", nargs="?", choices=["kill", "worker"], default="kill")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=360)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--stages", default=",".join(AA_STAGES))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, help="folder of a worker's cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mode == "worker":
        work(options.results, options)
        return 0
    return kill(options)


def kill(options: argparse.Namespace) -> int:
    """Kill `options.kills` times; return 1 if any completed evaluation has other verdicts."""
    moments = random.Random(options.seed)
    lost: list[float] = []
    equal = finished = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        begin = time.monotonic()
        reference = work(whole, options)
        seconds = time.monotonic() - begin
        stages = ", ".join(f"{s} {t:.1f} s" for s, t in reference.seconds.items())
        print(f"uninterrupted: {seconds:.1f} s ({stages}), verdicts {reference.correct()} robust")
        while len(lost) < options.kills or finished == 0:
            finished += 1
            results = Path(folder, f"round{finished}")
            left = options.kills - len(lost)
            lost += killed_round(results, options, left, seconds, moments)
            cell = work(results, options)
            equal += cell.verdicts == reference.verdicts
    print(f"kills: {len(lost)}, rounds completed: {finished}, verdicts equal: {equal}/{finished}")
    if lost:
        mean = sum(lost) / len(lost)
        print(f"work lost per kill: mean {mean:.2f} s, largest {max(lost):.2f} s")
    return 0 if equal == finished else 1


def killed_round(
    results: Path, options: argparse.Namespace, kills: int, seconds: float, moments: random.Random
) -> list[float]:
    """Start, kill, start again, until the evaluation completes; seconds of work lost per kill."""
    lost: list[float] = []
    while len(lost) < kills:
        command = [sys.executable, __file__, "worker", "--results", str(results)]
        command += ["--images", str(options.images), "--batch", str(options.batch)]
        command += ["--stages", options.stages]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if process.stdout.readline().strip() != READY:
            raise RuntimeError("the worker did not start")
        begin = time.time()
        try:
            process.wait(timeout=moments.uniform(0, seconds / 4))
            break  # it completed before its moment came
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        saved = [path.stat().st_mtime for path in results.glob("cells/*/*.json")]
        lost.append(time.time() - max([begin, *saved]))
        print(f"kill {len(lost)}: {lost[-1]:.2f} s of work lost", flush=True)
    return lost


def work(results: Path, options: argparse.Namespace) -> Cell:
    """Evaluate the small network, going on with whatever `results` already holds."""
    dataset = load_dataset("digits")
    target = small_target(to_float(dataset.train.images), dataset.train.labels)
    print(READY, flush=True)
    (cell,) = evaluate(
        target,
        [autoattack(eps=EPS, stages=options.stages.split(","))],
        dataset,
        store=CellStore(results),
        device="cpu",
        n=options.images,
        batch=options.batch,
    )
    return cell


def small_target(images: torch.Tensor, labels: torch.Tensor) -> Target:
    """A small network, the same in every process: 200 steps on noisy digits, one thread."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    weights = list(model.parameters())
    for _ in range(200):  # by hand: an optimizer imports torch's compiler, seconds a worker
        noisy = (images + 0.2 * torch.randn_like(images)).clamp(0, 1)
        loss = nn.functional.cross_entropy(model(noisy), labels)
        with torch.no_grad():
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight -= 0.5 * slope
    record = ModelRecord(
        name="small",
        target="tools/kill_evaluation.py",
        digest=weights_digest(model.state_dict(), "small", None),
        architecture="small",
        parameters=sum(p.numel() for p in model.parameters()),
        dataset="digits",
        classes=10,
        source="outside",
    )
    return Target(model.eval(), record)


if __name__ == "__main__":
    sys.exit(main())
