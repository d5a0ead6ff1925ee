"""The losses of the seven recipes have the values and gradients that their papers give them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from frbench.engine.plan import resolve

TIGHT = {"rel": 0, "abs": 5e-10}


def recipe(name, **overrides):
    text = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return resolve(name, preset="paper", overrides=text).recipe


def gradients(loss, table):
    return torch.autograd.grad(loss, [table.clean_logits, table.adversarial_logits])


@pytest.mark.parametrize(
    ("name", "overrides", "value"),
    [
        ("pgd_at", {}, 0.8852298004),
        ("at_swa", {}, 0.8852298004),
        ("awp", {}, 0.8852298004),
        ("trades", {"beta": 0}, 0.3027679858),
        ("trades", {"beta": 1}, 0.5144558324),
        ("trades", {}, 1.5728950658),
        ("mart", {"beta": 0}, 1.4297844999),
        ("mart", {"beta": 5}, 1.7431503253),
        ("mart", {}, 1.8058234904),
        ("at_fr", {}, 1.0033316351),
        ("at_fr_swa", {}, 1.0033316351),
        ("at_fr", {"fr__axes": "class"}, 1.2506998543),
        ("at_fr", {"fr__weight": 0}, 0.8852298004),
    ],
)
def test_loss_on_the_reference_logits(name, overrides, value, table):
    loss = recipe(name, **overrides).loss(table, epoch=99)
    assert loss.item() == pytest.approx(value, **TIGHT)


def test_mart_terms_on_the_reference_logits(table):
    plain, weighted = (recipe("mart", beta=b).loss(table, epoch=0) for b in (0, 1))
    margin = plain - F.cross_entropy(table.adversarial_logits, table.labels)
    assert margin.item() == pytest.approx(0.5445546995, **TIGHT)
    assert (weighted - plain).item() == pytest.approx(0.0626731651, **TIGHT)


def test_mart_keeps_the_constants_of_its_authors(table):
    """They move the loss by 2e-4, so the formula without them tells whether they are there."""
    p, q = table.clean_logits.softmax(1), table.adversarial_logits.softmax(1)
    label = table.labels[:, None]
    wrong = q.scatter(1, label, -1)
    assert wrong.argmax(1).tolist() == [1, 0, 1]
    boosted = (
        F.cross_entropy(table.adversarial_logits, table.labels) - (1 - wrong.amax(1)).log().mean()
    )
    weighted = ((1 - p.gather(1, label)[:, 0]) * (p * (p / q).log()).sum(1)).mean()
    assert boosted.item() == pytest.approx(1.4299634443, **TIGHT)
    assert weighted.item() == pytest.approx(0.0626731439, **TIGHT)
    ours = [recipe("mart", beta=b).loss(table, epoch=0).item() for b in (0, 1)]
    assert boosted.item() - ours[0] > 1e-4
    assert ours[1] - ours[0] - weighted.item() > 1e-8


# --- TRADES ---------------------------------------------------------------------------------------


def test_trades_gradients_are_the_closed_forms_on_both_branches(table):
    beta = 6.0
    total = recipe("trades", beta=beta).loss(table, epoch=0)
    clean_gradient, adversarial_gradient = gradients(total, table)
    p, q = table.clean_logits.softmax(1), table.adversarial_logits.softmax(1)
    log_ratio = p.log() - q.log()
    divergence = (p * log_ratio).sum(1, keepdim=True)
    torch.testing.assert_close(adversarial_gradient, beta * (q - p) / 3)
    of_ce = (p - F.one_hot(table.labels, 3)) / 3
    of_kl = p * (log_ratio - divergence) / 3
    torch.testing.assert_close(clean_gradient, of_ce + beta * of_kl)
    assert of_kl.norm().item() == pytest.approx(0.2049, abs=5e-5)  # a detached target has none


def test_trades_divergence_goes_from_clean_to_adversarial(table):
    forward = recipe("trades", beta=1).loss(table, epoch=0).item()
    table.clean_logits, table.adversarial_logits = table.adversarial_logits, table.clean_logits
    backward = recipe("trades", beta=1).loss(table, epoch=0)
    swapped = backward - F.cross_entropy(table.clean_logits, table.labels)
    assert forward - 0.3027679858 == pytest.approx(0.2116878467, abs=1e-9)
    assert abs(swapped.item() - 0.2116878467) > 1e-3


def test_trades_without_its_second_term_is_clean_cross_entropy_bit_for_bit(table):
    clean = F.cross_entropy(table.clean_logits, table.labels)
    loss = recipe("trades", beta=0).loss(table, epoch=0)
    of_clean, of_adversarial = gradients(loss, table)
    assert loss.item() == clean.item()
    assert torch.equal(of_clean, torch.autograd.grad(clean, table.clean_logits)[0])
    assert not of_adversarial.any()


# --- MART -----------------------------------------------------------------------------------------


def test_mart_without_its_second_term_and_perturbation_is_ce_and_a_margin(table):
    table.adversarial_logits = table.clean_logits
    p = table.clean_logits.softmax(1)
    wrong = torch.stack([p[i, p[i] != p[i, y]].max() for i, y in enumerate(table.labels)])
    expected = F.cross_entropy(table.clean_logits, table.labels) - torch.log(1.0001 - wrong).mean()
    value = recipe("mart", beta=0).loss(table, epoch=0)
    assert value.item() == pytest.approx(expected.item(), abs=1e-9)


def test_mart_bounds_the_margin_of_a_saturated_wrong_prediction(table):
    table.adversarial_logits = torch.tensor([[0.0, 60.0, 0.0]] * 3, dtype=torch.float64)
    table.labels = torch.tensor([0, 2, 0])
    loss = recipe("mart", beta=0).loss(table, epoch=0)
    margin = loss - F.cross_entropy(table.adversarial_logits, table.labels)
    assert margin.item() == pytest.approx(9.2103, abs=1e-3)


def test_mart_weight_carries_gradient_to_the_clean_branch(table):
    loss = recipe("mart", beta=1).loss(table, epoch=0)
    with_weight = torch.autograd.grad(loss, table.clean_logits)[0]
    p, q = table.clean_logits.softmax(1), table.adversarial_logits.softmax(1)
    weight = (1.0000001 - p.gather(1, table.labels[:, None])[:, 0]).detach()
    frozen = (weight * (p * (p.log() - (q + 1e-12).log())).sum(1)).mean()
    without = torch.autograd.grad(frozen, table.clean_logits)[0]
    assert (with_weight - without).norm() > 1e-2


def test_mart_has_no_clean_cross_entropy(table):
    """Clean logits move the weighted divergence alone, which vanishes with beta."""
    before = recipe("mart", beta=0).loss(table, epoch=0).item()
    table.clean_logits = table.clean_logits * 3
    assert recipe("mart", beta=0).loss(table, epoch=0).item() == before
    assert recipe("mart", beta=6).loss(table, epoch=0).item() != before


# --- composition ----------------------------------------------------------------------------------


def test_fr_adds_its_penalty_to_any_loss_once_it_has_started(table):
    penalty = 0.1 * 1.1810183472
    composed = recipe("mart+fr", fr__start_epoch=5)
    assert composed.loss(table, epoch=4).item() == pytest.approx(1.8058234904, **TIGHT)
    assert composed.loss(table, epoch=5).item() == pytest.approx(1.8058234904 + penalty, **TIGHT)
