"""Judging an epoch: the same verdicts in pieces as at once, where memory is short."""

from __future__ import annotations

import pytest
import torch

from frbench.data import Split, to_float
from frbench.engine.device import find_device
from frbench.engine.inner import InnerAttack
from frbench.engine.judge import Judge
from frbench.errors import FrbenchError
from frbench.models import Normalized

ROBUST = InnerAttack(eps=0.1, step_size=0.02, steps=2)


@pytest.fixture
def steady(model, small_digits):
    """The half-trained network with BatchNorm statistics that fit it."""
    with torch.no_grad():
        for _ in range(40):
            model(to_float(small_digits.train.images))
    return model


def short_of_memory(judge, monkeypatch, most):
    """Fail as CUDA does when an attack runs on more than `most` images; gives the sizes tried."""
    real, tried = InnerAttack.perturb, []

    def perturb(self, model, images, labels, noise):
        tried.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, model, images, labels, noise)

    monkeypatch.setattr(InnerAttack, "perturb", perturb)
    return tried


def test_too_little_memory_halves_the_piece_and_changes_no_verdict(
    steady, small_digits, monkeypatch
):
    said = []
    judge = Judge(small_digits.test, find_device("cpu"), ROBUST, said.append)
    n = len(small_digits.test)
    whole = judge(steady, seed=3)
    assert 0 < whole.robust < whole.clean < 1
    tried = short_of_memory(judge, monkeypatch, most=n // 3)
    pieces = judge(steady, seed=3)
    assert (pieces.clean, pieces.robust) == (whole.clean, whole.robust)
    assert pieces.logit_std == pytest.approx(whole.logit_std)
    assert steady.training
    assert tried[0] == n and max(tried[2:]) <= n // 3
    assert len(said) == 2 and said[0].startswith("out of memory: judging goes on with")
    tried.clear()
    judge(steady, seed=3)
    assert max(tried) <= n // 3, "what does not fit is tried once"


def test_not_even_one_image_is_an_error_of_the_judge(steady, small_digits, monkeypatch):
    judge = Judge(small_digits.test, find_device("cpu"), ROBUST)
    short_of_memory(judge, monkeypatch, most=0)
    with pytest.raises(FrbenchError, match="while judging one image: free the device"):
        judge(steady, seed=3)


def test_it_judges_by_twenty_steps_of_2_255_in_the_recipes_ball(small_digits):
    judge = Judge(small_digits.test, find_device("cpu"), ROBUST)
    assert judge.attack == InnerAttack(eps=0.1, step_size=2 / 255, steps=20)


def test_an_answer_that_is_the_same_for_every_image_has_no_spread(steady, small_digits):
    few = Split(small_digits.test.images[:20], small_digits.test.labels[:20], "")
    judge = Judge(few, find_device("cpu"), ROBUST)
    assert judge(steady, seed=3).logit_std > 0.1
    with torch.no_grad():
        steady.net.linear.weight.zero_()
        steady.net.linear.bias.copy_(torch.arange(10.0))
    assert judge(steady, seed=3).logit_std < 1e-5


@pytest.mark.parametrize("instructions", [False, True])
def test_bf16_may_search_but_float32_counts(steady, small_digits, monkeypatch, instructions):
    monkeypatch.setattr("frbench.engine.device.has_bf16", lambda _: instructions)
    real, modes = Normalized.forward, []

    def forward(self, images):
        modes.append(torch.is_autocast_enabled("cpu"))
        return real(self, images)

    monkeypatch.setattr(Normalized, "forward", forward)
    searched = []
    monkeypatch.setattr(
        InnerAttack,
        "perturb",
        lambda self, model, images, *_: searched.append(torch.is_autocast_enabled("cpu")) or images,
    )
    judgement = Judge(small_digits.test, find_device("cpu"), ROBUST)(steady, seed=3)
    assert judgement.clean == judgement.robust
    assert searched == [instructions] and modes == [False, False]
