"""The matrix: one model against every attack column, on one range of images.

A finished cell is read, never computed again. Several processes can fill the cells of one folder at
once: they share the chunks, also those of one cell, and the verdicts are the same.

Two definitions of robust, each its literature's own. FGSM, PGD and C&W attack every image, and an
image is robust if the attack's last iterate is classified correctly. AutoAttack leaves images out
that are already misclassified, and an image is robust if every stage fails on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn

from frbench.attacks import AttackSpec
from frbench.data import Dataset
from frbench.engine.presets import EVALUATION_BATCH
from frbench.errors import FrbenchError, InputError
from frbench.evaluation import costs, numerics, provenance
from frbench.evaluation.cells import UNSEEN, Cell, CellStore, DataRange, ModelRecord
from frbench.evaluation.progress import Reporter
from frbench.evaluation.runner import Runner, sequence
from frbench.evaluation.search import PRECISION, Search, Searcher, precision
from frbench.evaluation.target import Target
from frbench.models.sizes import taking

_POLL_SECONDS = 0.5
_PATIENCE = 10
"""Polls in all before the user is told: other processes share the work, and end soon."""


def evaluate(
    target: Target,
    specs: Iterable[AttackSpec],
    dataset: Dataset,
    *,
    store: CellStore,
    device: torch.device | str,
    start: int = 0,
    n: int | None = None,
    seed: int = 0,
    batch: int = EVALUATION_BATCH,
    search: Search = "exact",
    jobs: int = 1,
    console: Console | None = None,
) -> list[Cell]:
    """Attack a model with every column and return the finished cells in the order of `specs`.

    Args:
        target: the model, in eval mode with float32 weights on `device`.
        specs: the columns.
        dataset: with as many classes as the model has outputs.
        store: finished and unfinished cells; each chunk is saved there at once.
        device: where to compute.
        start: first test image.
        n: number of images; None for all from `start` on.
        seed: of every chunk's random numbers, where the attack draws any.
        batch: images a chunk.
        search: `exact`, or `fast` or `compiled` for a search on a faster twin; see `search.py`.
        jobs: how many processes have been started on these cells, this one among them; the
            forecast counts on them.
        console: where plan, progress and bounds go; None keeps silent.

    Raises:
        InputError: a range outside the test split, a model that does not fit the data, logits that
            are not finite, a damaged cell.
        FrbenchError: an attack that left its ball, no space, no memory.
    """
    where = torch.device(device)
    data = data_range(dataset, start, n)
    if batch < 1:
        raise InputError(f"batch {batch} is not possible: give at least 1")
    wanted = [blank_cell(target.record, spec, data, seed, batch, search, where) for spec in specs]
    unfinished = [cell for cell in map(lambda c: store.find(c) or c, wanted) if not cell.complete]
    if unfinished:
        images = dataset.test.images[data.start : data.stop]
        labels = dataset.test.labels[data.start : data.stop]
        classes = len(dataset.classes)
        with target.ready():
            _try_model(target, images, labels, classes, where)
            searcher = Searcher(target.model, search)
            if searcher.compiled and console:
                console.print("compiling the model for the search: minutes, the first time ...")
            speed = _speed(searcher, images, labels, unfinished, where)
            speed.jobs = jobs
            reporter = Reporter(console, speed, unfinished)
            reporter.plan()
            runner = Runner(target.model, searcher, images, labels, classes, where, store, reporter)
            with reporter.bar, _counted(searcher.network, reporter):
                _fill(runner, unfinished)
    return [_finished(store, cell) for cell in wanted]


def _fill(runner: Runner, cells: Sequence[Cell]) -> None:
    """Compute whatever nobody else is computing, until all cells are complete."""
    waiting = list(cells)
    naps = 0
    while waiting:
        before = runner.chunks
        waiting = [cell for cell in waiting if not _advanced(runner, cell)]
        if waiting and runner.chunks == before:
            naps += 1
            if naps == _PATIENCE:
                names = ", ".join(cell.attack.label for cell in waiting)
                runner.reporter.say(f"another process is computing {names}: waiting for it")
            time.sleep(_POLL_SECONDS)


def _advanced(runner: Runner, cell: Cell) -> bool:
    """Whether the cell is complete now that we did for it what we could."""
    complete = runner.advance(cell)
    if complete:
        runner.reporter.pending.pop(cell.key, None)
    return complete


def _finished(store: CellStore, wanted: Cell) -> Cell:
    """The finished cell as it was asked for; its file keeps the better record of the model."""
    cell = store.find(wanted)
    if cell is None:
        raise FrbenchError(f"cell {store.path(wanted)} is gone: run the same command again")
    keep = wanted.model.better_than(cell.model)
    cell.model = wanted.model
    if keep:
        store.save(cell)
    return cell


def data_range(dataset: Dataset, start: int, n: int | None) -> DataRange:
    """Test images `start` to `start + n` (None: to the end); InputError where there are none."""
    total = len(dataset.test)
    stop = total if n is None else start + n
    if start < 0 or stop <= start or stop > total:
        raise InputError(
            f"images {start} to {stop} are not a range of {dataset.name}'s test split of {total}: "
            f"choose n from 1 to {total - max(start, 0)}"
        )
    return DataRange(dataset=dataset.name, sha256=dataset.test.sha256, start=start, stop=stop)


def blank_cell(
    model: ModelRecord,
    spec: AttackSpec,
    data: DataRange,
    seed: int,
    batch: int,
    search: Search,
    device: torch.device,
) -> Cell:
    """The cell before anything is computed; it has its final key.

    The seed of an attack that draws nothing is 0, for another one would be the same value again.
    A fast search names its arithmetic, so no device goes on where one of another stopped.
    """
    searched_in = None if search == "exact" else precision(device, spec)
    cell = Cell(
        model=model,
        attack=spec,
        data=data,
        seed=seed if spec.draws else 0,
        batch=batch,
        precision=PRECISION[search],
        versions=provenance.deciding_versions(spec, model, searched_in),
        verdicts={},
    )
    cell.verdicts = {stage: UNSEEN * data.n for stage in sequence(cell)}
    return cell


def _try_model(
    target: Target, images: Tensor, labels: Tensor, classes: int, device: torch.device
) -> None:
    """Raise InputError, before anything is planned, for a model that does not fit the images."""
    few = numerics.as_images(images[: costs.PROBE_IMAGES], device)
    truth = labels[: costs.PROBE_IMAGES].to(device)
    name = target.record.name
    with costs.enough_memory(few), taking(f"model '{name}'", few.shape[1:]):
        numerics.correct(target.model, few, truth, classes=classes, name=name, seed=0)


def _speed(
    searcher: Searcher, images: Tensor, labels: Tensor, cells: Sequence[Cell], device: torch.device
) -> costs.Speed:
    """What searching costs, as the costliest cell searches; a twin is compiled here, if it can."""
    chunk = costs.probe_images(device, cells[0].batch)
    costliest = costs.costliest(cell.attack for cell in cells)
    few, truth = numerics.as_images(images[:chunk], device), labels[:chunk].to(device)
    try:
        with searcher.arithmetic(costliest, device):
            return costs.measure(searcher.network, few, truth, eps=8 / 255)
    except RuntimeError as error:  # of which torch's compiler raises many kinds
        if not searcher.compiled or isinstance(error, torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split("\n")[:2])  # who raised, then what
        raise FrbenchError(
            f"torch cannot compile '{cells[0].model.name}' here: {reason}; use --search fast"
        ) from error


@contextlib.contextmanager
def _counted(model: nn.Module, reporter: Reporter) -> Iterator[None]:
    """Tell the reporter of every batch that goes through the model."""
    hook = model.register_forward_pre_hook(lambda _, inputs: reporter.passed(len(inputs[0])))
    try:
        yield
    finally:
        hook.remove()
