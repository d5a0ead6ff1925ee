"""The inner attack stays where it must, touches nothing else, and climbs the right loss."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frbench.engine import InnerAttack
from frbench.engine.inner import attacking

KINDS = [("uniform", "ce"), ("gaussian", "ce"), ("gaussian", "kl")]


def attack(start="uniform", maximize="ce", **settings):
    return InnerAttack(start=start, maximize=maximize, **settings)


def noise_for(inner, images, seed=0):
    return inner.initial_noise(images, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("start", "maximize"), KINDS)
def test_images_stay_in_the_ball_and_in_the_box(model, batch, start, maximize):
    inner = attack(start, maximize)
    adversarial = inner.perturb(model, batch.images, batch.labels, noise_for(inner, batch.images))
    assert (adversarial - batch.images).abs().max() <= 8 / 255 + 1e-7
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert not adversarial.requires_grad
    assert not torch.equal(adversarial, batch.images)


@pytest.mark.parametrize(("start", "maximize"), KINDS)
def test_model_is_left_as_it_was(model, batch, start, maximize):
    before = copy.deepcopy(model.state_dict())
    inner = attack(start, maximize)
    inner.perturb(model, batch.images, batch.labels, noise_for(inner, batch.images))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training


@pytest.mark.parametrize(("maximize", "forwards"), [("ce", 3), ("kl", 4)])
def test_train_mode_attack_moves_batchnorm_as_declared(model, batch, maximize, forwards):
    inner = attack("gaussian", maximize, batchnorm="train", steps=3)
    inner.perturb(model, batch.images, batch.labels, noise_for(inner, batch.images))
    assert int(model.net.bn.num_batches_tracked) == forwards == inner.batchnorm_forwards()


def test_mode_and_frozen_parameters_come_back_after_an_error(model):
    model.net.stem.weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match="in the attack"), attacking(model, "eval"):
        assert not model.training
        raise RuntimeError("in the attack")
    assert model.training
    assert not model.net.stem.weight.requires_grad  # was frozen before
    assert model.net.linear.weight.requires_grad


@pytest.mark.parametrize("seed", range(3))
def test_two_class_linear_model_is_driven_to_the_fgsm_vertex(seed):
    generator = torch.Generator().manual_seed(seed)
    eps = 8 / 255
    images = eps + (1 - 2 * eps) * torch.rand(16, 1, 4, 4, generator=generator)
    labels = torch.randint(0, 2, (16,), generator=generator)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    inner = attack()
    adversarial = inner.perturb(linear, images, labels, noise_for(inner, images, seed))
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(linear(images), labels), images)
    vertex = (images + eps * gradient.sign()).detach()
    torch.testing.assert_close(adversarial, vertex, rtol=0, atol=1e-6)


def plain_pgd(model, images, labels, noise, inner):
    """The same attack written down a second time, on perturbations and with mean losses."""
    model.eval()
    delta = noise.clone()
    if inner.start == "uniform":
        delta = torch.min(torch.max(delta, -images), 1 - images)
    with torch.no_grad():
        clean = model(images).log_softmax(dim=1)
    for _ in range(inner.steps):
        delta.requires_grad_(True)
        log_probabilities = model(images + delta).log_softmax(dim=1)
        if inner.maximize == "ce":
            loss = -log_probabilities.gather(1, labels[:, None]).mean()
        else:
            loss = (clean.exp() * (clean - log_probabilities)).sum(dim=1).mean()
        gradient = torch.autograd.grad(loss, delta)[0]
        delta = (delta.detach() + inner.step_size * gradient.sign()).clamp(-inner.eps, inner.eps)
        delta = torch.min(torch.max(delta, -images), 1 - images)
    model.train()
    return images + delta


class InDouble(nn.Module):
    """Hides from `.float()` in the attack that the network computes in float64."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()

    def forward(self, images):
        return self.model(images.double())


@pytest.mark.parametrize(("start", "maximize"), KINDS)
def test_equals_an_independent_implementation_in_float64(model, batch, start, maximize):
    inner = attack(start, maximize)
    images = batch.images.double()
    noise = noise_for(inner, images)
    double = InDouble(model)
    ours = inner.perturb(double, images, batch.labels, noise)
    theirs = plain_pgd(double, images, batch.labels, noise, inner)
    # Where a gradient is zero up to rounding its sign may differ: there are hardly any such pixels.
    differing = ((ours - theirs).abs() > 1e-9).double().mean()
    assert differing < 2e-3


def test_the_given_labels_are_attacked_not_the_predicted_ones(model, batch):
    inner = attack()
    noise = noise_for(inner, batch.images)
    model.eval()
    predicted = model(batch.images).argmax(dim=1)
    wrong = predicted != batch.labels
    assert wrong.sum() > 5
    true = inner.perturb(model, batch.images, batch.labels, noise)
    other = inner.perturb(model, batch.images, predicted, noise)
    moved = (true - other).flatten(1).abs().amax(dim=1) > 0
    assert torch.equal(moved, wrong)


def test_cross_entropy_rises_and_so_does_the_divergence(model, batch):
    model.eval()
    clean = model(batch.images)
    for maximize, distance in (
        ("ce", lambda z: F.cross_entropy(z, batch.labels)),
        ("kl", lambda z: F.kl_div(z.log_softmax(1), clean.softmax(1), reduction="batchmean")),
    ):
        inner = attack("gaussian", maximize)
        noise = noise_for(inner, batch.images)
        adversarial = inner.perturb(model, batch.images, batch.labels, noise)
        assert distance(model(adversarial)) > distance(model(batch.images + noise)) + 1e-4


def test_kl_needs_a_start_beside_the_image(model, batch):
    """At x itself the divergence is flat: its gradient is rounding noise."""
    model.eval()
    clean = model(batch.images).detach()

    def gradient(maximize, offset):
        images = (batch.images + offset).requires_grad_(True)
        target = clean.softmax(dim=1) if maximize == "kl" else None
        loss = attack(maximize=maximize).ascended(model(images), batch.labels, target)
        return torch.autograd.grad(loss, images)[0].abs().mean()

    noise = noise_for(attack("gaussian"), batch.images)
    assert gradient("kl", 0) < 1e-3 * gradient("kl", noise)
    assert gradient("kl", 0) < 1e-4 * gradient("ce", 0)


def test_starts_have_the_declared_distribution(batch):
    images = batch.images.expand(64, 32, 1, 8, 8).reshape(-1, 1, 8, 8)
    uniform = noise_for(attack("uniform"), images)
    assert uniform.abs().max() <= 8 / 255
    assert uniform.std().item() == pytest.approx(8 / 255 / 3**0.5, rel=0.02)
    gaussian = noise_for(attack("gaussian"), images)
    assert gaussian.std().item() == pytest.approx(0.001, rel=0.02)


def test_no_radius_gives_the_images_back(model, batch):
    inner = attack(eps=0)
    adversarial = inner.perturb(model, batch.images, batch.labels, noise_for(inner, batch.images))
    assert torch.equal(adversarial, batch.images)
