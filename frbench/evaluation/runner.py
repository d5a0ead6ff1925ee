"""Compute one cell: stage after stage, chunk after chunk, saved after each.

An image is judged by a float32 forward pass on what the attack returned, nothing else. AutoAttack
is run as its authors do: images that the model gets wrong, clean or in an earlier stage, are out;
the others are gathered into full chunks again before the next stage. The chunks of a stage thus
follow from the verdicts before it, and their random numbers from the cell's seed, so a run that
was cut anywhere goes on with the same chunks and ends with the same verdicts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from frbench.attacks import Attacker, build_attack
from frbench.errors import FrbenchError
from frbench.evaluation import flags, numerics
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
    """

    model: nn.Module
    searcher: Searcher
    images: Tensor
    labels: Tensor
    classes: int
    device: torch.device
    store: CellStore
    reporter: Reporter
    _piece: dict[str, int] = field(default_factory=dict)

    def run(self, cell: Cell) -> None:
        """Compute whatever the cell still lacks, saving it after every chunk."""
        self._piece.clear()  # each cell finds out what fits, since its flag has to say so
        before = None
        for stage in sequence(cell):
            if UNSEEN in cell.verdicts[stage]:
                self._run_stage(cell, stage, before)
            before = stage

    def _run_stage(self, cell: Cell, stage: str, before: str | None) -> None:
        entering = cell.verdicts[before] if before else ROBUST * cell.data.n
        _drop_broken(cell, stage, entering)
        order = [index for index, verdict in enumerate(entering) if verdict == ROBUST]
        chunks = [order[i : i + cell.batch] for i in range(0, len(order), cell.batch)]
        waiting = [chunk for chunk in chunks if cell.verdicts[stage][chunk[0]] == UNSEEN]
        done = len(order) - sum(len(chunk) for chunk in waiting)
        self.reporter.begin(cell, stage, len(order), done)
        attack = self._attacker(cell, stage)
        for chunk in waiting:
            self._run_chunk(cell, stage, chunk, attack)
        if waiting:
            self.reporter.stage_done(cell, stage)
        else:
            self._save(cell)  # no image was left to this stage; that too is a result

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
        verdicts = list(cell.verdicts[stage])
        for index, right in zip(chunk, robust, strict=True):
            verdicts[index] = ROBUST if right else BROKEN
        cell.verdicts[stage] = "".join(verdicts)
        seconds = time.perf_counter() - begin
        cell.seconds[stage] = cell.seconds.get(stage, 0.0) + seconds
        self._save(cell)
        self.reporter.chunk_done(len(chunk), seconds)

    def _save(self, cell: Cell) -> None:
        """Save; with the last verdicts of AutoAttack goes the check that needs all of them."""
        if cell.attack.is_autoattack and cell.stages_done() == cell.stages:
            flags.check_square(cell)
        self.store.save(cell)

    def _in_pieces(
        self, cell: Cell, stage: str, judge: Callable[[slice], Tensor], images: int
    ) -> list[bool]:
        """Judge a chunk at once, or in halves of halves where the GPU's memory is too small."""
        size = min(self._piece.get(stage, images), images)
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
            self._piece[stage] = size
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


def sequence(cell: Cell) -> tuple[str, ...]:
    """The stages as they are run: AutoAttack's begin with the clean pass."""
    return (CLEAN, *cell.stages) if cell.attack.is_autoattack else cell.stages


def _drop_broken(cell: Cell, stage: str, entering: str) -> None:
    """Images that were broken before count as broken here without being attacked."""
    cell.verdicts[stage] = "".join(
        BROKEN if before == BROKEN else now
        for before, now in zip(entering, cell.verdicts[stage], strict=True)
    )
