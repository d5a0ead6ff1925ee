"""Single checks, each on a model with the one fault that it is there for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frbench.audit.ascent import Ascent, value_and_gradient
from frbench.audit.checks import behaviour, blackbox, gradients, sweeps
from frbench.audit.run import CHECKS
from frbench.audit.straight_through import StraightThrough, step_functions
from frbench.audit.subject import Subject
from frbench.data import Dataset, to_float


@pytest.fixture
def subject(tiny: nn.Module, digits: Dataset) -> Subject:
    images, labels = to_float(digits.test.images[:64]), digits.test.labels[:64]
    return around(tiny, images, labels)


def around(model: nn.Module, images: Tensor, labels: Tensor) -> Subject:
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    # A larger radius than usual: these digits hardly notice 8/255.
    return Subject(model, images, labels, images[right], labels[right], eps=32 / 255, batch=40)


class Wrapped(nn.Module):
    """`change` applied to what `net` is asked or answers."""

    def __init__(self, net: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.net, images)


def wrapped(subject: Subject, change: Callable[[Any, Tensor], Tensor]) -> Subject:
    return around(Wrapped(subject.model, change).eval(), subject.sample, subject.sample_labels)


class WrongGradient(torch.autograd.Function):
    """The identity whose gradient points the other way."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_check_blames_an_honest_model(check: Callable[[Subject], Any], subject: Subject) -> None:
    finding = check(subject)
    assert finding.verdict == "trusted", finding


def test_a_little_noise_on_the_logits_is_noticed(subject: Subject) -> None:
    noisy = wrapped(subject, lambda net, x: net(x) + 0.02 * torch.randn(len(x), 10))
    assert behaviour.determinism(noisy).verdict in ("suspicious", "broken")


def test_logits_that_depend_on_the_other_images_are_noticed(subject: Subject) -> None:
    tangled = wrapped(subject, lambda net, x: net(x) - 3 * net(x).mean(dim=0))
    finding = behaviour.determinism(tangled)
    assert finding.verdict == "broken" and "rest of the batch" in finding.reason


def test_statistics_that_do_not_fit_the_weights_are_noticed(subject: Subject) -> None:
    model = copy.deepcopy(subject.model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean += 0.35 * layer.running_var.sqrt()
    finding = behaviour.batchnorm(around(model, subject.sample, subject.sample_labels))
    assert finding.verdict == "suspicious", finding


def test_the_batchnorm_check_leaves_the_statistics_alone(subject: Subject) -> None:
    before = copy.deepcopy(subject.model.state_dict())
    behaviour.batchnorm(subject)
    after = subject.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_gradient_that_points_the_other_way_is_noticed(subject: Subject) -> None:
    turned = wrapped(subject, lambda net, x: net(WrongGradient.apply(x)))
    assert gradients.linearity(turned).verdict == "broken"
    assert gradients.zero_gradients(turned).verdict == "trusted"
    assert sweeps.radii(turned).verdict == "broken"


def test_a_model_that_cuts_the_graph_has_zero_gradients(subject: Subject) -> None:
    cut = wrapped(subject, lambda net, x: net((x * 15).byte().float() / 15))
    finding = gradients.zero_gradients(cut)
    assert finding.verdict == "broken" and finding.numbers["points without gradient"] == 1


def test_underflow_shows_in_unit_scale_logits_and_in_the_margin(subject: Subject) -> None:
    cold = wrapped(subject, lambda net, x: 1000 * net(x))
    assert gradients.logit_scale(cold).verdict != "trusted"
    assert gradients.margin(cold).verdict != "trusted"


def test_attacks_that_need_no_gradient_beat_gradients_that_are_zero(subject: Subject) -> None:
    quantized = wrapped(subject, lambda net, x: net((x * 7).round() / 7))
    assert gradients.straight_through(quantized).verdict == "broken"
    assert blackbox.square(quantized).verdict != "trusted"
    honest = replace(quantized, sources={"honest": subject.model}, _known={})
    finding = blackbox.transfer(honest)
    assert finding.verdict == "broken" and "honest" in finding.reason


def test_straight_through_keeps_values_and_finds_only_steps_on_the_path() -> None:
    x = torch.tensor([0.2, 0.7], requires_grad=True)
    with StraightThrough():
        y = (x * 3).round()
    assert y.tolist() == [1.0, 2.0]
    (gradient,) = torch.autograd.grad(y.sum(), [x])
    assert gradient.tolist() == [3.0, 3.0]
    assert step_functions(nn.Identity(), x) == 0


def test_the_attack_stays_in_its_ball_and_its_curve_is_that_of_shorter_attacks(
    subject: Subject,
) -> None:
    long = Ascent(subject.eps, steps=10)
    torch.manual_seed(0)
    iterates = list(long.iterates(subject.model, subject.images, subject.labels))
    torch.manual_seed(0)
    short = Ascent(subject.eps, steps=3).last(subject.model, subject.images, subject.labels)
    assert torch.equal(iterates[2], short)
    for adversarial in iterates:
        assert float((adversarial - subject.images).abs().max()) <= subject.eps + 1e-6
        assert float(adversarial.min()) >= 0 and float(adversarial.max()) <= 1


def test_each_image_gets_its_own_gradient(subject: Subject) -> None:
    both = value_and_gradient(
        subject.model, subject.images[:2], subject.labels[:2], lambda z, y: z.sum(dim=1)
    )[1]
    alone = value_and_gradient(
        subject.model, subject.images[:1], subject.labels[:1], lambda z, y: z.sum(dim=1)
    )[1]
    torch.testing.assert_close(both[:1], alone)
