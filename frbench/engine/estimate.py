"""What a training will cost, from a few of its steps on a throwaway model."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import psutil
import torch
from torch import Tensor

from frbench.data import Batches, Dataset, Split
from frbench.durations import duration
from frbench.engine.device import Device
from frbench.engine.inner import InnerAttack
from frbench.engine.judge import JUDGE_UNITS, Judge
from frbench.engine.plan import Plan
from frbench.engine.run import RunFolder
from frbench.engine.threads import chosen_by_user, tune_threads
from frbench.engine.trainer import Trainer

CPU_BUDGET = 5.0
"""Seconds of measuring on a CPU, where twenty steps can take minutes."""
SLOW = 1.0
"""Seconds of a step of `_SMALL` images, beyond which each phase is timed by one such step."""
_SMALL = 8
LONGEST_ATTACK = 20
"""Attack steps that are timed; the further ones of a longer attack take as long each."""


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
    notice: Callable[[str], None] = lambda _: None,
) -> Estimate:
    """Forecast the training of `plan`, or what is left of it; nothing is written.

    On a CPU it measures for about `CPU_BUDGET` seconds, with fewer or smaller steps if need be, and
    first sets torch to the number of threads that trains fastest, unless OMP_NUM_THREADS is set.
    Where a step of a few images takes more than `SLOW` seconds it times little else: the threads
    stay, and judgements follow from the step. Of an attack it times `LONGEST_ATTACK` steps at most.

    Args:
        plan: what would be trained.
        data: the dataset that the plan names.
        device: where.
        steps: to time, of every phase (a mechanism that starts later begins another phase).
        epochs_done: by the run that will go on.
        notice: told when a faster path fails.

    Raises:
        FrbenchError: out of memory; names the batch size that would fit.
    """
    began = time.perf_counter()
    probe = _Probe(plan, data, device, notice, epochs_done)
    try:
        with contextlib.suppress(torch.OutOfMemoryError):
            return _measured(probe, steps, began)
        # Outside the handler, whose traceback keeps the tensors alive.
        raise probe.trainer.out_of_memory()
    finally:
        # torch's lazy imports catch errors whose tracebacks hold whoever caused the import, and
        # with it, on a GPU, all that the training which follows may need.
        del probe
        gc.collect()


def _measured(probe: _Probe, steps: int, began: float) -> Estimate:
    """The estimate; `began` is when its measuring did."""
    plan, device = probe.plan, probe.device
    average, epochs = plan.recipe.average, plan.frame.epochs
    startup, step_seconds = probe.phases(steps)
    train = sum(
        (end - start) * len(probe.trainer.batches) * step_seconds[start]
        for start, end in pairwise([*step_seconds, epochs])
    )
    slowest = list(step_seconds.values())[-1]
    watts = _watts(probe, slowest / probe.whole(epochs - 1)) if device.cuda else None
    return Estimate(
        name=plan.name,
        device=device.describe(),
        epochs=epochs,
        epochs_done=probe.done,
        steps=len(probe.trainer.batches),
        images_per_second=probe.trainer.batches.images / len(probe.trainer.batches) / slowest,
        startup_seconds=startup,
        train_seconds=train,
        judge_seconds=probe.judgement(slowest) * _judgements(plan, probe.done),
        average_seconds=probe.averaging() if average is not None else 0.0,
        memory=_memory(device),
        watts=watts,
        measured_seconds=time.perf_counter() - began,
    )


class _Probe:
    """A trainer that is never run, whose parts are timed one by one."""

    def __init__(
        self,
        plan: Plan,
        data: Dataset,
        device: Device,
        notice: Callable[[str], None],
        done: int,
    ) -> None:
        self.plan, self.device, self.done = plan, device, done
        if device.cuda:
            torch.cuda.reset_peak_memory_stats(device.device)
        self._short = _shortened(plan)
        self.trainer = Trainer(self._short, data, device, RunFolder(Path(os.devnull)), notice)
        self.trainer.device.prepare()
        self.images = plan.frame.batch_size  # of a timed step
        self._slow = False
        self._stream = _endless(self.trainer.batches, plan.recipe.attack, device)

    def phases(self, steps: int) -> tuple[float, dict[int, float]]:
        """Seconds of starting up, and of a full step in each phase by its first epoch."""
        starts = _phase_starts(self.plan, self.done)
        startup, measured = 0.0, {}
        count = steps
        if not self.device.cuda:
            startup, small = self._shrink()
            self._slow = small > SLOW
            if self._slow:
                seconds = [*(self.seconds(1, start) for start in starts[:-1]), small]
                timed = zip(starts, seconds, strict=True)
                return startup, {start: s * self.whole(start) for start, s in timed}
            if not chosen_by_user():
                tune_threads(lambda: self.run(1, 0))
        for start in starts:
            first = self.seconds(1, start)
            if not self.device.cuda:
                affordable = CPU_BUDGET / 2 / len(starts) / first
                count = max(1, min(steps, int(affordable)))
            again = self.seconds(count, start) / count
            measured[start] = again * self.whole(start)
            startup += max(0.0, first - again)
        return startup, measured

    def seconds(self, steps: int, epoch: int) -> float:
        """Wall-clock seconds of so many steps as they are in `epoch`."""
        return _timed(self.device, lambda: self.run(steps, epoch))

    def run(self, steps: int, epoch: int) -> None:
        """Train the throwaway model."""
        average, trainer = self.plan.recipe.average, self.trainer
        lr = self.plan.frame.lr
        for images, labels, noise in islice(self._stream, steps):
            n = self.images
            trainer.step(images[:n], labels[:n], noise[:n], epoch=epoch, lr=lr)
            if average is not None and average.active(epoch):
                average.after_step(trainer.average_state, trainer.model)

    def judgement(self, step: float) -> float:
        """Seconds of one judgement, test images included, from a slice of its held-out images."""
        images, labels = self.trainer.judge.images, self.trainer.judge.labels
        n = len(labels)
        if not self.device.cuda:
            unit = step / self.plan.frame.batch_size / self.plan.recipe.forward_units()
            if self._slow:
                return unit * JUDGE_UNITS * (n + self.plan.frame.test_images)
            n = max(_SMALL, min(n, int(CPU_BUDGET / 4 / unit / JUDGE_UNITS)))
        judge = Judge(
            Split(images[:n].cpu(), labels[:n].cpu(), ""),
            self.trainer.device,
            self.plan.recipe.attack,
        )
        seconds = _timed_again(self.device, lambda: judge(self.trainer.model, 0))
        return seconds * (len(labels) + self.plan.frame.test_images) / len(labels[:n])

    def averaging(self) -> float:
        """Seconds of all passes that the weight average still makes over the training images."""
        average, frame, trainer = self.plan.recipe.average, self.plan.frame, self.trainer
        assert average is not None
        updated = range(average.start_epoch, frame.epochs, getattr(average, "cycle", 1))
        passes = sum(epoch >= self.done for epoch in updated)
        batches = [images[: self.images] for images, _, _ in islice(self._stream, 2)]

        def after_epoch(images: list[Tensor]) -> float:
            state, model, first = trainer.average_state, trainer.model, average.start_epoch
            return _timed_again(
                self.device, lambda: average.after_epoch(state, model, first, lambda: images)
            )

        # What a pass does once, such as averaging, is not done again for every batch.
        once = after_epoch([])
        a_batch = max(0.0, after_epoch(batches) - once) / len(batches) * self._scale()
        return passes * (once + a_batch * len(trainer.batches))

    def _shrink(self) -> tuple[float, float]:
        """Where a full step would take long, time smaller ones.

        Returns:
            Seconds of starting up, and of a step of `_SMALL` images in the last phase.
        """
        batch, epoch = self.images, self.plan.frame.epochs - 1
        self.images = min(batch, _SMALL)
        first = self.seconds(1, epoch)
        # Starting up takes less than that on a busy machine too: a second step would say the same.
        second = first if first >= 10 * SLOW else self.seconds(1, epoch)
        full = second * batch / self.images
        longest = CPU_BUDGET / 10
        self.images = batch if full <= longest else max(self.images, int(batch * longest / full))
        return max(0.0, first - second), second

    def whole(self, epoch: int) -> float:
        """How many timed steps a full step of the plan in `epoch` is worth."""
        timed = self._short.recipe.forward_units(epoch)
        return self._scale() * self.plan.recipe.forward_units(epoch) / timed

    def _scale(self) -> float:
        return self.plan.frame.batch_size / self.images


def _shortened(plan: Plan) -> Plan:
    """The plan with an attack of at most `LONGEST_ATTACK` steps."""
    attack = plan.recipe.attack
    steps = min(attack.steps, LONGEST_ATTACK)
    recipe = plan.recipe.rebuilt(attack=attack.model_copy(update={"steps": steps}))
    return dataclasses.replace(plan, recipe=recipe)


def _endless(
    batches: Batches, attack: InnerAttack, device: Device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels and noise of one step after another.

    No method of the probe: a generator that holds the probe which holds it would keep the model and
    its captured step on the GPU until garbage is collected, in the way of the real training.
    """
    generator = torch.Generator(device.device).manual_seed(0)
    while True:
        for batch in batches.epoch(0):
            yield batch.images, batch.labels, attack.initial_noise(batch.images, generator)


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


def _timed(device: Device, work: Callable[[], object]) -> float:
    _wait(device)
    begin = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begin


def _timed_again(device: Device, work: Callable[[], object]) -> float:
    """Seconds that `work` takes from the second time on; on CUDA the first one chooses kernels."""
    if device.cuda:
        work()
    return _timed(device, work)


def _wait(device: Device) -> None:
    if device.cuda:
        torch.cuda.synchronize(device.device)


def _memory(device: Device) -> int:
    if device.cuda:
        return int(torch.cuda.max_memory_allocated(device.device))
    return int(psutil.Process().memory_info().rss)


def _watts(probe: _Probe, step: float) -> float | None:
    """Power while the device works through queued steps; None if nvidia-smi does not tell."""
    device = probe.device.device
    probe.run(max(1, int(2 / step)), probe.plan.frame.epochs - 1)
    watts = None
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        found = subprocess.run(
            [
                "nvidia-smi",
                f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}",
                "--query-gpu=power.draw",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        watts = float(found.stdout.strip())
    _wait(probe.device)
    return watts
