"""The captured step where nothing can be captured: it says so on stderr and goes on."""

from __future__ import annotations

import torch

from frbench.engine.device import Device
from frbench.engine.graphed import GraphedStep
from frbench.engine.graphed import make_step as fastest_step
from frbench.engine.plan import resolve
from frbench.engine.step import TrainingStep


class Pretender(Device):
    """A CPU that says it is CUDA: the captured step is chosen, and capturing fails."""

    @property
    def cuda(self):
        return True


DEVICE = Pretender(torch.device("cpu"), "fp32")
NOTICE = "the step cannot be captured here, going on without: no driver"


def graphed(network, monkeypatch, **notice):
    plan = resolve("pgd_at", preset="smoke")
    step = fastest_step(network, plan.recipe, plan.frame, DEVICE, 1, **notice)
    assert isinstance(step, GraphedStep)

    def ruin(*_):
        """As a warm-up that breaks off: the weights have moved."""
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(9.0)
        raise RuntimeError("no driver\nand a long trace")

    monkeypatch.setattr(step, "_capture", ruin)
    return step


def test_notices_go_to_stderr_and_leave_stdout_to_data(model, one_step, monkeypatch, capsys):
    one_step(graphed(model, monkeypatch))
    assert capsys.readouterr() == ("", NOTICE + "\n")


def test_whoever_shows_notices_is_told_alone(model, one_step, monkeypatch, capsys):
    said = []
    one_step(graphed(model, monkeypatch, notice=said.append))
    assert said == [NOTICE]
    assert capsys.readouterr() == ("", "")


def test_a_step_that_cannot_be_captured_trains_as_the_plain_one(make_step, one_step, monkeypatch):
    recipe, frame = make_step("pgd_at").recipe, make_step("pgd_at").frame
    plain = TrainingStep(make_step("pgd_at").model, recipe, frame, DEVICE)
    step = graphed(make_step("pgd_at").model, monkeypatch, notice=lambda _: None)
    for seed in range(2):
        assert torch.equal(one_step(step, seed=seed), one_step(plain, seed=seed))
    for ours, theirs in zip(step.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
