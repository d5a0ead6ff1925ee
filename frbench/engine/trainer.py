"""The training loop: one for every recipe."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import torch
from torch import Tensor

from frbench.data import DATASETS, Batches, Dataset, Split, derive_seed, holdout
from frbench.data.types import held_out
from frbench.discovery import line_of
from frbench.engine.device import Device
from frbench.engine.graphed import make_step
from frbench.engine.judge import Judge, Judgement
from frbench.engine.mechanisms.averages import averaged_tensors, empty_state, updates
from frbench.engine.memory import out_of_memory
from frbench.engine.plan import ENGINE_VERSION, Plan
from frbench.engine.precision import training_precision
from frbench.engine.recipe import WeightAverage
from frbench.engine.run import Progress, RunFolder
from frbench.engine.source import source_digest
from frbench.engine.threads import chosen_by_user
from frbench.errors import FrbenchError, InputError
from frbench.models import NORMALIZATIONS, Normalized, WeightsMeta, blank_model, save_weights
from frbench.models.sizes import taking
from frbench.notices import to_stderr
from frbench.provenance import provenance

COLLAPSED = 0.1
"""Standard deviation of logits under which a model is taken to answer a constant..."""
PATIENCE = 0.1
"""...once it has had this share of its epochs to move away from its initial logits."""


class Diverged(FrbenchError):
    """Training went where it cannot come back from; the last good checkpoint is kept."""


class Watcher(Protocol):
    """What is told of a training while it runs."""

    def step(self, done: int, total: int) -> None: ...
    def epoch(self, metrics: dict[str, Any]) -> None: ...


class Trainer:
    """Trains one plan in one run folder; construct, then `run`.

    Args:
        plan: what to train.
        data: the dataset that the plan names.
        device: where.
        folder: of the run; resumed if it has a checkpoint.
        notice: told, in one line, when a faster path fails and a slower one takes over, and after
            which epoch the run goes on.
    """

    def __init__(
        self,
        plan: Plan,
        data: Dataset,
        device: Device,
        folder: RunFolder,
        notice: Callable[[str], None] = to_stderr,
    ) -> None:
        frame = plan.frame
        check_sizes(plan, train=len(data.train), test=len(data.test))
        self._meta = weights_meta(plan, data)
        self.model = initial_model(plan, self._meta, device)
        shape = data.train.images.shape[1:]
        _check_takes(self.model, shape)
        precision = training_precision(plan, device, folder, self.model, shape, notice)
        device = dataclasses.replace(device, precision=precision)
        self.plan, self.device, self.folder = plan, device, folder
        train, validation = holdout(data.train, frame.validation_fraction)
        self.batches = _batches(train, plan, device, data, plan.seed)
        self._statistics_batches = _batches(
            train, plan, device, data, derive_seed(plan.seed, "batchnorm")
        )
        self.step = make_step(
            self.model, plan.recipe, frame, device, len(self.batches) * frame.epochs, notice
        )
        judged = validation.first(frame.validation_images)
        self.judge = Judge(judged, device, plan.recipe.attack, notice)
        self._test_judge = _test_judge(data, plan, device, notice)
        self.average_state = empty_state(self.model) if plan.recipe.average else {}
        self.progress = Progress()
        self._notice = notice
        self._data_digest = data.train.sha256

    def run(self, watcher: Watcher | None = None) -> RunFolder:
        """Train to the last epoch, resuming where a former call stopped.

        A resumed run takes the number of threads that it began with; torch's own comes back.

        Raises:
            Diverged: non-finite loss, or logits that collapsed to a constant.
            InputError: the checkpoint of the folder is damaged.
            FrbenchError: out of memory; names the batch size that would fit.
        """
        self.device.prepare()
        with _threads_restored():
            self.resume()
            self.folder.write_info(self._info(finished=False))
            try:
                self._train(watcher)
            except torch.OutOfMemoryError:
                exhausted = True
            else:
                exhausted = False
            if exhausted:  # outside the handler, whose traceback keeps the tensors alive
                raise self.out_of_memory()
            self.folder.write_info(self._info(finished=True))
        return self.folder

    def out_of_memory(self) -> FrbenchError:
        """The error to end with when memory ran out; trying what fits spoils the weights."""
        del self.step  # the memory of its captured graph is needed for the tries
        shape = self.batches.image_shape
        return out_of_memory(self.model, self.plan.recipe, self.plan.frame, self.device, shape)

    def _train(self, watcher: Watcher | None) -> None:
        """The epochs that are left, each ending with a checkpoint."""
        for epoch in range(self.progress.epochs_done, self.plan.frame.epochs):
            started = time.perf_counter()
            loss = self._train_epoch(epoch, watcher)
            seconds = time.perf_counter() - started
            metrics = {**self._finish_epoch(epoch, loss), "train_seconds": seconds}
            metrics["seconds"] = time.perf_counter() - started
            self.progress.metrics.append(metrics)
            self.progress.epochs_done = epoch + 1
            self.folder.save_checkpoint(self._tensors(), self.progress)
            if watcher:
                watcher.epoch(metrics)

    def resume(self) -> None:
        """Take over the checkpoint of the folder, if there is one."""
        saved = self.folder.load_checkpoint()
        if saved is None:
            return
        tensors, self.progress = saved
        threads = self.folder.info().get("threads")
        if isinstance(threads, int) and not (self.device.cuda or chosen_by_user()):
            torch.set_num_threads(threads)  # sums are rounded as in the first part of the run
        own = self._tensors()
        # Older checkpoints hold an average, empty, for recipes that have none too.
        tensors = {n: t for n, t in tensors.items() if n in own or not n.startswith("average.")}
        if _shapes(own) != _shapes(tensors):
            raise FrbenchError(
                f"checkpoint of {self.folder.path} belongs to another recipe or model; "
                "move the folder away to train this one"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        self.folder.write_metrics(self.progress)
        done, epochs = self.progress.epochs_done, self.plan.frame.epochs
        self._notice(f"{self.folder.name}: goes on after epoch {done} of {epochs}")

    def _train_epoch(self, epoch: int, watcher: Watcher | None) -> float:
        """One pass over the training images; its mean loss is the only wait for the device."""
        steps = len(self.batches)
        total = torch.zeros((), device=self.device.device)
        average = self._average(epoch)
        self.model.train()
        for batch, noise in self._noisy_batches(epoch):
            lr = self.plan.frame.learning_rate(epoch, batch.index, steps)
            total += self.step(batch.images, batch.labels, noise, epoch=epoch, lr=lr)
            if average is not None:
                average.after_step(self.average_state, self.model)
            if watcher:
                watcher.step(epoch * steps + batch.index + 1, self.plan.frame.epochs * steps)
        loss = total.item() / steps
        # The last step may ruin the weights after the last finite loss.
        norms = torch.stack(torch._foreach_norm(list(self.model.parameters())))
        if not math.isfinite(loss) or not torch.isfinite(norms).all():
            own = line_of(type(self.plan.recipe.objective))
            raise Diverged(
                f"the loss or the weights of epoch {epoch + 1} are not finite; {self._kept()}; "
                f"try a smaller lr{self._or_precision()}; 'frbench check {self.plan.defense}' "
                f"tries the loss in {own} on one batch"
            )
        return loss

    def _kept(self) -> str:
        """What a training that breaks off here leaves behind; epochs count from 1, as shown."""
        done = self.progress.epochs_done
        if done == 0:
            return f"nothing was saved yet in {self.folder.path}"
        return f"{self.folder.path} keeps the last good checkpoint (epoch {done})"

    def _or_precision(self) -> str:
        """A further remedy where bf16 may be to blame."""
        return ", or precision=fp32" if self.device.precision == "bf16" else ""

    def _noisy_batches(self, epoch: int) -> Iterator[tuple[Any, Tensor]]:
        generator = torch.Generator(self.device.device)
        for batch in self.batches.epoch(epoch):
            generator.manual_seed(derive_seed(self.plan.seed, epoch, batch.index, "attack"))
            yield batch, self.plan.recipe.attack.initial_noise(batch.images, generator)

    def _finish_epoch(self, epoch: int, loss: float) -> dict[str, Any]:
        """Average, judge, keep the best; returns the epoch's metrics."""
        frame, average = self.plan.frame, self._average(epoch)
        metrics: dict[str, Any] = {
            "epoch": epoch,
            "lr": frame.learning_rate(epoch, 0, len(self.batches)),
            "train_loss": loss,
        }
        if average is not None:
            self.update_average(average, epoch, lambda: self._plain_images(epoch))
        last = epoch + 1 == frame.epochs
        if last or (epoch + 1) % frame.validation_every == 0:
            models = {"": self.model}
            if average is not None:
                models[average.kind] = self.averaged_model()
            metrics |= self._judge_and_keep(models, epoch, last)
        return metrics

    def _average(self, epoch: int) -> WeightAverage | None:
        """The weight average, once it has started."""
        average = self.plan.recipe.average
        return average if average is not None and average.active(epoch) else None

    def update_average(
        self, average: WeightAverage, epoch: int, images: Callable[[], Iterable[Tensor]]
    ) -> None:
        """Take the weights of `epoch` into the average; `images` may serve BatchNorm's statistics.

        Those need no more precision than the statistics of the trained weights.
        """
        with self.device.tf32():
            average.after_epoch(self.average_state, self.model, epoch, images)

    def _plain_images(self, epoch: int) -> Iterator[Tensor]:
        """Clean augmented training images, for BatchNorm statistics."""
        return (batch.images for batch in self._statistics_batches.epoch(epoch))

    def averaged_model(self) -> Normalized:
        """A copy of the model with the averaged weights."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(averaged_tensors(self.average_state))
        return model

    def _judge_and_keep(
        self, models: dict[str, Normalized], epoch: int, last: bool
    ) -> dict[str, float]:
        """Judge the models, then save those that are the best or the last; returns the metrics.

        In this order, so that a kill hardly finds the files ahead of the checkpoint.
        """
        judged = {kind: self._judged(kind, model, epoch) for kind, model in models.items()}
        metrics: dict[str, float] = {}
        for kind, judgement in judged.items():
            metrics |= self._as_metrics(kind, models[kind], judgement)
        for kind, judgement in judged.items():
            self._keep(kind, models[kind], epoch, judgement, last)
        return metrics

    def _judged(self, kind: str, model: Normalized, epoch: int) -> Judgement:
        """Accuracies on the held-out split; raises Diverged if the model has collapsed."""
        judgement = self.judge(model, derive_seed(self.plan.seed, "validation"))
        late = epoch >= max(1, PATIENCE * self.plan.frame.epochs)
        if not kind and late and judgement.logit_std < COLLAPSED:
            fr = self.plan.recipe.mechanism("fr")
            later = "start FR later (fr.start_epoch), or " if fr else ""
            raise Diverged(
                f"the logits collapsed to a constant in epoch {epoch + 1} (standard deviation "
                f"{judgement.logit_std:.3f}); {self._kept()}; {later}try a smaller lr or weight"
                f"{self._or_precision()}"
            )
        return judgement

    def _keep(
        self, kind: str, model: Normalized, epoch: int, judgement: Judgement, last: bool
    ) -> None:
        """Save the weights if they are the best so far, or the last."""
        prefix = f"{kind}-" if kind else ""
        if judgement.robust > self.progress.best.get(kind, -1.0):
            self.progress.best[kind] = judgement.robust
            self._save(f"{prefix}best", model, epoch, judgement)
        if last:
            self._save(f"{prefix}last", model, epoch, judgement)

    def _as_metrics(self, kind: str, model: Normalized, judgement: Judgement) -> dict[str, float]:
        """A judgement as columns, with that of the test images where they are watched."""
        key = f"{kind}_" if kind else ""
        return {
            f"{key}val_clean": judgement.clean,
            f"{key}val_pgd20": judgement.robust,
            f"{key}logit_std": judgement.logit_std,
            **self._watch_test(key, model),
        }

    def _watch_test(self, key: str, model: Normalized) -> dict[str, float]:
        """Accuracies on test images as metrics, for learning curves; nothing is chosen by them."""
        if self._test_judge is None:
            return {}
        judgement = self._test_judge(model, derive_seed(self.plan.seed, "test"))
        return {f"{key}test_clean": judgement.clean, f"{key}test_pgd20": judgement.robust}

    def _save(self, view: str, model: Normalized, epoch: int, judgement: Judgement) -> None:
        extra = {
            **self._meta.extra,
            "view": view,
            "epoch": epoch,
            "val_clean": judgement.clean,
            "val_pgd20": judgement.robust,
            "updates": updates(self.average_state) if "-" in view else None,
        }
        meta = dataclasses.replace(self._meta, extra=extra)
        save_weights(self.folder.weights(view), model.state_dict(), meta)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name; writing into them changes the run."""
        return {
            **{f"model.{name}": t for name, t in self.model.state_dict().items()},
            **{f"momentum.{name}": t for name, t in self.step.momentum.items()},
            **{f"average.{name}": t for name, t in self.average_state.items()},
        }

    def _info(self, *, finished: bool) -> dict[str, Any]:
        lines = self.progress.metrics
        seconds = sum(line["train_seconds"] for line in lines)
        images = self.batches.images * len(lines)  # the last batch of an epoch can be smaller
        return {
            "name": self.folder.name,
            "settings": self.plan.settings(),
            "engine": ENGINE_VERSION,
            "recipe_code": source_digest(self.plan.recipe),
            "finished": finished,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "data_sha256": self._data_digest,
            "precision": self.device.precision,
            "threads": None if self.device.cuda else torch.get_num_threads(),
            "provenance": provenance(self.device.describe()),
            "cost": {
                "train_seconds": round(seconds, 2),
                "total_seconds": round(sum(line["seconds"] for line in lines), 2),
                "images_per_second": round(images / seconds, 1) if seconds else None,
                "forward_units": self.plan.forward_units,
            },
        }


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    """Whatever follows in this process runs on as many threads as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@torch.no_grad()
def _check_takes(model: Normalized, shape: Sequence[int]) -> None:
    """Raise InputError if the network, which is in train mode, is made for other images."""
    image = torch.zeros(1, *shape, device=next(model.parameters()).device)
    with taking("the architecture", shape):
        model.eval()(image)
    model.train()


def initial_model(plan: Plan, meta: WeightsMeta, device: Device) -> Normalized:
    """A fresh model whose weights follow from the plan's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(plan.seed, "weights"))
        model = blank_model(meta)
    return device.place(model).train()  # type: ignore[return-value]


