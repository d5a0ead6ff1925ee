"""The loss of score has the value worked out by hand; test_conformance.py checks the rest."""

from __future__ import annotations

import pytest
import torch

from frbench.engine.plan import resolve
from frbench.engine.registry import parse_defense
from frbench.engine.scaffold import reference_outputs


def test_score_has_the_value_of_its_formula():
    # By hand: squared errors 0.155370, 0.211122, 0.012301 to the label, 0.228362, 0.192235,
    # 0.047147 between the branches, floor 0.3^2 * 3 / 2.
    loss = parse_defense("score").recipe.loss(reference_outputs(), epoch=0)
    assert loss.item() == pytest.approx(0.9267511, abs=1e-6)


def test_the_floor_is_the_squared_error_of_a_prediction_that_is_clip_short_of_certain():
    recipe = resolve("score", preset="smoke", overrides={"beta": "0"}).recipe
    doubtful = torch.tensor([[0.7, 0.15, 0.15], [0.6, 0.2, 0.2]]).log()
    outputs = reference_outputs()
    outputs.clean_logits, outputs.labels = doubtful, torch.tensor([0, 0])
    outputs.adversarial_logits = doubtful.clone().requires_grad_()
    # The first image sits on the floor and costs nothing; the second pays what exceeds it.
    paid = (0.4**2 + 2 * 0.2**2) - 0.3**2 * 3 / 2
    assert recipe.loss(outputs, epoch=0).item() == pytest.approx(paid / 2, abs=1e-6)


def test_the_attack_climbs_the_squared_error_from_a_start_where_kl_has_no_gradient():
    recipe = parse_defense("score").recipe
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    target = torch.tensor([[0.5, 0.5]])
    value = recipe.attack.ascended(logits, torch.tensor([0]), target)
    expected = 2 * (torch.sigmoid(torch.tensor(1.0)) - 0.5) ** 2
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    assert recipe.attack.forward_units() == 21  # ten steps and the clean prediction
