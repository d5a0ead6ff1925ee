"""Compute a cell: stage after stage, chunk after chunk, saved after each.

An image is judged by a float32 forward pass on what the attack returned, nothing else. AutoAttack
is run as its authors do: images that the model gets wrong, clean or in an earlier stage, are out;
the others are gathered into full chunks again before the next stage. The chunks of a stage thus
follow from the verdicts before it, and their random numbers from the cell's seed. So it does not
matter which process computes a chunk: a run that was cut anywhere goes on with the same chunks,
several processes share them, and the verdicts are the same in the end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from frbench import storage
from frbench.attacks import Attacker, build_attack
from frbench.errors import FrbenchError
from frbench.evaluation import flags, numerics, provenance
from frbench.evaluation.cells import BROKEN, ROBUST, UNSEEN, Cell, CellStore
from frbench.evaluation.progress import Reporter
from frbench.evaluation.search import Searcher

CLEAN = "clean"


@dataclass
class Runner:
    """One model on one range of images.

    Attributes:
        model: in eval mode with frozen parameters on `device`; it judges.
        searcher: what the attacks run on: the model, or a twin of it.
        images: pixels of the range (n, c, h, w), uint8, on the CPU.
        labels: int64 (n,), on the CPU.
        classes: of the data.
        device: where to compute.
        store: where cells are saved.
        reporter: told of every chunk.
        chunks: computed so far.
    """

    model: nn.Module
    searcher: Searcher
    images: Tensor
    labels: Tensor
    classes: int
    device: torch.device
    store: CellStore
    reporter: Reporter
    chunks: int = 0
    _piece: dict[tuple[str, str], int] = field(default_factory=dict)

    def advance(self, wanted: Cell) -> bool:
        """Compute what the cell lacks, save for the chunks that other processes are computing.

        Returns whether it is complete; if not, its next stage has to wait for those chunks.
        """
        return all(self._finish_stage(wanted, stage) for stage in sequence(wanted))

    def _finish_stage(self, wanted: Cell, stage: str) -> bool:
        cell = self._current(wanted)
        if UNSEEN in cell.verdicts[stage]:
            self._run_stage(cell, stage)
            cell = self._current(wanted)
        if UNSEEN in cell.verdicts[stage]:
            return False
        self.reporter.stage_done(cell, stage)
        return True

    def _run_stage(self, cell: Cell, stage: str) -> None:
        _drop_broken(cell, stage)
        order = [i for i, verdict in enumerate(_entering(cell, stage)) if verdict == ROBUST]
        self.reporter.begin(cell, stage, len(order))
        attack = self._attacker(cell, stage)
        for first in range(0, len(order), cell.batch):
            chunk = order[first : first + cell.batch]
            if cell.verdicts[stage][chunk[0]] != UNSEEN:
                continue  # whoever waits comes by twice a second, and opening a cell takes time
            with self._claimed(cell, stage, chunk) as claimed:
                if claimed:
                    self._run_chunk(claimed, stage, chunk, attack)
        if not order:  # no image was left to this stage; that too is a result
            self._save(cell, stage, {}, 0.0)

    @contextlib.contextmanager
    def _claimed(self, cell: Cell, stage: str, chunk: list[int]) -> Iterator[Cell | None]:
        """The cell as it is now if the chunk is ours to compute; None if it is done or taken."""
        part = sequence(cell).index(stage) * cell.data.n + chunk[0]
        with contextlib.ExitStack() as stack:
            try:
                lock = storage.locked(lock_path(self.store, cell), part=part, wait=False)
                stack.enter_context(lock)
            except storage.Busy:
                yield None
                return
            now = self._current(cell)
            yield now if now.verdicts[stage][chunk[0]] == UNSEEN else None

    def _current(self, cell: Cell) -> Cell:
        """What is known of the cell by now, whoever computed it; an object of the caller's own."""
        return self.store.find(cell) or cell.model_copy(deep=True)

    def _run_chunk(self, cell: Cell, stage: str, chunk: list[int], attack: Attacker) -> None:
        begin = time.perf_counter()
        self.reporter.chunk(len(chunk))
        images = numerics.as_images(self.images[chunk], self.device)
        labels = self.labels[chunk].to(self.device)
        numbers = [cell.data.start + index for index in chunk]

        def judge(part: slice) -> Tensor:
            if cell.attack.is_autoattack and stage == CLEAN and chunk[part][0] == 0:
                flags.run_checks(cell, self.model, images[part], labels[part])
            with self.searcher.arithmetic(cell.attack, self.device):
                adversarial = attack(images[part], labels[part])
            numerics.check_ball(adversarial, images[part], cell.attack, stage, numbers[part])
            return numerics.correct(
                self.model,
                adversarial,
                labels[part],
                classes=self.classes,
                name=cell.model.name,
                seed=cell.seed,
            )

        with flags.flags_kept(cell, stage):
            robust = self._in_pieces(cell, stage, judge, len(chunk))
        verdicts = {i: ROBUST if right else BROKEN for i, right in zip(chunk, robust, strict=True)}
        seconds = time.perf_counter() - begin
        self.reporter.speed.observe(cell.attack, stage, len(chunk), seconds)
        self.reporter.chunk_done(self._save(cell, stage, verdicts, seconds))
        self.chunks += 1

    def _save(self, cell: Cell, stage: str, verdicts: Mapping[int, str], seconds: float) -> Cell:
        """Add verdicts, by image, and the flags of `cell` to what is saved by now.

        With the last verdicts of AutoAttack goes the check that needs all of them.
        """
        saving = len(sequence(cell)) * cell.data.n  # behind the parts that stand for chunks
        with storage.locked(lock_path(self.store, cell), part=saving):
            saved = self._current(cell)
            _drop_broken(saved, stage)
            known = enumerate(saved.verdicts[stage])
            saved.verdicts[stage] = "".join(verdicts.get(i, verdict) for i, verdict in known)
            saved.seconds[stage] = saved.seconds.get(stage, 0.0) + seconds
            for flag in cell.flags:
                flags.add_flag(saved, flag)
            provenance.record(saved, self.device)
            if saved.attack.is_autoattack and saved.stages_done() == saved.stages:
                flags.check_square(saved)
            saved.seconds_left = round(self.reporter.speed.remaining(saved), 1) or None
            self.store.save(saved)
        return saved

    def _in_pieces(
        self, cell: Cell, stage: str, judge: Callable[[slice], Tensor], images: int
    ) -> list[bool]:
        """Judge a chunk at once, or in halves of halves where the GPU's memory is too small."""
        size = min(self._piece.get((cell.key, stage), images), images)
        while True:
            try:
                parts = [judge(slice(i, i + size)) for i in range(0, images, size)]
                return [bool(right) for part in parts for right in part.tolist()]
            except torch.OutOfMemoryError:
                if size == 1:
                    raise FrbenchError(
                        f"out of GPU memory with one image in {cell.attack.name} ({stage}): free "
                        "the GPU or use another device; finished chunks are kept"
                    ) from None
            size = (size + 1) // 2
            self._piece[cell.key, stage] = size  # each cell finds out, since its flag has to say so
            torch.cuda.empty_cache()
            self.reporter.say(f"out of GPU memory: {cell.attack.name} goes on with {size} images")
            flags.add_flag(
                cell,
                f"out-of-memory: chunks of {cell.batch} were attacked in pieces from {stage} on, "
                "with other random numbers than a whole chunk has",
            )

    def _attacker(self, cell: Cell, stage: str) -> Attacker:
        if stage == CLEAN:
            return lambda images, labels: images
        return build_attack(
            cell.attack,
            stage,
            self.searcher.network,
            device=self.device,
            seed=cell.seed,
            classes=self.classes,
        )


def lock_path(store: CellStore, cell: Cell) -> Path:
    """The file whose parts, locked, mean that a process is computing a chunk or saving."""
    return store.root / ".locks" / cell.key


def sequence(cell: Cell) -> tuple[str, ...]:
    """The stages as they are run: AutoAttack's begin with the clean pass."""
    return (CLEAN, *cell.stages) if cell.attack.is_autoattack else cell.stages


def _entering(cell: Cell, stage: str) -> str:
    """The verdicts that images bring into a stage."""
    stages = sequence(cell)
    position = stages.index(stage)
    return cell.verdicts[stages[position - 1]] if position else ROBUST * cell.data.n


def _drop_broken(cell: Cell, stage: str) -> None:
    """Images that were broken before count as broken here without being attacked."""
    cell.verdicts[stage] = "".join(
        BROKEN if before == BROKEN else now
        for before, now in zip(_entering(cell, stage), cell.verdicts[stage], strict=True)
    )
