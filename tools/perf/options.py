"""What the command line decides, for every suite."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from frbench.engine.device import Device
from frbench.evaluation.search import Search
from tools.perf.timing import Candidate, Clock, CudaClock, Timing, WallClock, interleave


@dataclass(frozen=True)
class Options:
    """Settings of one call.

    Attributes:
        device: where to compute.
        repeats: samples behind every median.
        seconds: length of one sample.
        models: architectures of the training suite.
        recipes: of the training suite; empty for all.
        batch: images a step in training.
        chunk: images a chunk in evaluation.
        images: images that the evaluation suites attack.
        run: run folder of a robust model for AutoAttack.
        attacks: of suite eval.
        searches: of ours, in suite eval.
        preset: of the suites bench and precision.
        seeds: trainings a precision.
        overrides: settings of the suites bench and precision, as key=value.
        folder: where bench and precision keep runs and cells; None for a temporary folder.
        rehearsal: tiny sizes; the numbers say nothing.
        say: where signs of life go.
    """

    device: Device
    repeats: int
    seconds: float
    models: tuple[str, ...]
    recipes: tuple[str, ...]
    batch: int
    chunk: int
    images: int
    run: str | None
    attacks: tuple[str, ...]
    searches: tuple[Search, ...]
    preset: str
    seeds: int
    overrides: tuple[str, ...]
    folder: Path | None
    rehearsal: bool
    say: Callable[[str], object]

    def timed(
        self, candidates: Sequence[Candidate], units: int | None = None, clock: Clock | None = None
    ) -> dict[str, Timing]:
        """Timings by name of candidates that take turns, each sample of so many units if given."""
        clock = clock or (CudaClock() if self.device.cuda else WallClock())
        times, length = self.repeats, self.seconds
        return interleave(
            candidates, clock, repeats=times, seconds=length, units=units, say=self.say
        )

    @contextmanager
    def workspace(self, suite: str) -> Iterator[Path]:
        """A folder for runs and cells: the user's, which a second call goes on with, or our own."""
        if self.folder is not None:
            yield self.folder / suite
            return
        with tempfile.TemporaryDirectory(prefix="frbench-perf-") as folder:
            yield Path(folder)
