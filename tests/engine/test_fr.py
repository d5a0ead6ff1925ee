"""Frequency regularization has the value, the gradient and the symmetries of its definition."""

from __future__ import annotations

import math

import pytest
import torch

from frbench.engine.mechanisms.fr import spectral_distance

CLEAN = torch.tensor([[2.0, 1, -1], [0.5, 0, 1.5], [3, 0, 0]], dtype=torch.float64)
ADVERSARIAL = torch.tensor([[1, 1.5, -0.5], [1, 0.5, 0.5], [2, 0.5, 0]], dtype=torch.float64)
BOTH = ("batch_class", "class")


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def of_difference(difference, axes):
    return spectral_distance(difference, torch.zeros_like(difference), axes).item()


def by_definition(difference):
    """The 2-D transform as a double sum of cosines and sines."""
    rows, columns = difference.shape
    total = 0.0
    for k in range(rows):
        for m in range(columns):
            angle = [
                [-2 * math.pi * (k * i / rows + m * j / columns) for j in range(columns)]
                for i in range(rows)
            ]
            turns = torch.tensor(angle, dtype=torch.float64)
            total += abs((difference * turns.cos()).sum().item())
            total += abs((difference * turns.sin()).sum().item())
    return total / (2 * rows * columns)


@pytest.mark.parametrize(
    ("axes", "value"), [("batch_class", 1.1810183472), ("class", 3.6547005384)]
)
def test_value_on_the_reference_logits(axes, value):
    assert spectral_distance(ADVERSARIAL, CLEAN, axes).item() == pytest.approx(value, abs=1e-9)


def test_class_reading_averages_to_a_sixth_of_its_sum():
    """The mean over three classes and two parts is the reference's other normalization."""
    assert spectral_distance(ADVERSARIAL, CLEAN, "class").item() / 6 == pytest.approx(
        0.6091167564, abs=1e-9
    )


def test_second_reference_example():
    difference = torch.tensor([[0, 1, 2, 3], [0, -1, 2, 1]], dtype=torch.float64)
    assert of_difference(difference, "batch_class") == pytest.approx(2.0, abs=1e-12)
    assert of_difference(difference, "class") == pytest.approx(14.0, abs=1e-12)
    assert of_difference(difference, "class") / 8 == pytest.approx(1.75, abs=1e-12)


def test_constant_difference_has_one_coefficient():
    difference = torch.ones(128, 10, dtype=torch.float64)
    assert of_difference(difference, "batch_class") == pytest.approx(0.5, abs=1e-12)
    assert of_difference(difference, "class") == pytest.approx(10.0, abs=1e-12)


def test_batch_class_reading_equals_the_transform_written_out():
    difference = gaussian(5, 4)
    assert of_difference(difference, "batch_class") == pytest.approx(by_definition(difference))


@pytest.mark.parametrize("axes", BOTH)
def test_equal_logits_cost_nothing_and_pull_nowhere(axes):
    a, b = (CLEAN.clone().requires_grad_() for _ in range(2))
    distance = spectral_distance(a, b, axes)
    assert distance.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(distance, [a, b]))


@pytest.mark.parametrize("axes", BOTH)
def test_gradients_of_the_branches_are_opposite_and_homogeneous(axes):
    """Opposite: no branch is detached. <gradient, D> = FR: the distance is not squared."""
    a, b = ADVERSARIAL.clone().requires_grad_(), CLEAN.clone().requires_grad_()
    distance = spectral_distance(a, b, axes)
    of_a, of_b = torch.autograd.grad(distance, [a, b])
    assert torch.equal(of_a, -of_b)
    assert (of_a * (ADVERSARIAL - CLEAN)).sum().item() == pytest.approx(distance.item())


def test_batch_class_reading_is_the_norm_of_the_batch_over_root_pi():
    difference = gaussian(128, 10)
    predicted = difference.norm().item() / math.sqrt(math.pi)
    assert of_difference(difference, "batch_class") == pytest.approx(predicted, rel=0.05)


def test_batch_class_reading_grows_with_the_root_of_the_batch_and_class_does_not():
    small = [gaussian(128, 10, seed=s) for s in range(8)]
    large = [torch.cat([d, gaussian(128, 10, seed=100 + s)]) for s, d in enumerate(small)]
    for axes, growth in (("batch_class", math.sqrt(2)), ("class", 1.0)):
        before, after = (sum(of_difference(d, axes) for d in ds) for ds in (small, large))
        assert after / before == pytest.approx(growth, rel=0.02)


def test_order_of_the_batch_matters_to_batch_class_alone():
    difference = gaussian(128, 10)
    shuffled = difference[torch.randperm(128, generator=torch.Generator().manual_seed(1))]
    change = {
        axes: of_difference(shuffled, axes) - of_difference(difference, axes) for axes in BOTH
    }
    assert abs(change["batch_class"]) > 1e-3
    assert abs(change["class"]) < 1e-9


@pytest.mark.parametrize("axes", BOTH)
def test_a_constant_added_to_all_logits_is_seen(axes):
    shifted = spectral_distance(ADVERSARIAL + 1, CLEAN, axes).item()
    assert abs(shifted - spectral_distance(ADVERSARIAL, CLEAN, axes).item()) > 1e-3


def test_one_differing_sample_tells_the_readings_apart():
    """Its spectrum over the batch is flat: the ratio is of order B, not of its root."""
    difference = torch.zeros(128, 10, dtype=torch.float64)
    difference[0] = gaussian(10)
    mean_of_class = of_difference(difference, "class") / 20
    assert 100 < of_difference(difference, "batch_class") / mean_of_class < 140