def weights_meta(plan: Plan, data: Dataset) -> WeightsMeta:
    """What the weights of a training of `plan` will say of themselves."""
    return WeightsMeta(
        architecture=plan.frame.architecture,
        classes=len(data.classes),
        channels=data.train.images.shape[1],
        dataset=data.name,
        normalization=NORMALIZATIONS[plan.frame.normalization],
        extra={
            "defense": plan.defense,
            "preset": plan.preset,
            "protocol": plan.protocol,
            "seed": plan.seed,
            "engine": ENGINE_VERSION,
            "changed": list(plan.changed),
        },
    )


def _batches(split: Split, plan: Plan, device: Device, data: Dataset, seed: int) -> Batches:
    return Batches(
        split,
        device.device,
        plan.frame.batch_size,
        seed,
        padding=plan.frame.padding,
        pad=plan.frame.pad,
        flip=DATASETS[data.name].flip,
        memory_format=torch.channels_last,
    )


def check_sizes(plan: Plan, *, train: int, test: int) -> None:
    """Raise InputError where a plan wants more images than its dataset, of these sizes, has.

    The default of `validation_images` means at most so many; one that was typed is a number.
    """
    frame = plan.frame
    held = held_out(train, frame.validation_fraction)
    limits = {"batch_size": (train - held, "training"), "test_images": (test, "test")}
    if any(change.startswith("validation_images=") for change in plan.changed):
        limits["validation_images"] = (held, "held-out")
    for key, (most, kind) in limits.items():
        wanted = getattr(frame, key)
        if wanted > most:
            raise InputError(
                f"{key}={wanted} exceeds the {most} {kind} images of {frame.dataset}; give a "
                "smaller one"
            )


def _test_judge(
    data: Dataset, plan: Plan, device: Device, notice: Callable[[str], None]
) -> Judge | None:
    """Judges the test images that learning curves were asked for, if they were."""
    n = plan.frame.test_images
    return Judge(data.test.first(n), device, plan.recipe.attack, notice) if n else None
