"""Weight perturbation: on the tensors it names, as large as it says, gone without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from frbench.engine import AdversarialWeightPerturbation
from frbench.engine.mechanisms.awp import perturbed_weights
from frbench.models import build_model

GAMMA = 0.01


@pytest.mark.parametrize(
    ("architecture", "tensors", "numbers"),
    [("wrn-34-10", 35, 46_138_032), ("preactresnet18", 21, 11_164_352)],
)
def test_exactly_convolutions_and_the_linear_layer_are_perturbed(architecture, tensors, numbers):
    with torch.device("meta"):
        weights = perturbed_weights(build_model(architecture, classes=10))
    assert (len(weights), sum(w.numel() for w in weights)) == (tensors, numbers)


@pytest.fixture
def loss(model, batch):
    return lambda: F.cross_entropy(model(batch.images), batch.labels)


def inside(model, loss, gamma=GAMMA, weight_decay=0.0):
    """State before, state while perturbed (with the loss there), state after."""
    before = copy.deepcopy(model.state_dict())
    with AdversarialWeightPerturbation(gamma=gamma).perturbed(model, loss, weight_decay):
        during = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            worse = loss().item()
    return before, during, worse


def test_each_tensor_moves_by_gamma_of_its_norm_along_its_gradient(model, loss):
    gradients = {n: torch.autograd.grad(loss(), p)[0] for n, p in model.named_parameters()}
    before, during, _ = inside(model, loss)
    chosen = [n for n, p in model.named_parameters() if p.dim() > 1]
    assert len(chosen) == 7
    for name in chosen:
        step = during[name] - before[name]
        assert (step.norm() / before[name].norm()).item() == pytest.approx(GAMMA, rel=1e-3)
        # Differences of float32 weights are coarse; the step itself is exact to 1e-5.
        assert F.cosine_similarity(step.flatten(), gradients[name].flatten(), dim=0) > 0.99999


def test_relative_length_is_exact_in_float64(model, batch):
    model.double()
    before, during, _ = inside(
        model, lambda: F.cross_entropy(model(batch.images.double()), batch.labels)
    )
    for name in (n for n, p in model.named_parameters() if p.dim() > 1):
        length = (during[name] - before[name]).norm() / before[name].norm()
        assert length.item() == pytest.approx(GAMMA, abs=1e-5 * GAMMA)


def test_batchnorm_and_biases_stay_and_buffers_do_not_see_the_search(model, loss):
    before, during, _ = inside(model, loss)
    named = dict(model.named_parameters())
    still = [n for n in before if n not in named or named[n].dim() == 1]
    assert len(still) > 10
    assert all(torch.equal(during[n], before[n]) for n in still)


def test_weights_come_back_bit_for_bit_even_after_an_error(model, loss):
    before, _, _ = inside(model, loss)
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[n], before[n]) for n in weights)
    with (
        pytest.raises(RuntimeError),
        AdversarialWeightPerturbation().perturbed(model, loss, 0.0),
    ):
        raise RuntimeError
    assert all(torch.equal(weights[n], before[n]) for n in weights)


def test_a_step_of_no_length_leaves_the_weights_bit_identical(make_step, one_step):
    step = make_step("awp")
    before = copy.deepcopy(dict(step.model.named_parameters()))
    one_step(step, lr=0.0)
    assert all(torch.equal(p, before[n]) for n, p in step.model.named_parameters())


def test_loss_rises(model, loss):
    with torch.no_grad():
        clean = loss().item()
    assert inside(model, loss)[2] > clean + 1e-3


def test_scaling_the_loss_changes_nothing(model, loss):
    _, once, _ = inside(model, loss)
    _, scaled, _ = inside(model, lambda: 8 * loss())
    for name in (n for n, p in model.named_parameters() if p.dim() > 1):
        torch.testing.assert_close(once[name], scaled[name])


def test_no_radius_is_pgd_at_bit_for_bit(make_step, one_step):
    plain, perturbed = make_step("pgd_at"), make_step("awp", awp__gamma=0)
    for seed in (0, 1):
        assert torch.equal(one_step(plain, seed=seed), one_step(perturbed, seed=seed))
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, perturbed.model.state_dict()[name]), name
    assert all(torch.equal(m, perturbed.momentum[n]) for n, m in plain.momentum.items())


def test_it_waits_for_its_first_epoch(make_step, one_step):
    plain, late = make_step("pgd_at"), make_step("awp", awp__start_epoch=3)
    one_step(plain, epoch=2), one_step(late, epoch=2)
    assert all(torch.equal(m, late.momentum[n]) for n, m in plain.momentum.items())
    one_step(plain, epoch=3), one_step(late, epoch=3)
    assert not all(torch.equal(m, late.momentum[n]) for n, m in plain.momentum.items())


def authors_step(model, adversarial, labels, optimizer, loss_at):
    """The authors' order: a proxy finds v, the optimizer steps at w + v, v is subtracted."""
    proxy = copy.deepcopy(model)
    proxy_optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss_at(proxy)).backward()
    proxy_optimizer.step()
    steps = {}
    for (name, weight), other in zip(model.named_parameters(), proxy.parameters(), strict=True):
        if weight.dim() > 1:
            toward = (other - weight).detach()
            steps[name] = GAMMA * weight.detach().norm() / (toward.norm() + 1e-20) * toward
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, step in steps.items():
            named[name].add_(step)
    optimizer.zero_grad()
    loss_at(model).backward()
    optimizer.step()
    with torch.no_grad():
        for name, step in steps.items():
            named[name].sub_(step)


@pytest.mark.parametrize("defense", ["awp", "trades+awp"])
def test_equals_the_authors_order_of_proxy_step_and_restore(
    defense, model, batch, make_step, one_step
):
    """In float64; only the float32 logits of the loss round. Three steps, so momentum matters."""
    ours = make_step(defense, network=model.double(), weight_decay=0.05)
    theirs = copy.deepcopy(ours.model)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    batch.images, single = batch.images.double(), batch.images
    try:
        for seed in range(3):
            noise = ours.recipe.attack.initial_noise(
                batch.images, torch.Generator().manual_seed(seed)
            )
            adversarial = ours.attack(batch.images, batch.labels, noise)

            def loss_at(network, adversarial=adversarial):
                def trained(images):
                    return network(images).float()

                if defense == "awp":
                    return F.cross_entropy(trained(adversarial), batch.labels)
                clean, perturbed = trained(batch.images), trained(adversarial)
                divergence = F.kl_div(
                    perturbed.log_softmax(1), clean.softmax(1), reduction="batchmean"
                )
                return F.cross_entropy(clean, batch.labels) + 6 * divergence

            authors_step(theirs, adversarial, batch.labels, optimizer, loss_at)
            one_step(ours, seed=seed)
            for name, tensor in ours.model.state_dict().items():
                torch.testing.assert_close(
                    tensor, theirs.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name
                )
    finally:
        batch.images = single
