"""Forecasts are made of what was timed, and a training that does not fit says what would."""

from __future__ import annotations

import dataclasses
import gc
import os
import weakref

import pytest
import torch

from frbench.data import load_dataset
from frbench.durations import duration
from frbench.engine import estimate as module
from frbench.engine import memory, probe, trainer
from frbench.engine.device import find_device
from frbench.engine.estimate import estimate
from frbench.engine.mechanisms import swa
from frbench.engine.memory import largest_batch, out_of_memory
from frbench.engine.plan import resolve
from frbench.engine.step import TrainingStep
from frbench.errors import FrbenchError
from frbench.models import build_model

CPU = find_device("cpu")


def forecast(name, **overrides):
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    plan = resolve(name, preset="smoke", overrides=overrides)
    return estimate(plan, load_dataset("digits"), CPU, steps=2)


def test_a_forecast_names_every_cost_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = forecast("at_fr_swa")
    assert min(found.train_seconds, found.judge_seconds, found.average_seconds) > 0
    parts = (
        found.startup_seconds,
        found.train_seconds,
        found.judge_seconds,
        found.average_seconds,
    )
    assert found.total_seconds == pytest.approx(sum(parts))
    assert found.memory > 2**20
    assert found.energy is None
    assert found.summary() == found.lines()[0]
    assert "averaging" in "".join(found.lines()) or found.average_seconds < 0.05
    assert os.listdir(tmp_path) == []


def test_nothing_of_a_forecast_stays_in_memory(monkeypatch):
    """On a GPU the training that follows may need all of it."""
    trainers = []
    measured = module._measured

    def watched(probe, *args):
        trainers.append(weakref.ref(probe.trainer))
        return measured(probe, *args)

    monkeypatch.setattr(module, "_measured", watched)
    gc.disable()
    try:
        forecast("at_fr_swa")
        assert [trainer() for trainer in trainers] == [None]
    finally:
        gc.enable()


def test_a_forecast_counts_steps_judgements_and_passes(monkeypatch):
    """On a clock on which every measurement takes one second."""
    monkeypatch.setattr(probe, "_timed", lambda device, work: (work(), 1.0)[1])
    plain, averaged = forecast("at_fr"), forecast("at_fr_swa")
    # Batches of 8 instead of 32 were timed, so that a step takes four of these seconds.
    assert plain.train_seconds == pytest.approx(plain.epochs * plain.steps * 4)
    # Four judgements, and two more of the average, which begins with epoch 2.
    assert averaged.judge_seconds == pytest.approx(plain.judge_seconds * 6 / 4)
    # Two updates of the average; on this clock a pass over images is free.
    assert averaged.average_seconds == pytest.approx(2)
    assert plain.average_seconds == 0
    # 1293 images in 41 steps of four seconds, the last of which has few images.
    assert plain.images_per_second == pytest.approx(1293 / 41 / 4)


def test_of_an_average_the_passes_over_images_are_scaled_and_nothing_else(monkeypatch):
    """On a clock on which an update takes five seconds, and each batch of its pass one more."""
    honest, seen = swa.reestimate_batchnorm, []

    def watched(model, batches):
        seen.extend(batches)
        honest(model, seen)

    def clock(device, work):
        seen.clear()
        work()
        return 5.0 + len(seen)

    monkeypatch.setattr(swa, "reestimate_batchnorm", watched)
    monkeypatch.setattr(probe, "_timed", clock)
    clean, averaged = forecast("at_swa"), forecast("at_swa", swa__batchnorm="average")
    # Two updates; batches of 8 images instead of 32 were timed.
    assert clean.average_seconds == pytest.approx(2 * (5 + clean.steps * 4))
    assert averaged.average_seconds == pytest.approx(2 * 5)


def test_epochs_that_are_done_cost_nothing(monkeypatch):
    """On a clock on which every measurement takes one second; FR and SWA start with epoch 2."""
    monkeypatch.setattr(probe, "_timed", lambda device, work: (work(), 1.0)[1])
    plan, data = resolve("at_fr_swa", preset="smoke"), load_dataset("digits")
    whole, two, one, none = (
        estimate(plan, data, CPU, steps=1, epochs_done=done) for done in (0, 2, 3, 4)
    )
    assert two.train_seconds == pytest.approx(2 * two.steps * 4)
    assert one.train_seconds == pytest.approx(1 * two.steps * 4)
    # Of six judgements four are left, then two; of two passes of the average two, then one.
    assert two.judge_seconds == pytest.approx(whole.judge_seconds * 4 / 6)
    assert one.judge_seconds == pytest.approx(whole.judge_seconds * 2 / 6)
    assert two.average_seconds == pytest.approx(whole.average_seconds)
    assert one.average_seconds == pytest.approx(whole.average_seconds / 2)
    assert none.train_seconds == none.judge_seconds == none.average_seconds == 0
    assert "  4 epochs of" in whole.lines()[1] and "  1 of 4 epochs of" in one.lines()[1]


def test_where_a_small_step_is_long_little_is_timed(monkeypatch):
    """On a clock on which every measurement takes ten seconds."""
    timed = []

    def clock(device, work):
        timed.append(work)
        work()
        return 10.0

    def never(*_):
        raise AssertionError("this takes minutes")

    monkeypatch.setattr(probe, "_timed", clock)
    monkeypatch.setattr(probe, "chosen_by_user", lambda: False)
    monkeypatch.setattr(probe, "tune_threads", never)
    found = forecast("at_fr")
    assert len(timed) == 2  # a step without FR, a step with it
    assert found.train_seconds == pytest.approx(found.epochs * found.steps * 40)
    # An image of a judgement: 42 forwards, at 10 s for the forwards of a step of 8 images.
    units = resolve("at_fr", preset="smoke").recipe.forward_units()
    assert found.judge_seconds == pytest.approx(4 * 100 * 42 * 10 / 8 / units)


