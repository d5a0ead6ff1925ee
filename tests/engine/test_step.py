"""One training step: which forwards it makes, in which order, and what composes with what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from frbench.engine.device import find_device
from frbench.engine.step import TrainingStep
from frbench.models.casting import Precast
from frbench.models.folding import Folded


def counter(step):
    return int(step.model.net.bn.num_batches_tracked)


def parameters(step):
    return {n: p.detach().clone() for n, p in step.model.named_parameters()}


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize(
    ("defense", "protocol", "forwards"),
    [
        ("pgd_at", "common", 1),
        ("at_swa", "common", 1),
        ("trades", "common", 2),
        ("mart", "common", 2),
        ("at_fr", "common", 2),
        ("at_fr_swa", "common", 2),
        ("awp", "common", 1),
        ("trades+awp+ema", "common", 2),
        ("mart+fr", "common", 2),
        ("pgd_at", "original", 13),
        ("awp", "original", 13),
        ("trades", "original", 3),
        ("mart", "original", 2),
        ("at_swa", "original", 1),
    ],
)
def test_train_mode_forwards_of_one_step(make_step, one_step, defense, protocol, forwards):
    step = make_step(defense, protocol, attack__steps=10)
    one_step(step)
    assert counter(step) == forwards


def test_fr_adds_its_clean_forward_only_once_it_has_started(make_step, one_step):
    step = make_step("at_fr", fr__start_epoch=2)
    one_step(step, epoch=1)
    assert counter(step) == 1
    one_step(step, epoch=2)
    assert counter(step) == 3


def seen_by_batchnorm(step, one_step):
    """Mean pixel of each train-mode batch, in order: tells clean from adversarial images."""
    seen = []
    hook = step.model.net.stem.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach().clone()) if step.model.training else None
    )
    one_step(step)
    hook.remove()
    return seen


@pytest.mark.parametrize(
    ("defense", "protocol", "order"),
    [
        ("pgd_at", "common", "a"),
        ("trades", "common", "ca"),
        ("trades", "original", "cac"),
        ("mart", "common", "ca"),
        ("at_fr", "common", "ac"),
    ],
)
def test_order_of_clean_and_adversarial_forwards(
    make_step, one_step, batch, defense, protocol, order
):
    step = make_step(defense, protocol)
    seen = seen_by_batchnorm(step, one_step)
    names = ["c" if torch.equal(images, batch.images) else "a" for images in seen]
    assert "".join(names) == order


def test_trades_forwards_both_branches_even_where_one_weighs_nothing(make_step, one_step):
    step = make_step("trades", "original", beta=0)
    one_step(step)
    assert counter(step) == 3


def test_rice_moves_statistics_by_clean_images_after_the_update(make_step, one_step, batch):
    step = make_step("pgd_at", "original")
    seen = seen_by_batchnorm(step, one_step)
    assert torch.equal(seen[-1], batch.images)
    assert torch.equal(seen[-2], seen[-3])  # trained on, and the forward after the last attack step
    assert not torch.equal(seen[-2], batch.images)


def test_fr_without_weight_is_pgd_at_but_for_its_batchnorm(make_step, one_step):
    plain, fr = make_step("pgd_at"), make_step("at_fr", fr__weight=0)
    one_step(plain), one_step(fr)
    assert same(parameters(plain), parameters(fr))
    assert same(plain.momentum, fr.momentum)
    assert (counter(plain), counter(fr)) == (1, 2)


def test_trades_without_beta_is_clean_training_bit_for_bit(make_step, one_step, batch, model):
    step = make_step("trades", beta=0)
    one_step(step, lr=0.1)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True
    )
    F.cross_entropy(model(batch.images), batch.labels).backward()
    optimizer.step()
    expected = {n: p.detach() for n, p in model.named_parameters()}
    assert same(parameters(step), expected)


def test_no_radius_trains_on_clean_images(make_step, one_step, batch, model):
    step = make_step("pgd_at", attack__eps=0)
    loss = one_step(step)
    clean = F.cross_entropy(model(batch.images), batch.labels)
    assert loss.item() == pytest.approx(clean.item(), rel=1e-6)


def test_labels_decide_the_step(make_step, one_step, batch):
    true, other = make_step("pgd_at"), make_step("pgd_at")
    one_step(true), one_step(other, labels=(batch.labels + 1) % 10)
    assert not same(parameters(true), parameters(other))


def test_gradients_of_the_attack_never_reach_the_update(make_step, one_step, batch):
    """Old gradients, as an attack that calls backward would leave, are cleared in time."""
    clean, dirty = make_step("pgd_at"), make_step("pgd_at")
    for parameter in dirty.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    one_step(clean), one_step(dirty)
    assert same(parameters(clean), parameters(dirty))


@pytest.mark.parametrize("average", ["swa", "ema"])
def test_an_average_does_not_touch_the_step(make_step, one_step, average):
    plain, averaged = make_step("pgd_at"), make_step(f"pgd_at+{average}")
    one_step(plain), one_step(averaged)
    assert same(parameters(plain), parameters(averaged))


def test_momentum_and_weight_decay_are_those_of_sgd(make_step, one_step, model, batch):
    step = make_step("pgd_at", attack__eps=0, weight_decay=0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for seed in range(3):
        one_step(step, seed=seed)
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameters(step)[name], parameter.detach())


@pytest.mark.parametrize("name", ["pgd_at", "trades", "trades+awp+ema"])
def test_weights_cast_once_for_an_attack_train_as_those_cast_at_every_pass(
    name, make_step, one_step, pretender
):
    """On CUDA in bf16, here on a CPU that says it is CUDA."""
    steps = make_step(name), make_step(name)
    device = pretender("bf16")
    cast, plain = (TrainingStep(s.model, s.recipe, s.frame, device) for s in steps)
    assert isinstance(cast.twin, Precast)
    plain.twin, plain.victim = None, plain.model
    for seed in range(3):
        assert torch.equal(one_step(cast, seed=seed), one_step(plain, seed=seed))
    assert same(parameters(cast), parameters(plain))


@pytest.mark.parametrize(
    ("cuda", "precision", "protocol", "twin"),
    [
        (False, "fp32", "common", Folded),
        (False, "bf16", "common", Folded),
        (True, "bf16", "common", Precast),
        (True, "fp32", "common", type(None)),
        (False, "fp32", "original", type(None)),
        (True, "bf16", "original", type(None)),
    ],
)
def test_attacks_in_eval_mode_run_on_a_twin(make_step, pretender, cuda, precision, protocol, twin):
    """PGD-AT's authors attack in train mode, which moves the model's own statistics."""
    device = pretender(precision) if cuda else find_device("cpu", precision)
    step = make_step("pgd_at", protocol)
    assert type(TrainingStep(step.model, step.recipe, step.frame, device).twin) is twin
