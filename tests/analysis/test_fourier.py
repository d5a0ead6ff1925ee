"""Fourier basis images and heat maps of models whose weak frequency is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frbench.analysis.fourier import fourier_study, plane_wave
from frbench.analysis.inputs import ImageSet
from frbench.errors import InputError
from frbench.evaluation.target import Target


@pytest.mark.parametrize("frequency", [(0, 0), (3, 0), (-4, 2), (-8, -8), (5, -7)])
def test_a_basis_image_is_real_of_unit_norm_and_holds_one_pair_of_frequencies(
    frequency: tuple[int, int],
) -> None:
    row, column = frequency
    wave = plane_wave(row, column, 16, 16)
    assert float(wave.norm()) == pytest.approx(1, abs=1e-6)
    spectrum = np.abs(np.fft.fft2(wave.double().numpy()))
    found = set(map(tuple, np.argwhere(spectrum > 1e-3).tolist()))
    assert found == {(row % 16, column % 16), (-row % 16, -column % 16)}


class Detector(nn.Module):
    """Class 1 when the horizontal frequency `at` is strong, else class 0."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.threshold = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strength = torch.fft.fft2(x)[:, 0, 0, self.at].abs() / x[0, 0].numel() ** 0.5
        return torch.stack([self.threshold.expand(len(x)), strength], 1)


def grey(target: Target, at: int = 3) -> tuple[Target, ImageSet]:
    record = target.record.model_copy(update={"name": "detector", "classes": 2})
    samples = ImageSet(torch.full((5, 1, 8, 8), 0.5), torch.zeros(5, dtype=torch.long))
    return Target(Detector(at).eval(), record), samples


def test_the_map_is_dark_at_the_weak_frequency_and_its_mirror_only(targets: list[Target]) -> None:
    target, samples = grey(targets[0])
    study = fourier_study([target], samples, norm=2.0)
    found = study.maps[0]
    assert found.rows == found.columns == (-4, -3, -2, -1, 0, 1, 2, 3)
    expected = np.zeros((8, 8))
    expected[4, [1, 7]] = 1  # rows[4] = 0, columns[1] = -3, columns[7] = 3
    assert np.array_equal(found.error, expected)
    assert found.clean_error == 0


def test_perturbed_images_stay_in_range_and_have_the_norm(
    targets: list[Target],
) -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            return torch.zeros(len(x), 10)

    samples = ImageSet(torch.full((6, 3, 16, 16), 0.5), torch.zeros(6, dtype=torch.long))
    spy = Target(Spy().eval(), targets[0].record)
    fourier_study([spy], samples, norm=2.0, step=4)
    deltas = torch.stack(seen[:-1]) - 0.5
    assert torch.allclose(deltas.norm(dim=(-2, -1)), torch.tensor(2.0), atol=1e-4)
    signs = deltas[..., 0, 0].sign()  # (frequencies, images, channels)
    for axis in range(3):
        assert (signs != signs.narrow(axis, 0, 1)).any(), "images and channels have their own"
    assert torch.equal(seen[-1], samples.images)
    seen.clear()
    fourier_study([spy], samples, norm=50.0, step=8)
    assert all(x.min() >= 0 and x.max() <= 1 for x in seen)


def test_a_step_and_fewer_images_make_a_coarser_map_of_a_subset(
    targets: list[Target], digits: ImageSet, tmp_path: Path
) -> None:
    study = fourier_study(targets, digits, norm=1.0, images=30, step=2)
    assert study.images == 30 and study.maps[0].error.shape == (4, 4)
    assert study.maps[0].rows == (-4, -2, 0, 2)
    again = fourier_study(targets, digits, norm=1.0, images=30, step=2)
    assert again.to_json() == study.to_json()
    study.save(tmp_path)
    content = json.loads((tmp_path / "fourier.json").read_text())
    assert content["maps"][1]["error"] == study.maps[1].error.tolist()
    assert len((tmp_path / "fourier.csv").read_text().splitlines()) == 1 + 2 * 16
    assert study.table().row_count == 2


def test_settings_that_mean_nothing_are_refused(targets: list[Target], digits: ImageSet) -> None:
    for wrong in ({"norm": 0.0}, {"images": 0}, {"step": 0}, {"step": 5}):
        with pytest.raises(InputError, match="must be above zero"):
            fourier_study(targets, digits, **wrong)  # type: ignore[arg-type]