def test_of_a_long_attack_few_steps_are_timed(monkeypatch):
    """On a clock on which every measurement takes one second."""
    timed = []
    honest = TrainingStep.attack

    def watched(step, *batch):
        timed.append(step.recipe.attack.steps)
        return honest(step, *batch)

    monkeypatch.setattr(TrainingStep, "attack", watched)
    monkeypatch.setattr(probe, "_timed", lambda device, work: (work(), 1.0)[1])
    usual = forecast("pgd_at", attack__steps="20")
    found = forecast("pgd_at", attack__steps="100000")
    assert set(timed) == {20}
    # Two forward units an attack step, and three of the loss.
    assert found.train_seconds == pytest.approx(usual.train_seconds * 200_003 / 43)


def test_long_durations_and_low_rates_can_be_read():
    found = dataclasses.replace(
        forecast("pgd_at"), train_seconds=7606.2 * 3600, images_per_second=0.0347
    )
    assert ": 317 days on" in found.summary() and "training 317 days" in found.lines()[2]
    assert ", 0.035 images/s" in found.lines()[1]
    assert [duration(hours * 3600) for hours in (48, 7606.2)] == ["48.0 h", "317 days"]
    found = dataclasses.replace(found, train_seconds=40 * 3600, images_per_second=7.64)
    assert " h on" in found.summary() and ", 7.6 images/s" in found.lines()[1]


def test_rare_judgements_cost_less(monkeypatch):
    monkeypatch.setattr(probe, "_timed", lambda device, work: (work(), 1.0)[1])
    every, rare = forecast("pgd_at"), forecast("pgd_at", validation_every="3")
    assert rare.judge_seconds == pytest.approx(every.judge_seconds / 2)  # epochs 2 and 3


def test_watched_test_images_cost_as_much_as_held_out_ones(monkeypatch):
    monkeypatch.setattr(probe, "_timed", lambda device, work: (work(), 1.0)[1])
    plain, watched = forecast("at_swa"), forecast("at_swa", test_images="50")
    # The preset judges 100 held-out images.
    assert watched.judge_seconds == pytest.approx(plain.judge_seconds * 150 / 100)


class Hungry(TrainingStep):
    """A step whose device has memory for eight images."""

    def __call__(self, images, labels, noise, *, epoch, lr):
        if len(images) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(images, labels, noise, epoch=epoch, lr=lr)


class Starved(TrainingStep):
    def __call__(self, images, labels, noise, *, epoch, lr):
        raise torch.OutOfMemoryError("CUDA out of memory")


def subject():
    plan = resolve("trades", preset="smoke")
    model = CPU.place(build_model("tiny", classes=10, channels=1)).train()
    return model, plan.recipe, plan.frame, CPU, (1, 8, 8)


def test_the_largest_half_that_fits_is_found(monkeypatch):
    assert largest_batch(*subject()) == 16  # half of what was too large, when that fits
    monkeypatch.setattr(memory, "TrainingStep", Hungry)
    assert largest_batch(*subject()) == 8
    monkeypatch.setattr(memory, "TrainingStep", Starved)
    assert largest_batch(*subject()) is None


def test_the_batch_that_fits_is_tried_with_every_mechanism_active(monkeypatch):
    class HungryAtLast(TrainingStep):
        def __call__(self, images, labels, noise, *, epoch, lr):
            if len(images) > 4 and epoch == self.frame.epochs - 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(images, labels, noise, epoch=epoch, lr=lr)

    monkeypatch.setattr(memory, "TrainingStep", HungryAtLast)
    assert largest_batch(*subject()) == 4


def test_out_of_memory_names_the_batch_that_would_fit(monkeypatch):
    monkeypatch.setattr(memory, "TrainingStep", Hungry)
    message = str(out_of_memory(*subject()))
    assert "batch_size=32" in message and "batch_size=8 fits" in message and "\n" not in message
    monkeypatch.setattr(memory, "TrainingStep", Starved)
    assert "smaller ones do not fit" in str(out_of_memory(*subject()))


def test_out_of_memory_while_estimating_names_the_batch_that_would_fit(monkeypatch):
    honest = TrainingStep.__call__

    def hungry(self, images, *args, **options):
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, images, *args, **options)

    first = []

    def tried(*args):
        assert [step() for step in first] == [None], "its captured graph is in the way"
        return out_of_memory(*args)

    def remembered(*args):
        step = TrainingStep(*args[:4])
        first.append(weakref.ref(step))
        return step

    monkeypatch.setattr(trainer, "make_step", remembered)
    monkeypatch.setattr(trainer, "out_of_memory", tried)
    monkeypatch.setattr(TrainingStep, "__call__", hungry)
    said = r"^out of memory on .* with batch_size=32; batch_size=4 fits now.*free the device$"
    with pytest.raises(FrbenchError, match=said):
        forecast("pgd_at")


@pytest.mark.parametrize("cuda", [True, False])
def test_on_a_gpu_what_is_timed_has_run_before(monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    where = dataclasses.replace(CPU, device=torch.device("cuda" if cuda else "cpu"))
    calls = []
    probe._timed_again(where, lambda: calls.append(1))
    assert len(calls) == 1 + cuda
