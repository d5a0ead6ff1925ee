"""Fourier heat map: error of a model under each single frequency (Yin et al. 2019).

The perturbation of frequency (i, j) is the real plane wave cos(2 pi (i y / h + j x / w)), scaled to
unit L2 norm, times `norm`, times a random sign drawn for every image and channel; the sum is
clamped to [0, 1]. The norm is that of one channel. Frequencies (i, j) and (-i, -j) are one wave, so
each pair is measured once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table

from frbench.analysis import output
from frbench.analysis.forward import check_targets, verdicts
from frbench.analysis.inputs import ImageSet
from frbench.errors import InputError
from frbench.evaluation.cells import BROKEN
from frbench.evaluation.target import Target

log = logging.getLogger(__name__)

NORM = 4.0  # Yin et al.'s choice for CIFAR-10
IMAGES = 256


def plane_wave(row: int, column: int, height: int, width: int) -> torch.Tensor:
    """The real Fourier basis image of one frequency, unit L2 norm; (height, width)."""
    y = torch.arange(height, dtype=torch.float64)[:, None] * row / height
    x = torch.arange(width, dtype=torch.float64)[None, :] * column / width
    wave: torch.Tensor = torch.cos(2 * torch.pi * (y + x))
    wave /= wave.norm()
    return wave.float()


@dataclass(frozen=True)
class FourierMap:
    """Error rates of one model; `error[a, b]` is at frequency (`rows[a]`, `columns[b]`)."""

    model: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    error: np.ndarray[Any, np.dtype[np.float64]]
    clean_error: float

    @property
    def mean_error(self) -> float:
        return float(self.error.mean())


@dataclass(frozen=True)
class FourierStudy:
    """Heat maps of several models on the same images and random signs."""

    maps: tuple[FourierMap, ...]
    norm: float
    images: int
    step: int
    seed: int
    data: dict[str, Any] | None

    def frame(self) -> pd.DataFrame:
        """One row a model and frequency, errors in [0, 1]."""
        return pd.DataFrame(
            {
                "model": each.model,
                "frequency_y": row,
                "frequency_x": column,
                "error": float(each.error[a, b]),
                "clean_error": each.clean_error,
            }
            for each in self.maps
            for a, row in enumerate(each.rows)
            for b, column in enumerate(each.columns)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "fourier",
            "norm": self.norm,
            "images": self.images,
            "step": self.step,
            "seed": self.seed,
            "data": self.data,
            "maps": [
                {
                    "model": each.model,
                    "rows": list(each.rows),
                    "columns": list(each.columns),
                    "error": each.error.tolist(),
                    "clean_error": each.clean_error,
                }
                for each in self.maps
            ],
        }

    def table(self) -> Table:
        """Mean and highest error of each map, in percent."""
        title = f"error under single frequencies (%), norm {self.norm:g}, n={self.images}"
        table = Table(title=title, title_justify="left")
        for name in ("model", "clean", "mean", "highest", "at frequency (y, x)"):
            table.add_column(name, justify="left" if name == "model" else "right")
        for each in self.maps:
            a, b = np.unravel_index(int(each.error.argmax()), each.error.shape)
            numbers = (each.clean_error, each.mean_error, float(each.error[a, b]))
            where = f"({each.rows[a]}, {each.columns[b]})"
            table.add_row(each.model, *(f"{100 * v:.1f}" for v in numbers), where)
        return table

    def plot(self) -> Figure:
        """One map a model on one grey scale; zero frequency in the centre, darker is worse."""
        with output.figure(3.1 * len(self.maps) + 1.0, 3.5) as fig:
            panels = fig.subplots(1, len(self.maps), squeeze=False)[0]
            for axes, each in zip(panels, self.maps, strict=True):
                half = self.step / 2
                edges = (
                    each.columns[0] - half,
                    each.columns[-1] + half,
                    each.rows[-1] + half,
                    each.rows[0] - half,
                )
                shown = axes.imshow(100 * each.error, cmap="Greys", vmin=0, vmax=100, extent=edges)
                axes.set_title(f"{each.model}", loc="left")
                axes.set(xlabel="horizontal frequency (cycles an image)")
                axes.grid(False)
                axes.annotate(
                    f"mean {100 * each.mean_error:.1f} %, clean {100 * each.clean_error:.1f} %",
                    (0, -0.2),
                    xycoords="axes fraction",
                    fontsize=8,
                    va="top",
                )
            panels[0].set_ylabel("vertical frequency")
            fig.colorbar(shown, ax=panels, label="error (%)", shrink=0.85)
        return fig

    def save(self, out: Path) -> None:
        """Write JSON, CSV, SVG and PNG into the folder `out`."""
        output.save_numbers(out, "fourier", self.frame(), self.to_json())
        output.save_figure(out, "fourier", self.plot())


def fourier_study(
    targets: Sequence[Target],
    samples: ImageSet,
    *,
    norm: float = NORM,
    images: int = IMAGES,
    step: int = 1,
    seed: int = 0,
) -> FourierStudy:
    """Measure the error of each model under each single frequency.

    Args:
        norm: L2 norm of the perturbation of one channel, in [0, 1] pixel units.
        images: look at no more than this many, chosen at random with `seed`.
        step: distance of neighbouring frequencies; 2 takes a quarter of the time.

    Raises:
        InputError: norm, images or step is not positive.
    """
    if not (norm > 0 and images > 0 and 0 < step <= min(samples.size) // 2):
        raise InputError(
            f"norm {norm:g}, images {images} and step {step} must be above zero, and the step at "
            f"most half of the image's size ({min(samples.size)})"
        )
    check_targets(targets)
    chosen = samples
    if images < len(samples):
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
        chosen = samples.subset(order[:images].sort().values)
    maps = tuple(_measure(target, chosen, norm, step, seed) for target in targets)
    return FourierStudy(maps, norm, len(chosen), step, seed, samples.describe())


def _measure(target: Target, samples: ImageSet, norm: float, step: int, seed: int) -> FourierMap:
    height, width = samples.size
    rows, columns = _frequencies(height, step), _frequencies(width, step)
    generator = torch.Generator().manual_seed(seed)
    images = samples.images.float()
    measured: dict[tuple[int, int], float] = {}
    error = np.empty((len(rows), len(columns)))
    for a, row in enumerate(rows):
        log.info("%s: vertical frequency %d of %d", target.record.name, a + 1, len(rows))
        for b, column in enumerate(columns):
            pair = (row % height, column % width), (-row % height, -column % width)
            if min(pair) not in measured:
                signs = torch.randint(2, (*images.shape[:2], 1, 1), generator=generator) * 2 - 1
                wave = norm * plane_wave(row, column, height, width)
                shown = (images + signs * wave).clamp_(0, 1)
                measured[min(pair)] = _error(target, shown, samples.labels)
            error[a, b] = measured[min(pair)]
    clean = _error(target, images, samples.labels)
    return FourierMap(target.record.name, rows, columns, error, clean)


def _error(target: Target, images: torch.Tensor, labels: torch.Tensor) -> float:
    return verdicts(target, images, labels).count(BROKEN) / len(images)


def _frequencies(size: int, step: int) -> tuple[int, ...]:
    """Every `step`-th frequency of an axis with zero among them, lowest first."""
    lowest, highest = -(size // 2), (size - 1) // 2
    below = range(0, lowest - 1, -step)
    return (*sorted(below), *range(step, highest + 1, step))
