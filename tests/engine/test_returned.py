"""A method that returns anything but one number is named with its line, and waits for no device."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F

from frbench.discovery import line_of
from frbench.engine import FrequencyRegularization, InnerAttack, Objective, Recipe
from frbench.engine.device import Device, find_device
from frbench.engine.graphed import GraphedStep
from frbench.engine.scaffold import reference_outputs
from frbench.engine.settings import Frame
from frbench.engine.step import TrainingStep
from frbench.errors import FrbenchError

FRAME = Frame(batch_size=32)
MISTAKES = {
    "return": (lambda value: None, "None: is there a `return`"),
    "item": (lambda value: value.mean().item(), "a float: leave out `.item()`"),
    "vector": (lambda value: value, "a tensor of shape (32,)"),
    "one of one": (lambda value: value.mean()[None], "a tensor of shape (1,)"),
}
DETACHED = {"detached": (lambda value: value.mean().detach(), "one without: leave out `.detach()`")}


def cross_entropies(outputs):
    return F.cross_entropy(outputs.adversarial_logits, outputs.labels, reduction="none")


class Own(Objective):
    branches = ("adversarial",)

    def loss(self, outputs):
        return LOSS(cross_entropies(outputs))


class OwnPenalty(FrequencyRegularization):
    def penalty(self, outputs):
        return PENALTY(cross_entropies(outputs))


class OwnAttack(InnerAttack):
    def ascended(self, logits, labels, target):
        return ASCENDED(F.cross_entropy(logits, labels, reduction="none"))


LOSS = PENALTY = ASCENDED = torch.mean


def own(**changes):
    recipe = Recipe(base="own", objective=Own(), attack=OwnAttack(steps=1))
    return recipe.rebuilt(**changes)


def refused(recipe, model, one_step):
    """What the step says, in one line."""
    with pytest.raises(FrbenchError) as caught:
        one_step(TrainingStep(model, recipe, FRAME, find_device("cpu", "fp32")))
    return str(caught.value)


@pytest.mark.parametrize("mistake", [*MISTAKES, *DETACHED])
def test_a_loss_that_is_no_number_with_a_gradient(mistake, model, one_step, monkeypatch):
    change, seen = {**MISTAKES, **DETACHED}[mistake]
    monkeypatch.setitem(globals(), "LOSS", change)
    said = refused(own(), model, one_step)
    assert f"{line_of(Own)}: Own.loss must return one number with a gradient, not " in said
    assert seen in said
    # A penalty brings a gradient of its own, which must not hide that the loss has none.
    assert refused(own(mechanisms=(FrequencyRegularization(),)), model, one_step) == said


@pytest.mark.parametrize("mistake", [*MISTAKES, *DETACHED])
def test_an_attack_that_ascends_no_number_with_a_gradient(mistake, model, one_step, monkeypatch):
    change, seen = {**MISTAKES, **DETACHED}[mistake]
    monkeypatch.setitem(globals(), "ASCENDED", change)
    said = refused(own(), model, one_step)
    assert f"{line_of(OwnAttack)}: OwnAttack.ascended must return one number" in said
    assert seen in said
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_penalty_that_is_no_number(mistake, model, one_step, monkeypatch):
    change, seen = MISTAKES[mistake]
    monkeypatch.setitem(globals(), "PENALTY", change)
    said = refused(own(mechanisms=(OwnPenalty(),)), model, one_step)
    assert f"{line_of(OwnPenalty)}: OwnPenalty.penalty must return one number as a tensor" in said
    assert seen in said


def test_a_penalty_may_be_a_constant(model, one_step, monkeypatch):
    monkeypatch.setitem(globals(), "PENALTY", lambda value: torch.ones(()))
    recipe = own(mechanisms=(OwnPenalty(),))
    step = TrainingStep(model, recipe, FRAME, find_device("cpu", "fp32"))
    assert torch.isfinite(one_step(step))


class Meddling(Objective):
    branches = ("adversarial",)

    def loss(self, outputs):
        getattr(outputs, CHANGED).add_(0)  # the tests share these images
        return cross_entropies(outputs).mean()


class MeddlingPenalty(FrequencyRegularization):
    def penalty(self, outputs):
        outputs.images.clamp_(0, 1)
        return super().penalty(outputs)


CHANGED = "adversarial"


@pytest.mark.parametrize("changed", ["images", "adversarial", "labels"])
def test_a_loss_that_changes_the_batch_in_place(changed, model, one_step, monkeypatch):
    """Before its forward pass nothing else would tell: it would train outside the ball."""
    monkeypatch.setitem(globals(), "CHANGED", changed)
    said = refused(own(objective=Meddling()), model, one_step)
    assert f"{line_of(Meddling)}: Meddling.loss changes `{changed}` in place; work" in said


def test_a_penalty_that_changes_the_batch_in_place(model, one_step):
    said = refused(own(mechanisms=(MeddlingPenalty(),)), model, one_step)
    assert "MeddlingPenalty.penalty changes `images` in place" in said


class Perturbing(InnerAttack):
    def perturb(self, model, images, labels, noise):
        return PERTURBED(images)


PERTURBED = torch.clone
PERTURBATIONS = {
    "return": (lambda images: None, "return perturbed images, not None: is there a `return`?"),
    "pair": (lambda images: (images, images), "return perturbed images, not a tuple"),
    "part": (lambda images: images[1:], "of the shape that it was given, (32, "),
    "gradient": (lambda images: images.clone().requires_grad_(), "return `.detach()` of them"),
    "in place": (lambda images: images.mul_(1), "changes `images` in place; work on a copy"),
}


@pytest.mark.parametrize("mistake", PERTURBATIONS)
def test_an_attack_that_returns_no_perturbed_images(mistake, model, one_step, monkeypatch):
    change, said = PERTURBATIONS[mistake]
    monkeypatch.setitem(globals(), "PERTURBED", change)
    heard = refused(own(attack=Perturbing()), model, one_step)
    assert f"{line_of(Perturbing)}: Perturbing.perturb " in heard and said in heard


def test_a_value_is_worked_out_without_gradients():
    assert own().loss(reference_outputs(), epoch=0).item() == pytest.approx(0.8852298, abs=1e-6)


def test_numbers_on_a_device_are_not_waited_for():
    """A tensor without values, as on a device that has not come to it yet."""
    logits = torch.zeros(4, 3, device="meta", requires_grad=True)
    outputs = reference_outputs()
    outputs.adversarial_logits = logits
    outputs.labels = torch.zeros(4, dtype=torch.int64, device="meta")
    assert own().loss(outputs, epoch=0).device.type == "meta"


def test_a_mistake_ends_the_capture_of_a_step_at_once(model, one_step, monkeypatch):
    """It is no compiler's fault, so nothing slower is tried and nothing is said of that."""
    monkeypatch.setitem(globals(), "LOSS", MISTAKES["vector"][0])
    device, said = Device(torch.device("cpu"), "fp32"), []
    step = GraphedStep(model, own(), FRAME, device, compiled=False, notice=said.append)
    monkeypatch.setattr(step, "_capture", lambda *args: TrainingStep.update(step, *args))
    with pytest.raises(FrbenchError, match=r"Own\.loss must return"):
        one_step(step)
    assert said == []


def test_a_step_that_goes_well_looks_into_no_source(model, one_step, monkeypatch):
    """Reading it takes milliseconds, a tenth of a small network's step."""

    def read(*_):
        raise AssertionError("a source was read")

    monkeypatch.setattr(inspect, "getfile", read)
    monkeypatch.setattr(inspect, "getsourcelines", read)
    recipe = own(mechanisms=(OwnPenalty(),))
    assert torch.isfinite(one_step(TrainingStep(model, recipe, FRAME, find_device("cpu", "fp32"))))
