"""The main job, end to end: train what is missing, attack what is not attacked yet."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from frbench import storage
from frbench.attacks import AttackSpec, specs
from frbench.data import DATASETS, Dataset, load_dataset, to_float
from frbench.durations import duration
from frbench.engine.device import Device
from frbench.engine.estimate import Estimate, estimate
from frbench.engine.mechanisms import AVERAGES
from frbench.engine.plan import Plan
from frbench.engine.presets import find_preset
from frbench.engine.run import RunFolder, find_run
from frbench.engine.trainer import Trainer, check_sizes, initial_model, weights_meta
from frbench.errors import InputError
from frbench.evaluation import Cell, CellStore, evaluate, run_target
from frbench.evaluation.costs import costliest, measure, probe_images
from frbench.evaluation.matrix import blank_cell, data_range
from frbench.evaluation.numerics import full_precision
from frbench.evaluation.search import Search, Searcher
from frbench.evaluation.views import headline_view
from frbench.models.architectures import check_architecture
from frbench.names import lookup


def check(plans: Sequence[Plan], n: int | None = None) -> None:
    """Refuse what cannot be trained or attacked, before any data or model is touched.

    Args:
        plans: what is wanted.
        n: test images in every column; None for the preset's own numbers.

    Raises:
        InputError: an unknown dataset or architecture, or more images than there are.
    """
    for plan in plans:
        train, test = lookup("dataset", plan.frame.dataset, DATASETS).sizes
        check_architecture(plan.frame.architecture)
        check_sizes(plan, train=train, test=test)
        if n is not None and n > test:
            raise InputError(
                f"n={n} exceeds the {test} test images of {plan.frame.dataset}; give a smaller one"
            )


def forecast(
    plans: Sequence[Plan],
    device: Device,
    runs_dir: Path,
    *,
    n: int | None = None,
    store: CellStore | None = None,
    search: Search = "exact",
) -> Forecast:
    """What training `plans` will take, and with a `store` also attacking them.

    Then torch has the most threads that any of the trainings wanted: all plans of a call share
    model and batch, so fewer for one of them are a sign of a moment with other work beside it.

    Args:
        plans: what is wanted.
        device: where.
        runs_dir: of runs that may be there already; finished ones are not trained.
        n: test images in every column; None for the preset's own numbers.
        store: of cells that may be there already; finished ones are not computed.
        search: of the attacks.

    Raises:
        InputError: more test images than there are, a finished run without its weights, or an
            unfinished one with a damaged checkpoint.
    """
    trainings: dict[str, Estimate] = {}
    measured: dict[tuple[str, int], Estimate] = {}  # seeds take the same time
    seconds = 0.0
    threads = 0
    for plan in sorted(plans, key=lambda p: p.recipe.average is None):
        run = finished_run(runs_dir, plan)
        if run is not None and store is None:
            continue
        data = load_dataset(plan.frame.dataset)
        # A run with an average serves the plan without it, whose name is the end of its own.
        if run is None and not any(saved.endswith(plan.saved) for saved in trainings):
            done = _epochs_done(runs_dir, plan)
            alike = plan.with_seed(0).saved, done
            if alike not in measured:
                measured[alike] = estimate(plan, data, device, epochs_done=done)
                threads = max(threads, torch.get_num_threads())
            trainings[plan.saved] = dataclasses.replace(measured[alike], name=plan.name)
        if store is not None:
            columns = _columns(plan, data, n)
            if run is not None:
                columns = _without_finished(columns, plan, run, data, store, search, device)
            seconds += _attack_seconds(columns, plan, data, device, search)
    if threads > torch.get_num_threads():
        torch.set_num_threads(threads)
    return Forecast(tuple(trainings.values()), seconds)


def _epochs_done(runs_dir: Path, plan: Plan) -> int:
    """Epochs that a training of `plan` would not repeat; InputError at a damaged checkpoint."""
    run = find_run(runs_dir, plan)
    saved = run.load_checkpoint() if run is not None else None
    return 0 if saved is None else saved[1].epochs_done


def finished_run(runs_dir: Path, plan: Plan) -> RunFolder | None:
    """The finished run that serves `plan`, if any; InputError where its weights are damaged."""
    run = find_run(runs_dir, plan)
    if run is None or not run.finished():
        return None
    run.check_weights()
    return run


@dataclass(frozen=True)
class Forecast:
    """Estimates of the trainings that are needed, and seconds of attacking their models."""

    trainings: tuple[Estimate, ...]
    attack_seconds: float

    def lines(self, *, detailed: bool) -> list[str]:
        """For people: a line a training (or more, if detailed), then the sum."""
        lines = [
            line for e in self.trainings for line in (e.lines() if detailed else [e.summary()])
        ]
        training = sum(e.total_seconds for e in self.trainings)
        total = training + self.attack_seconds
        if self.attack_seconds:
            lines.append(f"attacks: about {duration(self.attack_seconds)}")
        return [*lines, f"about {duration(total)} in all" if total else "nothing left to compute"]


@dataclass(frozen=True)
class Column:
    """One attack on the first `images` test images with the weights of one view."""

    view: str
    spec: AttackSpec
    images: int


def _columns(plan: Plan, data: Dataset, n: int | None) -> list[Column]:
    """All that `bench` attacks of one plan, in order; InputError where `n` is no range."""
    preset = find_preset(plan.preset)
    headline = headline_view(plan.settings()["recipe"]["mechanisms"])
    columns = specs()  # 8/255 whatever the recipe trained with: one threat model for all rows
    aa = columns.pop("aa")

    def images(own: int) -> int:
        return min(own, len(data.test)) if n is None else data_range(data, 0, n).n

    cheap = images(preset.test_images)
    last = headline.replace("best", "last")
    return [
        *(Column(headline, spec, cheap) for spec in columns.values()),
        Column(headline, aa, images(preset.autoattack_images)),
        *(Column(last, spec, cheap) for spec in columns.values()),
    ]


def _without_finished(
    columns: Sequence[Column],
    plan: Plan,
    run: RunFolder,
    data: Dataset,
    store: CellStore,
    search: Search,
    device: Device,
) -> list[Column]:
    """The columns that `attack_run` still has to compute."""
    batch = find_preset(plan.preset).evaluation_batch
    models = {view: run_target(run, view).record for view in {c.view for c in columns}}

    def missing(column: Column) -> bool:
        part = data_range(data, 0, column.images)
        model = models[column.view]
        blank = blank_cell(model, column.spec, part, 0, batch, search, device.device)
        cell = store.find(blank)
        return cell is None or not cell.complete

    return [column for column in columns if missing(column)]


def _attack_seconds(
    columns: Sequence[Column], plan: Plan, data: Dataset, device: Device, search: Search
) -> float:
    """Expected seconds of some columns, from the speed of an untrained model."""
    if not columns:
        return 0.0
    where = device.device
    model = initial_model(plan, weights_meta(plan, data), device).eval().requires_grad_(False)
    chunk = probe_images(where, find_preset(plan.preset).evaluation_batch)
    images = to_float(data.test.images[:chunk].to(where))
    # Compiling takes longer than a forecast may.
    searcher = Searcher(model, "fast" if search == "compiled" else search)
    slowest = costliest(column.spec for column in columns)
    with full_precision(where), searcher.arithmetic(slowest, where):
        speed = measure(searcher.network, images, data.test.labels[:chunk].to(where), eps=8 / 255)
    seconds = 0.0
    for column in columns:
        for position, stage in enumerate(column.spec.stages):
            # Half of the images resist AutoAttack's first stage, as trained models show.
            left = column.images // 2 if position else column.images
            seconds += speed.seconds(column.spec, stage, left)
    return seconds


class TrainingDisplay:
    """Shows a training on a console: a bar with the time left, a line an epoch."""

    def __init__(self, console: Console, name: str, epochs: int) -> None:
        self.console, self.name, self.epochs = console, name, epochs
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(f"training {name}", total=None)
        self._started = time.perf_counter()
        self._first_step: int | None = None

    def step(self, done: int, total: int) -> None:
        if self._first_step is None:
            self._first_step = done - 1
        self._done, self._total = done, total
        self.bar.update(self.task, completed=done, total=total)

    def epoch(self, metrics: dict[str, Any]) -> None:
        parts = [f"epoch {metrics['epoch'] + 1}/{self.epochs}", f"loss {metrics['train_loss']:.3f}"]
        for kind in ("", *(f"{average}_" for average in AVERAGES)):
            if f"{kind}val_pgd20" in metrics:
                label = kind.rstrip("_") or "held-out"
                parts.append(
                    f"{label} clean {100 * metrics[f'{kind}val_clean']:.1f} % "
                    f"pgd20 {100 * metrics[f'{kind}val_pgd20']:.1f} %"
                )
        parts.append(f"{metrics['seconds']:.1f} s, {self._left()} left")
        self.console.print(f"{self.name}: " + ", ".join(parts), highlight=False, soft_wrap=True)

    def _left(self) -> str:
        run = self._done - (self._first_step or 0)
        seconds = (time.perf_counter() - self._started) / run * (self._total - self._done)
        return duration(seconds)


def train(plan: Plan, device: Device, runs_dir: Path, console: Console) -> RunFolder:
    """The finished run of `plan`: found, resumed or trained.

    Raises:
        InputError: its checkpoint is damaged, or it has finished and its weights are.
        FrbenchError: another process is training it, it diverged, or a file cannot be written.
    """
    run = finished_run(runs_dir, plan)
    if run is not None:
        console.print(f"{run.name}: trained already, reused", highlight=False)
        return run
    data = load_dataset(plan.frame.dataset)
    run = find_run(runs_dir, plan) or RunFolder(runs_dir / plan.name)
    with _alone(run):
        run.drop_leftovers()
        display = TrainingDisplay(console, run.name, plan.frame.epochs)
        trainer = Trainer(plan, data, device, run, lambda text: console.print(text))
        with display.bar:
            trainer.run(display)
    return run


@contextlib.contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """Hold the lock of a run; Busy says which one another process is training."""
    try:
        with storage.locked(run.lock(), wait=False):
            yield
    except storage.Busy:
        raise storage.Busy(
            f"another process is training {run.name} (it holds {run.lock()}); wait for it to end, "
            "then run the same command again"
        ) from None


def train_all(
    plans: Sequence[Plan], device: Device, runs_dir: Path, console: Console
) -> list[RunFolder]:
    """The runs of `plans`, in order; those with an average train first and serve both rows."""
    runs: dict[str, RunFolder] = {}
    for plan in sorted(plans, key=lambda p: p.recipe.average is None):
        runs[plan.name] = train(plan, device, runs_dir, console)
    return [runs[plan.name] for plan in plans]


def attack_run(
    plan: Plan,
    run: RunFolder,
    device: Device,
    store: CellStore,
    console: Console | None,
    *,
    n: int | None = None,
    search: Search = "exact",
    jobs: int = 1,
) -> list[Cell]:
    """Attack a run's headline weights with every column, and its last weights with all but one.

    Best and last are both reported, so that robust overfitting shows; AutoAttack is for the best.

    Args:
        n: test images in every column; None for the preset's own numbers.
        search: `exact`, `fast` or `compiled`, see `frbench.evaluation.search`.
        jobs: processes that have been started on this, for the forecast.

    Raises:
        InputError: more test images than there are.
    """
    data = load_dataset(plan.frame.dataset)
    cells: list[Cell] = []
    groups = groupby(_columns(plan, data, n), key=lambda column: (column.view, column.images))
    for (view, images), columns in groups:
        cells += evaluate(
            run_target(run, view, device=device.device),
            [column.spec for column in columns],
            data,
            store=store,
            device=device.device,
            n=images,
            batch=find_preset(plan.preset).evaluation_batch,
            search=search,
            jobs=jobs,
            console=console,
        )
    return cells
