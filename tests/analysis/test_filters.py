"""The filters against the definition, an independent implementation and hand-computed waves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from frbench.analysis.filters import (
    Filtered,
    FrequencyFilter,
    default_bandwidths,
    filter_bank,
)
from frbench.errors import InputError


def crops(count: int, size: int = 32) -> torch.Tensor:
    picture = (
        torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1).double() / 255
    )
    return torch.stack(
        [picture[:, 60 + 9 * i :, 50 + 31 * i :][:, :size, :size] for i in range(count)]
    )


def by_matrices(image: np.ndarray, keep: tuple[slice, slice]) -> np.ndarray:
    """Filter one plane with explicit DFT matrices over centred frequencies."""

    def transform(size: int) -> np.ndarray:
        frequency = np.arange(size) - size // 2
        return np.exp(-2j * np.pi * np.outer(frequency, np.arange(size)) / size)

    rows, columns = transform(image.shape[0]), transform(image.shape[1])
    spectrum = rows @ image @ columns.T
    kept = np.zeros_like(spectrum)
    kept[keep] = spectrum[keep]
    return (rows.conj().T @ kept @ columns.conj() / image.size).real


def wave(frequency: int, size: int = 32) -> torch.Tensor:
    line = torch.cos(2 * torch.pi * frequency * torch.arange(size, dtype=torch.float64) / size)
    return line.expand(1, 1, size, size)


def test_full_bandwidth_returns_the_images() -> None:
    images = crops(4)
    assert (FrequencyFilter(32)(images) - images).abs().max() < 1e-12
    assert (FrequencyFilter(32)(images.float()) - images.float()).abs().max() < 1e-6


@pytest.mark.parametrize("bandwidth", range(2, 33, 2))
def test_channel_means_are_preserved(bandwidth: int) -> None:
    images = crops(3)
    means = FrequencyFilter(bandwidth)(images).mean((2, 3))
    assert torch.allclose(means, images.mean((2, 3)), atol=1e-12)


@pytest.mark.parametrize(("frequency", "amplitude"), [(7, 1.0), (8, 0.5), (9, 0.0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_wave_passes_by_its_frequency(frequency: int, amplitude: float, transposed: bool) -> None:
    image = wave(frequency).mT if transposed else wave(frequency)
    assert torch.allclose(FrequencyFilter(16)(image), amplitude * image, atol=1e-12)


@pytest.mark.parametrize("bandwidth", [4, 16, 20, 30])
def test_agrees_with_explicit_dft_matrices(bandwidth: int) -> None:
    images = crops(2)
    block = slice(16 - bandwidth // 2, 16 + bandwidth // 2)
    found = FrequencyFilter(bandwidth)(images)
    for image, filtered in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        expected = by_matrices(image.numpy(), (block, block))
        assert np.abs(expected - filtered.numpy()).max() < 1e-10


def test_rectangles_and_odd_sizes_use_their_own_centre() -> None:
    image = crops(1)[:, :, :21, :30]
    expected = by_matrices(image[0, 0].numpy(), (slice(10 - 4, 10 + 4), slice(15 - 4, 15 + 4)))
    assert np.abs(FrequencyFilter(8)(image)[0, 0].numpy() - expected).max() < 1e-10


def test_filtering_twice_halves_the_edge_again() -> None:
    once = FrequencyFilter(16)
    assert torch.allclose(once(once(wave(8))), 0.25 * wave(8), atol=1e-12)


def test_highpass_is_what_lowpass_removes() -> None:
    images = crops(2)
    high, low = FrequencyFilter(12, "highpass")(images), FrequencyFilter(12)(images)
    assert torch.allclose(high + low, images, atol=1e-12)
    assert high.mean((2, 3)).abs().max() < 1e-12


def test_bandpass_rings_add_up_to_the_widest_lowpass() -> None:
    images = crops(2)
    bank = filter_bank([8, 28, 16], "bandpass")
    assert [f.label for f in bank] == ["16-28", "8-16", "0-8"]
    total = sum(f(images) for f in bank)
    assert torch.allclose(torch.as_tensor(total), FrequencyFilter(28)(images), atol=1e-12)


def test_clamping_is_off_unless_asked_for() -> None:
    images = (crops(6) > 0.5).double()
    free = FrequencyFilter(16)(images)
    assert free.min() < 0 and free.max() > 1
    assert torch.equal(FrequencyFilter(16, clamp=True)(images), free.clamp(0, 1))
    assert FrequencyFilter(16).to_json()["clamp"] is False


def test_gradients_pass_through_the_filter() -> None:
    # The gain is real and even, so the filter is its own adjoint.
    images, direction = crops(2).split(1)
    (FrequencyFilter(10)(images.requires_grad_()) * direction).sum().backward()
    assert torch.allclose(torch.as_tensor(images.grad), FrequencyFilter(10)(direction), atol=1e-12)


def test_a_filtered_model_sees_filtered_images() -> None:
    images = crops(2)
    model = Filtered(torch.nn.Flatten(), FrequencyFilter(10))
    assert torch.equal(model(images), FrequencyFilter(10)(images).flatten(1))


@pytest.mark.parametrize("bandwidth", [0, -4, 15])
def test_bandwidths_that_are_not_even_and_positive_are_refused(bandwidth: int) -> None:
    with pytest.raises(InputError, match=f"bandwidth {bandwidth} is not an even number"):
        FrequencyFilter(bandwidth)


def test_a_bandwidth_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"34 is larger than the image \(32 x 32 pixels\)"):
        FrequencyFilter(34)(crops(1))


def test_other_senseless_filters_are_refused() -> None:
    with pytest.raises(InputError, match="no bandwidth"):
        filter_bank([])
    with pytest.raises(InputError, match="unknown filter 'notch'"):
        FrequencyFilter(8, "notch")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="inner bandwidth"):
        FrequencyFilter(8, "bandpass", inner=8)


def test_the_papers_bandwidths_scale_with_the_image() -> None:
    assert default_bandwidths(32) == (32, 28, 24, 20, 16)
    assert default_bandwidths(8) == (8, 6, 4)
