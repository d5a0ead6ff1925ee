"""Fair timings: after a warm-up, interleaved, repeated, and summed up by medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

_WARM_UP = 3


class Clock(Protocol):
    """Measures how long a piece of work takes."""

    def measure(self, work: Callable[[], object]) -> float:
        """Do `work` once and return its seconds."""


class WallClock:
    """For work that is done when the call returns."""

    def measure(self, work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin


class CudaClock:
    """CUDA events; the host waits for the device before and after the work, never within it."""

    def measure(self, work: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1000


@dataclass(frozen=True)
class Candidate:
    """One of the things to compare.

    Attributes:
        name: for the table.
        run: does so many units of work (steps, batches, whole evaluations).
        warm_up: what to do before the first measurement; by default a few units.
        settle: seconds for which its helpers may go on working after `run`; nobody is timed then.
    """

    name: str
    run: Callable[[int], object]
    warm_up: Callable[[], object] | None = None
    settle: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds a unit of one candidate, a sample a repeat."""

    name: str
    units: int
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def row(self) -> dict[str, object]:
        """For the JSON file: the median and all that it came from."""
        return {
            "name": self.name,
            "seconds": self.median,
            "spread": (max(self.samples) - min(self.samples)) / self.median,
            "fastest": min(self.samples),
            "slowest": max(self.samples),
            "units_a_repeat": self.units,
            "samples": list(self.samples),
        }


def interleave(
    candidates: Sequence[Candidate],
    clock: Clock,
    *,
    repeats: int,
    seconds: float,
    units: int | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Timing]:
    """Time the candidates in turns, so that whatever drifts on the machine hits all of them.

    Args:
        candidates: what to compare; every second round runs in the opposite order.
        clock: how to measure.
        repeats: rounds, and so samples a candidate.
        seconds: how long one sample shall last; decides how many units it has.
        units: a fixed number of units a sample instead.
        say: told of every warm-up and sample.

    Returns:
        Timings by name, in the order of `candidates`.
    """
    for candidate in candidates:
        say(f"{candidate.name}: warming up")
        if candidate.warm_up:
            candidate.warm_up()
        else:
            candidate.run(_WARM_UP)
        time.sleep(candidate.settle)
    sizes = {c.name: units or _units(c, clock, seconds) for c in candidates}
    samples: dict[str, list[float]] = {c.name: [] for c in candidates}
    for turn in range(repeats):
        for candidate in candidates if turn % 2 == 0 else reversed(candidates):
            size = sizes[candidate.name]
            sample = clock.measure(partial(candidate.run, size)) / size
            samples[candidate.name].append(sample)
            time.sleep(candidate.settle)
            say(f"{candidate.name}: {sample:.4g} s, sample {turn + 1} of {repeats}")
    return {name: Timing(name, sizes[name], tuple(taken)) for name, taken in samples.items()}


def _units(candidate: Candidate, clock: Clock, seconds: float) -> int:
    """How many units fill `seconds`, told by so many that none of them was prepared ahead."""
    units = 1
    while (taken := clock.measure(partial(candidate.run, units))) < seconds / 4:
        units *= 2
    return max(1, round(units * seconds / taken)) if taken > 0 else 1
