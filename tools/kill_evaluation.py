"""Kill an AutoAttack evaluation at random moments and compare with one that was left alone.

A process evaluates a small network on the digits, or any TARGET; it is ended with SIGKILL and
started again until it has been killed often enough. The moments spread over the seconds that the
evaluation still needs, so that one evaluation takes all the kills; if it completes before the next
one, another begins. After each kill every verdict that was saved, of any stage, must be the one of
the uninterrupted evaluation, and in the end all of them.

    python tools/kill_evaluation.py [--kills 20] [--images 360] [--seed 0] [--run TARGET]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from frbench.attacks import AA_STAGES, autoattack
from frbench.data import load_dataset, to_float
from frbench.evaluation import Cell, CellStore, ModelRecord, Target, evaluate, resolve_target
from frbench.evaluation.cells import UNSEEN
from frbench.models import weights_digest

READY = "ready"
SMALL_EPS = 0.08
HANDED_ON = ("run", "device", "images", "batch", "stages")


@dataclass(frozen=True)
class Kill:
    """One kill: seconds after the start, seconds of work lost, what was saved until then."""

    moment: float
    lost: float
    saved: str
    agrees: bool

    def __str__(self) -> str:
        agrees = "yes" if self.agrees else "NO"
        return f"{self.moment:7.2f}  {self.lost:6.2f}  {agrees:5}  {self.saved}"


def main() -> int:
    """Run the kills (or, as `worker`, the evaluation) and report; 0 when all verdicts agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", nargs="?", choices=["kill", "worker"], default="kill")
    parser.add_argument("--kills", type=int, default=20, help="at least 1")
    parser.add_argument("--run", help="run folder or other TARGET instead of the small network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=360)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--stages", default=",".join(AA_STAGES))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, help="folder of a worker's cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset("digits")
    target = small_target(to_float(dataset.train.images), dataset.train.labels)
    if options.run is not None:
        target = resolve_target(options.run, device=options.device)
        dataset = load_dataset(target.record.dataset)
    target.model.to(options.device)

    def evaluation(results: Path) -> Cell:
        """Go on with whatever `results` already holds, until the one cell is complete."""
        eps = SMALL_EPS if options.run is None else 8 / 255
        (cell,) = evaluate(
            target,
            [autoattack(eps=eps, stages=options.stages.split(","))],
            dataset,
            store=CellStore(results),
            device=options.device,
            n=options.images,
            batch=options.batch,
        )
        return cell

    if options.mode == "kill":
        return kill(evaluation, options)
    print(READY, flush=True)
    evaluation(options.results)
    return 0


def kill(evaluation: Callable[[Path], Cell], options: argparse.Namespace) -> int:
    """Kill `options.kills` times; return 1 if any verdict differs, after a kill or in the end."""
    kills: list[Kill] = []
    equal = rounds = 0
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        whole = evaluation(Path(folder, "whole"))
        seconds = whole.total_seconds
        startup = time.monotonic() - begin - seconds
        stages = ", ".join(f"{stage} {took:.1f} s" for stage, took in whole.seconds.items())
        print(f"uninterrupted: {stages}; {whole.correct()} of {whole.data.n} images robust")
        print("kill  round  after s  lost s  agree  verdicts saved (images x stages)", flush=True)
        moments = random.Random(options.seed)
        while len(kills) < options.kills:
            rounds += 1
            results = Path(folder, f"round{rounds}")
            while left := options.kills - len(kills):
                needed = seconds - sum(cell.total_seconds for cell in stored(results))
                moment = moments.uniform(0, max(0.0, startup + 2 * needed / (left + 1)))
                done = killed(results, options, moment, whole)
                if done is None:
                    break
                kills.append(done)
                print(f"{len(kills):4}  {rounds:5}  {done}", flush=True)
            finished = evaluation(results)
            equal += finished.verdicts == whole.verdicts
            seconds = min(seconds, finished.total_seconds)  # where other work slowed the first
    agreed = sum(done.agrees for done in kills)
    lost = [done.lost for done in kills]
    print(f"{len(kills)} kills: what was saved agrees after {agreed} of them")
    print(f"{rounds} evaluations completed: all verdicts are equal in {equal} of them")
    print(f"work lost per kill: mean {sum(lost) / len(lost):.2f} s, largest {max(lost):.2f} s")
    return 0 if (agreed, equal) == (len(kills), rounds) else 1


def killed(results: Path, options: argparse.Namespace, moment: float, whole: Cell) -> Kill | None:
    """Start the evaluation and kill it `moment` seconds later; None if it completed before."""
    command = [sys.executable, __file__, "worker", "--results", str(results)]
    given = {name: getattr(options, name) for name in HANDED_ON}
    command += [f"--{name}={value}" for name, value in given.items() if value is not None]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != READY:
        raise RuntimeError("the worker did not start")
    begin = time.time()
    try:
        if process.wait(timeout=moment) != 0:
            raise RuntimeError("the worker failed")
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.time()
    written = [path.stat().st_mtime for path in results.glob("cells/*/*.json")]
    saved, agrees = examined(stored(results), whole)
    return Kill(end - begin, end - max([begin, *written]), saved, agrees)


def stored(results: Path) -> list[Cell]:
    """The one cell of an evaluation, or none before its first chunk is saved."""
    return CellStore(results).all()


def examined(cells: list[Cell], whole: Cell) -> tuple[str, bool]:
    """How far the saved cell is, and whether all that it knows is what `whole` knows."""
    total = sum(map(len, whole.verdicts.values()))
    if not cells:
        return f"0 of {total}", True
    (cell,) = cells
    pairs = [
        (mine, right)
        for stage, verdicts in cell.verdicts.items()
        for mine, right in zip(verdicts, whole.verdicts[stage], strict=True)
        if mine != UNSEEN
    ]
    at = next((stage for stage, verdicts in cell.verdicts.items() if UNSEEN in verdicts), "end")
    return f"{len(pairs)} of {total}, at {at}", all(mine == right for mine, right in pairs)


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
                weight.sub_(0.5 * slope)
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
