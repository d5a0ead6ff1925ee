"""Perturbations of known frequency land in the right ring and band; Figure 2's maps are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frbench.analysis.inputs import ImageSet
from frbench.analysis.panels import amplitude, spectrum_panels
from frbench.analysis.spectrum import _by_ring, band_masks, energy, spectrum_study
from frbench.attacks import AttackSpec, specs
from frbench.errors import InputError
from frbench.evaluation.target import Target


def test_a_wave_has_its_energy_at_its_frequency() -> None:
    y = torch.arange(32.0)[:, None].expand(32, 32)
    shares = energy(torch.cos(2 * torch.pi * 5 * y / 32).expand(1, 3, 32, 32))[0]
    assert shares[5, 0] == pytest.approx(0.5) and shares[27, 0] == pytest.approx(0.5)


def test_channels_do_not_cancel() -> None:
    delta = torch.zeros(1, 2, 8, 8)
    delta[0, 0, 0, 0], delta[0, 1, 0, 0] = 1.0, -1.0
    assert torch.allclose(energy(delta), torch.full((1, 8, 8), 1 / 64, dtype=torch.float64))


def test_bands_cover_every_coefficient_once() -> None:
    for size in ((32, 32), (8, 8), (15, 20)):
        masks = torch.stack(list(band_masks(*size).values()))
        assert torch.equal(masks.sum(0), torch.ones(size, dtype=torch.long))
    low = band_masks(32, 32)["low"]
    assert low[5, 0] and low[-5, 0] and not low[6, 0] and low[0, 0]


def test_bands_part_at_a_third_and_two_thirds_of_nyquist() -> None:
    """Of 12 pixels Nyquist is 6: the edges are the radii 2 and 4, and belong to the upper band."""
    masks = band_masks(12, 12)
    low, mid, high = masks["low"], masks["mid"], masks["high"]
    assert low[1, 1] and mid[2, 0] and mid[0, -2] and mid[3, 2] and high[4, 0] and high[-6, -6]


def test_energy_is_counted_in_the_ring_of_its_rounded_radius() -> None:
    (rings,) = _by_ring(torch.ones(1, 4, 4)).tolist()
    # Zero; four at 1 and four at 1.41; two at 2 and four at 2.24; one at 2.83.
    assert rings == [1, 8, 6, 1]


class Wave(nn.Module):
    """Its gradient is one plane wave, so FGSM's perturbation is that wave's sign."""

    def __init__(self, frequency: int) -> None:
        super().__init__()
        line = torch.cos(2 * torch.pi * frequency * (torch.arange(32) + 0.25) / 32)
        self.weight = nn.Parameter(torch.stack([line.expand(32, 32), -line.expand(32, 32)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ncyx,kyx->nk", x, self.weight)


def fgsm() -> AttackSpec:
    return specs()["fgsm"]


def grey(targets: list[Target]) -> tuple[list[Target], ImageSet]:
    record = targets[0].record.model_copy(update={"classes": 2})
    waves = [
        Target(Wave(f).eval(), record.model_copy(update={"name": n}))
        for n, f in (("slow", 2), ("fast", 16))
    ]
    return waves, ImageSet(torch.full((3, 1, 32, 32), 0.5), torch.tensor([0, 1, 0]))


def test_models_that_look_at_other_frequencies_are_attacked_there(targets: list[Target]) -> None:
    waves, samples = grey(targets)
    study = spectrum_study(waves, samples, [fgsm()])
    slow, fast = study.find("slow", "fgsm"), study.find("fast", "fgsm")
    assert slow is not None and fast is not None
    # The sign of a wave is a square wave: 8/pi^2 of its energy is in the fundamental.
    assert slow.ring_share[2] == pytest.approx(8 / np.pi**2, abs=0.02)
    assert slow.bands["low"].value > 0.8 and fast.bands["high"].value == pytest.approx(1)
    assert fast.ring_share[16] == pytest.approx(1)
    assert sum(slow.ring_share) == pytest.approx(1)
    assert sum(study.white_rings) == pytest.approx(1)
    assert sum(study.white_bands.values()) == pytest.approx(1)


def test_unchanged_images_are_left_out_and_none_at_all_is_an_error(
    targets: list[Target], digits: ImageSet
) -> None:
    with pytest.raises(InputError, match="clean changed none of the images of one"):
        spectrum_study(targets[:1], digits, [specs()["clean"]])


def test_every_attack_against_every_model_is_written(
    targets: list[Target], digits: ImageSet, tmp_path: Path
) -> None:
    some = digits.subset(torch.arange(20))
    study = spectrum_study(targets, some, [fgsm(), specs()["pgd20"]])
    study.save(tmp_path)
    content = json.loads((tmp_path / "spectrum.json").read_text())
    pairs = [(e["model"], e["attack"]) for e in content["entries"]]
    assert pairs == [("one", "fgsm"), ("one", "pgd20"), ("two", "fgsm"), ("two", "pgd20")]
    for entry in content["entries"]:
        assert sum(band["value"] for band in entry["bands"].values()) == pytest.approx(1)
        assert len(entry["low_share"]) == 20
    assert (tmp_path / "spectrum-bands.csv").read_text().count("\n") == 1 + 4 * 3
    assert study.table().row_count == 4 + 1  # white noise
    assert (tmp_path / "spectrum.svg").stat().st_size > 1000


def test_figure_2_shows_the_scaled_difference_of_amplitudes(
    targets: list[Target], digits: ImageSet, tmp_path: Path
) -> None:
    found = spectrum_panels(
        targets[:1],
        digits,
        specs()["pgd20"],
        indices=(3, 7),
        classes=[f"digit {i}" for i in range(10)],
    )
    assert [(p.model, p.index, p.label) for p in found.panels] == [
        ("one", 3, "digit 3"),
        ("one", 7, "digit 7"),
    ]
    panel = found.panels[0]
    x, x_adv = (np.asarray(i, dtype=float).mean(0) for i in (panel.clean, panel.attacked))
    before, after = (np.abs(np.fft.fftshift(np.fft.fft2(i))) for i in (x, x_adv))
    gap = np.abs(after - before)
    expected = (gap - gap.min()) / (gap.max() - gap.min())
    assert np.allclose(panel.difference.numpy(), expected)
    assert amplitude(panel.clean[None])[0, 4, 4] == pytest.approx(x.sum())
    found.save(tmp_path)
    assert len((tmp_path / "spectrum-images.csv").read_text().splitlines()) == 1 + 2 * 64


def test_a_picture_outside_of_the_images_is_refused(
    targets: list[Target], digits: ImageSet
) -> None:
    with pytest.raises(InputError, match="no image \\[200\\] among the 200"):
        spectrum_panels(targets, digits, fgsm(), indices=(0, 200))
