"""SWA and EMA are the averages that they claim to be, and leave the trained model alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frbench.engine import ExponentialMovingAverage, StochasticWeightAveraging
from frbench.engine.mechanisms.averages import (
    averaged_tensors,
    empty_state,
    reestimate_batchnorm,
    updates,
)
from frbench.engine.plan import resolve


@pytest.fixture
def batches(batch):
    """Three batches of 13, 13 and 6 images: the last weighs less."""
    return list(batch.images.split(13))


def jump(model, seed):
    """Give the model other weights, as an epoch of training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def average_over(model, swa, epochs, batches):
    state, seen = empty_state(model), []
    for epoch in range(epochs):
        jump(model, epoch)
        seen.append({n: p.detach().double().clone() for n, p in model.named_parameters()})
        if swa.active(epoch):
            swa.after_step(state, model)
            swa.after_epoch(state, model, epoch, lambda: iter(batches))
    return state, seen


def test_swa_is_the_arithmetic_mean_of_the_chosen_epochs(model, batches):
    swa = StochasticWeightAveraging(start_epoch=2, cycle=2)
    state, seen = average_over(model, swa, 7, batches)
    chosen = [seen[e] for e in (2, 4, 6)]
    assert updates(state) == 3
    for name in chosen[0]:
        mean = torch.stack([weights[name] for weights in chosen]).mean(0)
        torch.testing.assert_close(state[name].double(), mean, rtol=0, atol=1e-6)


def test_swa_of_one_model_is_that_model(model, batches):
    state, seen = average_over(model, StochasticWeightAveraging(start_epoch=0), 1, batches)
    assert all(torch.equal(state[n].double(), w) for n, w in seen[0].items())


def test_swa_from_epoch_75_of_100_averages_25_models(model, batches):
    swa = StochasticWeightAveraging()
    state = empty_state(model)
    for epoch in filter(swa.active, range(100)):
        swa.after_epoch(state, model, epoch, lambda: iter(batches[:1]))
    assert updates(state) == 25


def test_swa_leaves_the_trained_model_bit_identical(model, batches):
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = empty_state(model)
    StochasticWeightAveraging(start_epoch=0).after_epoch(state, model, 0, lambda: iter(batches))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training


def test_swa_buffers_are_estimated_anew_and_not_copied(model, batches):
    swa = StochasticWeightAveraging(start_epoch=0)
    state, _ = average_over(model, swa, 2, batches)
    averaged = copy.deepcopy(model)
    averaged.load_state_dict(averaged_tensors(state))
    copied = copy.deepcopy(averaged)
    for (name, buffer), (_, latest) in zip(
        copied.named_buffers(), model.named_buffers(), strict=True
    ):
        assert "running" not in name or not torch.equal(buffer, latest)
        buffer.copy_(latest)
    images = batches[0]
    with torch.no_grad():
        assert (averaged.eval()(images) - copied.eval()(images)).abs().max() > 1e-3


def test_swa_can_average_the_statistics_of_the_training_instead(model, batches):
    swa = StochasticWeightAveraging(start_epoch=0, batchnorm="average")
    state, seen = empty_state(model), []
    for epoch, images in enumerate(batches):
        jump(model, epoch)
        model.train()(images)
        seen.append({n: t.double().clone() for n, t in model.state_dict().items()})
        swa.after_epoch(state, model, epoch, lambda: pytest.fail("no images are needed"))
    for name, tensor in averaged_tensors(state).items():
        expected = torch.stack([tensors[name] for tensors in seen]).mean(0)
        if "num_batches" in name:
            expected = seen[-1][name]
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)


def test_runs_from_before_swa_had_a_choice_of_statistics_keep_their_names():
    assert StochasticWeightAveraging().model_dump() == {"start_epoch": 75, "cycle": 1}
    plain, other = (
        resolve("at_swa", preset="smoke", overrides=overrides)
        for overrides in ({"swa.batchnorm": "clean"}, {"swa.batchnorm": "average"})
    )
    assert plain.name == resolve("at_swa", preset="smoke").name != other.name
    assert plain.trajectory == other.trajectory


def test_statistics_are_sample_weighted_means_of_batch_means_and_unbiased_variances(model, batches):
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs = [[] for _ in norms]
    hooks = [
        norm.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0].detach()))
        for norm, into in zip(norms, inputs, strict=True)
    ]
    reestimate_batchnorm(model, batches)
    for hook in hooks:
        hook.remove()
    weights = torch.tensor([len(b) for b in batches], dtype=torch.float64)
    weights /= weights.sum()
    for norm, seen in zip(norms, inputs, strict=True):
        assert len(seen) == 3
        for running, statistic in (
            (norm.running_mean, lambda x: x.double().mean((0, 2, 3))),
            (norm.running_var, lambda x: x.double().transpose(0, 1).flatten(1).var(1)),
        ):
            expected = sum(w * statistic(x) for w, x in zip(weights, seen, strict=True))
            torch.testing.assert_close(running.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_second_pass_gives_the_same_statistics_and_momentum_is_back(model, batches):
    reestimate_batchnorm(model, batches)
    first = [b.clone() for b in model.buffers()]
    reestimate_batchnorm(model, batches)
    assert all(torch.equal(a, b) for a, b in zip(first, model.buffers(), strict=True))
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("decay", [0.5, 0.95])
def test_ema_is_its_closed_form(model, decay):
    """Each snapshot weighs (1 - d_t) times the product of all later decays."""
    ema, state, seen = ExponentialMovingAverage(decay=decay), empty_state(model), []
    start = {n: t.double().clone() for n, t in model.state_dict().items()}
    for step in range(6):
        jump(model, step)
        seen.append({n: t.double().clone() for n, t in model.state_dict().items()})
        ema.after_step(state, model)
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(6)]
    for name, _ in model.named_parameters():
        rest, total = 1.0, torch.zeros_like(start[name])
        for d, weights in zip(reversed(decays), reversed(seen), strict=True):
            total += rest * (1 - d) * weights[name]
            rest *= d
        torch.testing.assert_close(state[name].double(), total + rest * start[name])
    assert updates(state) == 6


@pytest.mark.parametrize("policy", ["average", "copy"])
def test_ema_follows_its_batchnorm_policy(model, batches, policy):
    ema, state = ExponentialMovingAverage(decay=0.5, batchnorm=policy), empty_state(model)
    for images in batches:
        model.train()(images)
        ema.after_step(state, model)
    copied = [
        torch.equal(state[name], buffer)
        for name, buffer in model.named_buffers()
        if "running" in name
    ]
    assert all(copied) if policy == "copy" else not any(copied)
    assert int(state["net.bn.num_batches_tracked"]) == 3
