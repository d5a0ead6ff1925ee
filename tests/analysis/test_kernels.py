"""Smoothness by hand-computed kernels, and the figure's choice of kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from frbench.analysis.kernels import first_kernels, kernel_study, noise_level, smoothness
from frbench.errors import InputError
from frbench.evaluation.target import Target


def with_kernels(target: Target, name: str, kernels: torch.Tensor) -> Target:
    layer = nn.Conv2d(kernels.shape[1], kernels.shape[0], kernels.shape[2])
    layer.weight.data = kernels
    model = nn.Sequential(nn.Identity(), nn.Sequential(layer, nn.Conv2d(len(kernels), 2, 3)))
    return Target(model.eval(), target.record.model_copy(update={"name": name}))


def test_smoothness_of_known_kernels() -> None:
    checkers = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    ramp = torch.tensor([[0.0, 1, 2]] * 3)
    kernels = torch.stack([torch.ones(3, 3), checkers, ramp, -7 * ramp])[:, None]
    found = smoothness(kernels)[:, 0]
    assert found.tolist() == pytest.approx([0, 24 / 9, 6 / 9, 6 / 9])


def test_independent_weights_have_the_noise_level() -> None:
    kernels = torch.randn(20000, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    variation = kernels.diff(dim=-1).abs().sum() + kernels.diff(dim=-2).abs().sum()
    assert float(variation / kernels.abs().sum()) == pytest.approx(noise_level(3, 3), rel=0.01)
    assert noise_level(3, 3) == pytest.approx(1.886, abs=0.001)


def test_smoother_kernels_have_a_lower_number_and_16_are_drawn(
    targets: list[Target], tmp_path: Path
) -> None:
    noise = torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    smooth = noise.mean((2, 3), keepdim=True) + 0.1 * noise
    models = [with_kernels(targets[0], n, k) for n, k in (("rough", noise), ("smooth", smooth))]
    study = kernel_study(models, seed=3)
    rough, fine = study.find("rough"), study.find("smooth")
    assert rough is not None and fine is not None
    assert fine.smoothness.high < rough.smoothness.low
    assert rough.chosen == fine.chosen and len(set(rough.chosen)) == 16
    assert kernel_study(models, seed=4).entries[0].chosen != rough.chosen
    study.save(tmp_path)
    content = json.loads((tmp_path / "kernels.json").read_text())
    assert torch.tensor(content["entries"][0]["kernels"]).shape == (16, 3, 3, 3)
    assert len((tmp_path / "kernels.csv").read_text().splitlines()) == 1 + 2 * 64


def test_dead_filters_do_not_count_and_models_without_kernels_are_refused(
    targets: list[Target],
) -> None:
    kernels = torch.ones(4, 1, 3, 3)
    kernels[2] = 0
    study = kernel_study([with_kernels(targets[0], "dead", kernels)])
    assert study.entries[0].smoothness.value == 0
    assert study.entries[0].by_filter == (0, 0, None, 0), "the others keep their numbers"
    with pytest.raises(InputError, match="all first-layer kernels of zero are zero"):
        kernel_study([with_kernels(targets[0], "zero", torch.zeros(4, 1, 3, 3))])
    with pytest.raises(InputError, match="no convolution"):
        first_kernels(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2)))
