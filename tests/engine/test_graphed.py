"""The captured step: as the plain one on CUDA; where it cannot be captured, it says so."""

from __future__ import annotations

import contextlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from frbench.engine.device import find_device
from frbench.engine.graphed import WORTH_COMPILING, GraphedStep
from frbench.engine.graphed import make_step as fastest_step
from frbench.engine.plan import resolve
from frbench.engine.step import TrainingStep

NOTICE = "the step cannot be captured here, going on without: no driver"


@pytest.fixture
def device(pretender):
    """The captured step is chosen, and capturing fails."""
    return pretender("fp32")


@pytest.fixture
def graphed(device, monkeypatch):
    """A step whose capture fails."""

    def make(network, error="no driver\nand a long trace", **notice):
        plan = resolve("pgd_at", preset="smoke")
        step = fastest_step(network, plan.recipe, plan.frame, device, 1, **notice)
        assert isinstance(step, GraphedStep)

        def ruin(*_):
            """As a warm-up that breaks off: weights, statistics and momentum have moved."""
            with torch.no_grad():
                for tensor in (*network.parameters(), *network.buffers(), *step.momentum.values()):
                    tensor.fill_(9)
            raise RuntimeError(error)

        monkeypatch.setattr(step, "_capture", ruin)
        return step

    return make


def test_notices_go_to_stderr_and_leave_stdout_to_data(model, one_step, capsys, graphed):
    one_step(graphed(model))
    assert capsys.readouterr() == ("", NOTICE + "\n")


def test_whoever_shows_notices_is_told_alone(model, one_step, capsys, graphed):
    said = []
    one_step(graphed(model, notice=said.append))
    assert said == [NOTICE]
    assert capsys.readouterr() == ("", "")


def test_a_broken_capture_may_mean_that_memory_is_short(model, one_step, graphed):
    """As torch 2.11 reports it; the error that broke the capture is gone."""
    error = "CUDA error: operation failed due to a previous error during capture\nSearch for"
    said = []
    one_step(graphed(model, error, notice=said.append))
    assert said[0].endswith("during capture; if memory is short, a new start with a smaller "
                            "batch_size may be faster")  # fmt: skip


def test_a_step_that_cannot_be_captured_trains_as_the_plain_one(
    make_step, one_step, graphed, device
):
    recipe, frame = make_step("pgd_at").recipe, make_step("pgd_at").frame
    plain = TrainingStep(make_step("pgd_at").model, recipe, frame, device)
    step = graphed(make_step("pgd_at").model, notice=lambda _: None)
    for seed in range(2):
        assert torch.equal(one_step(step, seed=seed), one_step(plain, seed=seed))
    assert_same(step, plain)


