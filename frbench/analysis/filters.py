"""Low-, high- and band-pass filters with square pass bands, as Table 1 of the paper uses them.

Per image and channel: a two-dimensional FFT, zero frequency shifted to the centre, the k x k block
of rows and columns `size/2 - k/2` to `size/2 + k/2 - 1` kept, the rest zeroed, the inverse, the
real part. The block holds the frequency -k/2 but not +k/2, so the real part halves the amplitude at
k/2 and filtering twice is not filtering once. The paper says nothing of clamping: values may leave
[0, 1] slightly unless `clamp` is set. The filters are linear (until clamped) and differentiable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import nn

from frbench.errors import InputError

FilterKind = Literal["lowpass", "highpass", "bandpass"]
# Those of the paper's Table 1 (32, 28, 24, 20, 16), as shares of the image's size.
_TABLE_1 = (1, 7 / 8, 3 / 4, 5 / 8, 1 / 2)


@dataclass(frozen=True)
class FrequencyFilter:
    """One filter; call it on images of shape (n, channels, height, width).

    'lowpass' keeps the centred block, 'highpass' all but the block, 'bandpass' the block without
    the centred block of width `inner`. Bandwidths are even, in coefficients.
    """

    bandwidth: int
    kind: FilterKind = "lowpass"
    inner: int = 0
    clamp: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(FilterKind):
            raise InputError(
                f"unknown filter '{self.kind}': one of {', '.join(get_args(FilterKind))}"
            )
        _check_bandwidth(self.bandwidth)
        if self.inner and (self.kind != "bandpass" or self.inner >= self.bandwidth):
            raise InputError(
                f"an inner bandwidth of {self.inner} needs a band-pass filter wider than that"
            )
        if self.inner:
            _check_bandwidth(self.inner)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        mask = self.mask(images.shape[-2], images.shape[-1]).to(images.device)
        filtered: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(images) * mask).real
        return filtered.clamp(0, 1) if self.clamp else filtered

    def mask(self, height: int, width: int) -> torch.Tensor:
        """Which coefficients pass, in the order of `torch.fft.fft2`; boolean (height, width)."""
        check_fits(self.bandwidth, height, width)
        block = _centred_block(height, width, self.bandwidth)
        if self.kind == "highpass":
            block = ~block
        elif self.kind == "bandpass":
            block &= ~_centred_block(height, width, self.inner)
        passed: torch.Tensor = torch.fft.ifftshift(block)
        return passed

    @property
    def label(self) -> str:
        """Short name for tables: `20`, `>20` for high-pass, `16-20` for the ring between."""
        if self.kind == "highpass":
            return f">{self.bandwidth}"
        return f"{self.inner}-{self.bandwidth}" if self.kind == "bandpass" else str(self.bandwidth)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Filtered(nn.Module):
    """A model that sees its input through a filter; gradients pass through both."""

    def __init__(self, model: nn.Module, frequency_filter: FrequencyFilter) -> None:
        super().__init__()
        self.model = model
        self.frequency_filter = frequency_filter

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(self.frequency_filter(images))
        return logits


def filter_bank(
    bandwidths: Iterable[int],
    kind: FilterKind = "lowpass",
    *,
    clamp: bool = False,
) -> tuple[FrequencyFilter, ...]:
    """One filter a bandwidth, widest first.

    With 'bandpass', each filter is the ring from its bandwidth in to the next smaller one, and the
    innermost is the whole block: together they add up to the widest low-pass filter.
    """
    widths = sorted(set(bandwidths), reverse=True)
    if not widths:
        raise InputError("no bandwidth given; give a list such as 32,28,24,20,16")
    if kind != "bandpass":
        return tuple(FrequencyFilter(width, kind, clamp=clamp) for width in widths)
    return tuple(
        FrequencyFilter(outer, kind, inner=inner, clamp=clamp)
        for outer, inner in pairwise([*widths, 0])
    )


def default_bandwidths(size: int) -> tuple[int, ...]:
    """The paper's bandwidths for images of `size` pixels a side: 32, 28, 24, 20, 16 for 32."""
    return tuple(dict.fromkeys(2 * round(share * size / 2) for share in _TABLE_1))


def check_fits(bandwidth: int, height: int, width: int) -> None:
    """Raise InputError for a block that is larger than the image."""
    if bandwidth > min(height, width):
        raise InputError(
            f"bandwidth {bandwidth} is larger than the image ({height} x {width} pixels); "
            f"use at most {min(height, width) // 2 * 2}"
        )


def _check_bandwidth(bandwidth: int) -> None:
    if bandwidth <= 0 or bandwidth % 2:
        raise InputError(f"bandwidth {bandwidth} is not an even number above zero, such as 16")


def _centred_block(height: int, width: int, bandwidth: int) -> torch.Tensor:
    block = torch.zeros(height, width, dtype=torch.bool)
    top, left = height // 2 - bandwidth // 2, width // 2 - bandwidth // 2
    block[top : top + bandwidth, left : left + bandwidth] = True
    return block
