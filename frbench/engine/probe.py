"""The parts of a training, timed one by one on a throwaway model."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import psutil
import torch
from torch import Tensor

from frbench.data import Batches, Dataset, Split
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


class Probe:
    """A trainer that is never run, whose parts are timed one by one.

    Seconds are of the plan's full batches and whole attack, whatever was timed; on a CPU that is
    less. `phases` comes first, since it decides how much.

    Args:
        plan: what would be trained.
        data: the dataset that the plan names.
        device: where.
    """

    def __init__(self, plan: Plan, data: Dataset, device: Device) -> None:
        self.plan, self.device = plan, device
        if device.cuda:
            torch.cuda.reset_peak_memory_stats(device.device)
        self._short = _shortened(plan)
        # The training that follows gives the same notices.
        nowhere = RunFolder(Path(os.devnull))
        self.trainer = Trainer(self._short, data, device, nowhere, notice=lambda line: None)
        self.trainer.device.prepare()
        self._images = plan.frame.batch_size  # of a timed step
        self._slow = False
        self._stream = _endless(self.trainer.batches, plan.recipe.attack, device)

    def phases(self, starts: Sequence[int], steps: int) -> tuple[float, dict[int, float]]:
        """Seconds of starting up, and of a step in each phase by its first epoch.

        Args:
            starts: the first epochs of the phases, in order.
            steps: to time in each, if they do not take too long.
        """
        if self.device.cuda:
            return self._timed_phases(starts, steps)
        startup, small = self._shrink()
        self._slow = small > SLOW
        if self._slow:
            seconds = [*(self._seconds(1, start) for start in starts[:-1]), small]
            timed = zip(starts, seconds, strict=True)
            return startup, {start: s * self._whole(start) for start, s in timed}
        if not chosen_by_user():
            tune_threads(lambda: self._run(1, 0))
        further, measured = self._timed_phases(starts, steps)
        return startup + further, measured

    def judgement(self, step: float) -> float:
        """Seconds of one judgement, test images included, from a slice of its held-out images.

        Args:
            step: seconds of a training step in the last phase.
        """
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
        """Seconds that the weight average takes after an epoch in which it is updated."""
        average, trainer = self.plan.recipe.average, self.trainer
        assert average is not None
        batches = [images[: self._images] for images, _, _ in islice(self._stream, 2)]

        def after_epoch(images: list[Tensor]) -> float:
            return _timed_again(
                self.device,
                lambda: trainer.update_average(average, average.start_epoch, lambda: images),
            )

        # What a pass does once, such as averaging, is not done again for every batch.
        once = after_epoch([])
        a_batch = max(0.0, after_epoch(batches) - once) / len(batches) * self._scale()
        return once + a_batch * len(trainer.batches)

    def memory(self) -> int:
        """Bytes so far: the peak that torch allocated on CUDA, else what the process holds."""
        if self.device.cuda:
            return int(torch.cuda.max_memory_allocated(self.device.device))
        return int(psutil.Process().memory_info().rss)

    def watts(self, step: float) -> float | None:
        """Power while a CUDA device works through queued steps; None if nvidia-smi does not tell.

        Args:
            step: seconds of a training step in the last phase.
        """
        last = self.plan.frame.epochs - 1
        self._run(max(1, int(2 * self._whole(last) / step)), last)
        watts = _power(self.device)
        _wait(self.device)
        return watts

    def _timed_phases(self, starts: Sequence[int], steps: int) -> tuple[float, dict[int, float]]:
        """As `phases`, by several steps of each; on a CPU by as many as its budget allows."""
        startup, measured = 0.0, {}
        for start in starts:
            first = self._seconds(1, start)
            affordable = CPU_BUDGET / 2 / len(starts) / first
            count = steps if self.device.cuda else max(1, min(steps, int(affordable)))
            again = self._seconds(count, start) / count
            measured[start] = again * self._whole(start)
            startup += max(0.0, first - again)
        return startup, measured

    def _shrink(self) -> tuple[float, float]:
        """Where a full step would take long, time smaller ones.

        Returns:
            Seconds of starting up, and of a step of `_SMALL` images in the last phase.
        """
        batch, epoch = self._images, self.plan.frame.epochs - 1
        self._images = min(batch, _SMALL)
        first = self._seconds(1, epoch)
        # Starting up takes less than that on a busy machine too: a second step would say the same.
        second = first if first >= 10 * SLOW else self._seconds(1, epoch)
        full = second * batch / self._images
        longest = CPU_BUDGET / 10
        self._images = batch if full <= longest else max(self._images, int(batch * longest / full))
        return max(0.0, first - second), second

    def _seconds(self, steps: int, epoch: int) -> float:
        """Wall-clock seconds of so many timed steps as they are in `epoch`."""
        return _timed(self.device, lambda: self._run(steps, epoch))

    def _run(self, steps: int, epoch: int) -> None:
        """Train the throwaway model."""
        average, trainer = self.plan.recipe.average, self.trainer
        lr = self.plan.frame.lr
        for images, labels, noise in islice(self._stream, steps):
            n = self._images
            trainer.step(images[:n], labels[:n], noise[:n], epoch=epoch, lr=lr)
            if average is not None and average.active(epoch):
                average.after_step(trainer.average_state, trainer.model)

    def _whole(self, epoch: int) -> float:
        """How many timed steps a full step of the plan in `epoch` is worth."""
        timed = self._short.recipe.forward_units(epoch)
        return self._scale() * self.plan.recipe.forward_units(epoch) / timed

    def _scale(self) -> float:
        """How many timed batches a full one is worth."""
        return self.plan.frame.batch_size / self._images


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


def _power(device: Device) -> float | None:
    """Watts that a GPU draws now; None if nvidia-smi does not tell."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        found = subprocess.run(
            [
                "nvidia-smi",
                f"--id=GPU-{torch.cuda.get_device_properties(device.device).uuid}",
                "--query-gpu=power.draw",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return float(found.stdout.strip())
    return None
