"""What a training will cost, from a few of its steps on a throwaway model."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import dataclass
from itertools import pairwise

import torch

from frbench.data import Dataset
from frbench.durations import duration
from frbench.engine.device import Device
from frbench.engine.plan import Plan
from frbench.engine.probe import Probe


@dataclass(frozen=True)
class Estimate:
    """Forecast of one training; seconds are wall clock.

    Attributes:
        name: of the run.
        device: for people.
        epochs: of the training.
        epochs_done: by an unfinished run that goes on; seconds are of the others.
        steps: of one epoch.
        images_per_second: while training with every mechanism active.
        startup_seconds: first steps: compiling, capturing, choosing kernels.
        train_seconds: all training steps.
        judge_seconds: all judgements, on held-out and on test images.
        average_seconds: averaging weights after epochs, and their BatchNorm statistics.
        memory: bytes; the peak that torch allocates on CUDA, else what the process holds.
        watts: drawn while training; None where the device does not tell.
        measured_seconds: what this forecast took.
    """

    name: str
    device: str
    epochs: int
    epochs_done: int
    steps: int
    images_per_second: float
    startup_seconds: float
    train_seconds: float
    judge_seconds: float
    average_seconds: float
    memory: int
    watts: float | None
    measured_seconds: float

    @property
    def total_seconds(self) -> float:
        return self.startup_seconds + self.train_seconds + self.judge_seconds + self.average_seconds

    @property
    def energy(self) -> float | None:
        """Watt-hours of the device, without the rest of the machine."""
        return None if self.watts is None else self.watts * self.total_seconds / 3600

    def summary(self) -> str:
        """One line."""
        parts = [f"{self.name}: {duration(self.total_seconds)} on {self.device}"]
        parts.append(f"{self.memory / 2**30:.1f} GiB")
        if self.energy is not None:
            parts.append(f"{self.energy:.0f} Wh")
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """The summary and what it is made of."""
        shares = {
            "training": self.train_seconds,
            "judging": self.judge_seconds,
            "averaging": self.average_seconds,
            "start": self.startup_seconds,
        }
        speed = self.images_per_second
        rate = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        made_of = ", ".join(f"{name} {duration(s)}" for name, s in shares.items() if s >= 0.05)
        left = f"{self.epochs - self.epochs_done} of " if self.epochs_done else ""
        return [
            self.summary(),
            f"  {left}{self.epochs} epochs of {self.steps} steps, {rate} images/s",
            f"  {made_of}; measured in {self.measured_seconds:.1f} s",
        ]


def estimate(
    plan: Plan,
    data: Dataset,
    device: Device,
    *,
    steps: int = 20,
    epochs_done: int = 0,
) -> Estimate:
    """Forecast the training of `plan`, or what is left of it; nothing is written.

    On a CPU it measures for about `CPU_BUDGET` seconds, with fewer or smaller steps if need be, and
    first sets torch to the number of threads that trains fastest, unless OMP_NUM_THREADS is set.
    Where a step of a few images takes more than `SLOW` seconds it times little else: the threads
    stay, and judgements follow from the step. Of an attack it times `LONGEST_ATTACK` steps at most
    (all three of `frbench.engine.probe`).

    Args:
        plan: what would be trained.
        data: the dataset that the plan names.
        device: where.
        steps: to time, of every phase (a mechanism that starts later begins another phase).
        epochs_done: by the run that will go on.

    Raises:
        FrbenchError: out of memory; names the batch size that would fit.
    """
    began = time.perf_counter()
    probe = Probe(plan, data, device)
    try:
        with contextlib.suppress(torch.OutOfMemoryError):
            return _measured(probe, steps, epochs_done, began)
        # Outside the handler, whose traceback keeps the tensors alive.
        raise probe.trainer.out_of_memory()
    finally:
        # torch's lazy imports catch errors whose tracebacks hold whoever caused the import, and
        # with it, on a GPU, all that the training which follows may need.
        del probe
        gc.collect()


def _measured(probe: Probe, steps: int, done: int, began: float) -> Estimate:
    """The estimate: what was timed, as often as the training does it.

    Args:
        probe: of the plan, nothing of it timed yet.
        steps: to time, of every phase.
        done: epochs that the training does not repeat.
        began: when the measuring did.
    """
    plan, device, batches = probe.plan, probe.device, probe.trainer.batches
    epochs = plan.frame.epochs
    startup, step_seconds = probe.phases(_phase_starts(plan, done), steps)
    train = sum(
        (end - start) * len(batches) * step_seconds[start]
        for start, end in pairwise([*step_seconds, epochs])
    )
    slowest = list(step_seconds.values())[-1]
    watts = probe.watts(slowest) if device.cuda else None
    averaged = plan.recipe.average is not None
    return Estimate(
        name=plan.name,
        device=device.describe(),
        epochs=epochs,
        epochs_done=done,
        steps=len(batches),
        images_per_second=batches.images / len(batches) / slowest,
        startup_seconds=startup,
        train_seconds=train,
        judge_seconds=probe.judgement(slowest) * _judgements(plan, done),
        average_seconds=probe.averaging() * _passes(plan, done) if averaged else 0.0,
        memory=probe.memory(),
        watts=watts,
        measured_seconds=time.perf_counter() - began,
    )


def _phase_starts(plan: Plan, done: int) -> list[int]:
    """The first epoch that is left, and those at which the work of a step changes.

    An average does not change it.
    """
    starts = {done}
    for mechanism in plan.recipe.mechanisms:
        if mechanism is not plan.recipe.average:
            starts.add(max(done, mechanism.start_epoch))
    return sorted(starts)


def _judgements(plan: Plan, done: int) -> int:
    """Judgements of the epochs that are left; each also judges the average once there is one."""
    frame, average = plan.frame, plan.recipe.average
    judged = [
        epoch
        for epoch in range(done, frame.epochs)
        if (epoch + 1) % frame.validation_every == 0 or epoch + 1 == frame.epochs
    ]
    if average is None:
        return len(judged)
    return len(judged) + sum(average.active(epoch) for epoch in judged)


def _passes(plan: Plan, done: int) -> int:
    """Updates of the weight average that are left."""
    average = plan.recipe.average
    assert average is not None
    updated = range(average.start_epoch, plan.frame.epochs, getattr(average, "cycle", 1))
    return sum(epoch >= done for epoch in updated)
