"""First-layer kernels: Figure 1 of the paper, with a number for how smooth they are.

Smoothness is ours, the paper gives no number: of one kernel (one input channel of one filter), the
sum of absolute differences of horizontally and vertically adjacent weights over the sum of absolute
weights; of a model, the mean over all kernels. Lower is smoother, 0 is constant, and independent
normal weights have about `noise_level`. It does not change with the scale of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.table import Table
from torch import nn

from frbench.analysis import estimates, output
from frbench.analysis.estimates import Estimate
from frbench.analysis.forward import check_targets
from frbench.errors import InputError
from frbench.evaluation.target import Target

SHOWN = 16


def first_kernels(model: nn.Module) -> torch.Tensor:
    """Weights of the first convolution, (filters, channels, height, width), on the CPU.

    Raises InputError when there is no convolution of more than one weight a kernel.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight[0, 0].numel() > 1:
            return module.weight.detach().cpu().float()
    raise InputError("the model has no convolution wider than 1 x 1: no kernels to look at")


def smoothness(kernels: torch.Tensor) -> torch.Tensor:
    """Total variation over L1 norm of each kernel; (filters, channels), NaN where all are zero."""
    kernels = kernels.double()
    variation = kernels.diff(dim=-1).abs().sum((-2, -1)) + kernels.diff(dim=-2).abs().sum((-2, -1))
    return variation / kernels.abs().sum((-2, -1))


def noise_level(height: int, width: int) -> float:
    """Smoothness of independent normal weights, as a ratio of means: 1.89 for 3 x 3."""
    adjacent = height * (width - 1) + width * (height - 1)
    return math.sqrt(2) * adjacent / (height * width)


@dataclass(frozen=True)
class ModelKernels:
    """A model's first layer: the kernels that are shown, and the smoothness of all.

    `by_filter` is the mean smoothness over the channels of each filter, None where all are zero.
    """

    model: str
    chosen: tuple[int, ...]
    kernels: torch.Tensor
    by_filter: tuple[float | None, ...]

    @property
    def smoothness(self) -> Estimate:
        """Mean with its interval over filters."""
        return estimates.mean([value for value in self.by_filter if value is not None])

    @property
    def noise_level(self) -> float:
        return noise_level(*self.kernels.shape[-2:])


@dataclass(frozen=True)
class KernelStudy:
    """The first layers of several models."""

    entries: tuple[ModelKernels, ...]
    seed: int

    def find(self, model: str) -> ModelKernels | None:
        """The entry of one model, or None."""
        return next((entry for entry in self.entries if entry.model == model), None)

    def frame(self) -> pd.DataFrame:
        """One row a filter; `shown` marks those of the figure."""
        return pd.DataFrame(
            {
                "model": entry.model,
                "filter": index,
                "smoothness": value,
                "shown": index in entry.chosen,
            }
            for entry in self.entries
            for index, value in enumerate(entry.by_filter)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "kernels",
            "smoothness": "sum |adjacent differences| / sum |weights|, mean over kernels",
            "seed": self.seed,
            "entries": [
                {
                    "model": entry.model,
                    "smoothness": entry.smoothness.to_json(),
                    "independent_weights": entry.noise_level,
                    "by_filter": list(entry.by_filter),
                    "shown": list(entry.chosen),
                    "kernels": entry.kernels[list(entry.chosen)].tolist(),
                }
                for entry in self.entries
            ],
        }

    def table(self) -> Table:
        """Smoothness of each model; lower is smoother."""
        table = Table(title="smoothness of first-layer kernels", title_justify="left")
        for column in ("model", "filters", "kernel", "smoothness", "independent weights"):
            table.add_column(column, justify="left" if column == "model" else "right")
        for entry in self.entries:
            filters, _, height, width = entry.kernels.shape
            size = f"{height} x {width}"
            numbers = entry.smoothness.plain(), f"{entry.noise_level:.2f}"
            table.add_row(entry.model, str(filters), size, *numbers)
        table.caption = "sum |adjacent differences| / sum |weights|; lower is smoother (ours)"
        return table

    def plot(self) -> Figure:
        """One band a model: a row a channel, a column a kernel; mid-grey is zero."""
        rows = [entry.kernels.shape[1] for entry in self.entries]
        columns = max(len(entry.chosen) for entry in self.entries)
        with output.figure(0.44 * columns + 0.6, sum(0.44 * row + 0.8 for row in rows)) as fig:
            bands = fig.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
            for entry, axes in zip(self.entries, bands, strict=True):
                _draw(entry, axes)
        return fig

    def save(self, out: Path) -> None:
        """Write JSON, CSV, SVG and PNG into the folder `out`."""
        output.save_numbers(out, "kernels", self.frame(), self.to_json())
        output.save_figure(out, "kernels", self.plot())


def kernel_study(targets: Sequence[Target], *, shown: int = SHOWN, seed: int = 0) -> KernelStudy:
    """Look at the first layer of each model.

    Args:
        shown: how many filters the figure has, chosen at random with `seed`; all when fewer.
    """
    check_targets(targets)
    entries = []
    for target in targets:
        kernels = first_kernels(target.model)
        order = torch.randperm(len(kernels), generator=torch.Generator().manual_seed(seed))
        chosen = tuple(sorted(order[:shown].tolist()))
        by_filter = smoothness(kernels).nanmean(1)
        values = tuple(value if math.isfinite(value) else None for value in by_filter.tolist())
        if not any(value is not None for value in values):
            raise InputError(f"all first-layer kernels of {target.record.name} are zero")
        entries.append(ModelKernels(target.record.name, chosen, kernels, values))
    return KernelStudy(tuple(entries), seed)


def _draw(entry: ModelKernels, axes: Any) -> None:
    channels, height, width = entry.kernels.shape[1:]
    axes.imshow(_mosaic(entry), cmap="gray", vmin=-1, vmax=1)
    outline: Any = {"fill": False, "edgecolor": "#777777", "linewidth": 0.5}
    for left, top in product(range(len(entry.chosen)), range(channels)):
        corner = left * (width + 1) - 0.5, top * (height + 1) - 0.5
        axes.add_patch(Rectangle(corner, width, height, **outline))
    axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_xticks(
        [i * (width + 1) + (width - 1) / 2 for i in range(len(entry.chosen))], entry.chosen
    )
    names = list("RGB") if channels == 3 else [str(channel) for channel in range(channels)]
    axes.set_yticks([i * (height + 1) + (height - 1) / 2 for i in range(channels)], names)
    axes.tick_params(length=0, labelsize=7)
    numbers = f"smoothness {entry.smoothness.plain()}, independent {entry.noise_level:.2f}"
    axes.set_title(f"{entry.model}\n{numbers}", loc="left")


def _mosaic(entry: ModelKernels) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The chosen kernels side by side, channels below each other, a gap (NaN) between any two.

    Each filter is scaled by its largest weight, so that weak ones show.
    """
    channels, height, width = entry.kernels.shape[1:]
    picture = np.full((channels * (height + 1) - 1, len(entry.chosen) * (width + 1) - 1), np.nan)
    for place, index in enumerate(entry.chosen):
        weights = entry.kernels[index].double()
        scaled = (weights / weights.abs().max().clamp_min(1e-30)).numpy()
        for channel in range(channels):
            top, left = channel * (height + 1), place * (width + 1)
            picture[top : top + height, left : left + width] = scaled[channel]
    return picture
