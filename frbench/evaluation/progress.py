"""What the user sees while an evaluation runs: a plan, a bar with the time left, and bounds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from frbench.durations import duration
from frbench.evaluation.cells import UNSEEN, Cell
from frbench.evaluation.costs import Speed, passes

# Seconds between two states: a bar on a terminal, lines elsewhere, as a sign of life.
_BAR_EVERY, _LINE_EVERY = 0.2, 20.0


class Reporter:
    """Tells one console how far the pending cells are; with None it keeps silent.

    Args:
        console: where to write, usually standard error.
        speed: the model's measured costs.
        pending: the cells still to be computed; finished ones count as no work.
    """

    def __init__(self, console: Console | None, speed: Speed, pending: Sequence[Cell]) -> None:
        self.console = console or Console(quiet=True)
        self.speed = speed
        self.pending = {cell.key: cell for cell in pending}
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        hidden = self.console.quiet or not self.console.is_terminal
        self.bar = Progress(*columns, console=self.console, transient=True, disable=hidden)
        self.task = self.bar.add_task("", total=None, state="")
        self._chunk = 0
        self._passed = 0.0
        self._total = 0
        self._stage = ""
        self._cell: Cell | None = None
        self._begun: set[tuple[str, str]] = set()
        self._shown = time.monotonic()

    def plan(self) -> None:
        """Say what will be done and how long it should take."""
        for cell in self.pending.values():
            expected = duration(self.speed.remaining(cell))
            rest = f", {cell.pending} still open" if cell.pending < cell.data.n else ""
            self.say(f"plan: {heading(cell)} on {cell.data.n} images{rest}, about {expected}")
        total = sum(self.speed.remaining(cell) for cell in self.pending.values())
        self.say(f"plan: about {duration(total)} in all")

    def begin(self, cell: Cell, stage: str, images: int) -> None:
        """A stage starts on `images`; those of an earlier run, or another one, are done."""
        self._begun.add((cell.key, stage))
        self._cell, self._stage, self._total = cell, stage, images
        self.pending[cell.key] = cell
        self.bar.update(self.task, description=heading(cell, stage), total=max(images, 1))
        self._show()

    def chunk(self, images: int) -> None:
        """A chunk of so many images starts."""
        self._chunk, self._passed = images, 0.0

    def passed(self, images: int) -> None:
        """So many images went through the model; it moves the bar inside a chunk."""
        self._passed += images
        self._show()

    def chunk_done(self, cell: Cell) -> None:
        """The chunk has its verdicts; `cell` has all that are known."""
        self._chunk, self._passed = 0, 0.0
        self._cell = self.pending[cell.key] = cell
        self._show()

    def stage_done(self, cell: Cell, stage: str) -> None:
        """After each stage of AutoAttack that was begun here: the bound that holds from now on."""
        if (cell.key, stage) not in self._begun:
            return
        self._begun.remove((cell.key, stage))
        self.pending[cell.key] = cell
        if not cell.attack.is_autoattack:
            return
        value = f"{100 * cell.accuracy:.1f} %"
        name = "the clean pass" if stage == "clean" else stage.upper()
        after = f"after {name} (n={cell.data.n})"
        if cell.complete:
            self.say(f"{heading(cell)} {value} {after}")
        else:
            left = duration(self.speed.remaining(cell))
            self.say(f"{heading(cell)} at most {value} {after}, about {left} left")

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        if time.monotonic() - self._shown < (_LINE_EVERY if self.bar.disable else _BAR_EVERY):
            return
        self._shown = time.monotonic()
        inside = self._inside_chunk()
        left = self._seconds_left(inside)
        done = self._done()
        state = f"{done}/{self._total} images, about {duration(left)} left"
        self.bar.update(self.task, completed=done + inside * self._chunk, state=state)
        if self.bar.disable and self._cell is not None:
            self.say(f"{heading(self._cell, self._stage)}: {state}")

    def _done(self) -> int:
        """Images of the stage that have their verdict."""
        unseen = 0 if self._cell is None else self._cell.verdicts[self._stage].count(UNSEEN)
        return self._total - unseen

    def _inside_chunk(self) -> float:
        """Share of the current chunk that is done, by images that went through the model."""
        if not self._chunk or self._cell is None:
            return 0.0
        work = self._chunk * passes(self._cell.attack, self._stage).forwards
        return min(self._passed / work, 1.0)

    def _seconds_left(self, inside: float) -> float:
        total = sum(self.speed.remaining(cell) for cell in self.pending.values())
        if self._cell is not None:
            chunk = self.speed.seconds(self._cell.attack, self._stage, self._chunk)
            total -= inside * chunk
        return max(total, 0.0)


def heading(cell: Cell, stage: str | None = None) -> str:
    """`natural: AA`, `at_fr seed 1: AA`, or `natural: AA APGD-T` for a stage of AutoAttack."""
    part = f" {stage.upper()}" if stage and cell.attack.is_autoattack else ""
    seed = "" if cell.model.seed is None else f" seed {cell.model.seed}"
    return f"{cell.model.name}{seed}: {cell.attack.label}{part}"