def assert_same(ours, theirs):
    for one, other in ((ours.model.state_dict(), theirs.model.state_dict()),
                       (ours.momentum, theirs.momentum)):  # fmt: skip
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_loss_and_attack_are_compiled_together_and_fall_back_together(
    model, one_step, pretender, monkeypatch
):
    """In bf16, where the attack has a network of its own."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: Compiled(network))
    plan, tried = resolve("pgd_at", preset="smoke"), []
    step = fastest_step(
        model, plan.recipe, plan.frame, pretender("bf16"), WORTH_COMPILING, lambda line: None
    )

    def capture(*_):
        tried.append((step.network, step.victim))
        raise RuntimeError("no driver")

    monkeypatch.setattr(step, "_capture", capture)
    one_step(step)
    (network, victim), plain = tried
    assert (network.compiled, victim.compiled) == (step.model, step.twin)
    assert plain == (step.network, step.victim) == (step.model, step.twin)


class Compiled(torch.nn.Module):
    """What torch.compile would give, which is never called here."""

    def __init__(self, network):
        super().__init__()
        self.compiled = network


class Recorded:
    """A graph as CUDA has it: the tensors that a step read and wrote when it was captured."""

    def __init__(self, step, images, labels, noise, epoch):
        self.images, self.labels, self.noise = images.clone(), labels.clone(), noise.clone()
        self.graph, self.loss = self, torch.zeros(())
        self._step, self._epoch, self._lr = step, epoch, step.optimizer.param_groups[0]["lr"]

    def replay(self):
        self._step.optimizer.param_groups[0]["lr"] = self._lr
        static = self.images, self.labels, self.noise
        self.loss.copy_(TrainingStep.update(self._step, *static, self._epoch))


def test_a_replayed_step_sees_its_own_batch_and_learning_rate(
    make_step, batch, monkeypatch, device
):
    recipe, frame = make_step("pgd_at").recipe, make_step("pgd_at").frame
    plain = TrainingStep(make_step("pgd_at").model, recipe, frame, device)
    step = fastest_step(make_step("pgd_at").model, recipe, frame, device, 1)
    monkeypatch.setattr(step, "_capture", lambda *args: Recorded(step, *args))
    losses = []
    for number, lr in enumerate((0.1, 0.1, 0.01, 0.01)):
        generator = torch.Generator().manual_seed(number)
        noise = recipe.attack.initial_noise(batch.images, generator)
        order = torch.randperm(len(batch.labels), generator=generator)
        images, labels = batch.images[order] * (1 - 0.1 * number), batch.labels[order]
        size = 5 if number == 3 else len(labels)  # the last batch of an epoch is no full one
        inputs = images[:size], labels[:size], noise[:size]
        losses.append([s(*inputs, epoch=0, lr=lr) for s in (step, plain)])
    assert all(torch.equal(*pair) for pair in losses)  # the first too, after the others
    assert_same(step, plain)


class Streams:
    """In place of CUDA's streams and captures; every capture fails, as torch 2.11's do."""

    def __init__(self, monkeypatch):
        self.current, self.side, self.capturing = (self.stream(n) for n in ("own", "side", "graph"))
        self.own, self.waits = self.current, []
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: self.side)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "graph", self.capture)

    def stream(self, name):
        waits = lambda other: self.waits.append((name, other.name))  # noqa: E731
        return SimpleNamespace(name=name, wait_stream=waits)

    @contextlib.contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, _):
        self.current = self.capturing
        yield
        raise RuntimeError("no capture")  # and nobody leaves the stream


@pytest.mark.parametrize("steps", [1, 5])
def test_a_capture_that_fails_leaves_no_stream_behind(model, one_step, monkeypatch, steps, device):
    """In the second step of the warm-up, or after it."""
    streams, taken, said = Streams(monkeypatch), [], []
    honest = TrainingStep.update

    def update(*batch):
        taken.append(streams.current)
        if len(taken) == steps + 1:
            raise RuntimeError("no warm-up")
        return honest(*batch)

    monkeypatch.setattr(TrainingStep, "update", update)
    plan = resolve("pgd_at", preset="smoke")
    one_step(fastest_step(model, plan.recipe, plan.frame, device, 1, notice=said.append))
    assert len(said) == 1
    assert streams.waits == [("side", "own"), ("own", "side")]
    assert streams.current is taken[-1] is streams.own


class Replayed:
    """As a captured graph that has nothing to do."""

    def __init__(self, images, labels, noise):
        self.images, self.labels, self.noise = images.clone(), labels.clone(), noise.clone()
        self.graph, self.loss = self, torch.zeros(())

    def replay(self):
        pass


@pytest.mark.parametrize(("name", "captures"), [("at_swa", 1), ("pgd_at+ema", 1), ("at_fr_swa", 2)])
def test_an_average_that_starts_captures_nothing_anew(
    name, captures, model, one_step, monkeypatch, device
):
    """Of the smoke preset, in which SWA and FR start with epoch 2."""
    plan = resolve(name, preset="smoke")
    step = fastest_step(model, plan.recipe, plan.frame, device, 1)
    taken = []

    def capture(images, labels, noise, epoch):
        assert not step._graphs, "the graph of the phase before keeps its memory"
        taken.append(epoch)
        return Replayed(images, labels, noise)

    monkeypatch.setattr(step, "_capture", capture)
    for epoch in range(4):
        for seed in range(2):
            one_step(step, epoch=epoch, seed=seed)
    assert taken == [0, 2][:captures]
    assert len(step._graphs) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [1, WORTH_COMPILING], ids=["captured", "compiled"])
@pytest.mark.parametrize("name", ["pgd_at", "trades", "mart", "awp", "at_fr"])
def test_steps_on_cuda_train_as_plain_ones(name, steps, make_step, batch):
    """Four steps of other batches and learning rates, in float32, to its rounding."""
    plan, device = resolve(name, preset="smoke"), find_device("cuda", "fp32")
    device.prepare()
    own, plain = (
        make(device.place(make_step(name).model), plan.recipe, plan.frame, device)
        for make in (partial(fastest_step, steps=steps, notice=pytest.fail), TrainingStep)
    )
    before = {name: tensor.clone() for name, tensor in own.model.state_dict().items()}
    for number, lr in enumerate((0.1, 0.1, 0.01, 0.01)):
        order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(number))
        images, labels = batch.images[order].cuda(), batch.labels[order].cuda()
        generator = torch.Generator("cuda").manual_seed(number)
        noise = plan.recipe.attack.initial_noise(images, generator)
        losses = [step(images, labels, noise, epoch=99, lr=lr).item() for step in (own, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert own._graphs and None not in own._graphs.values()
    after, wanted = own.model.state_dict(), plain.model.state_dict()
    for name, tensor in wanted.items():
        moved = (tensor - before[name]).float().norm()
        assert moved > 0
        assert (after[name] - tensor).float().norm() <= 0.01 * moved, name
