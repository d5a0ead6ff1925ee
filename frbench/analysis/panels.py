"""Figure 2 of the paper for chosen images: clean and attacked, in space and in frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from frbench.analysis import output
from frbench.analysis.forward import check_targets, craft
from frbench.analysis.inputs import ImageSet
from frbench.attacks.spec import AttackSpec
from frbench.errors import InputError
from frbench.evaluation.target import Target


def amplitude(images: torch.Tensor) -> torch.Tensor:
    """|F| of the channel mean with zero frequency in the centre; (n, height, width)."""
    spectrum = torch.fft.fft2(images.double().mean(1)).abs()
    centred: torch.Tensor = torch.fft.fftshift(spectrum, dim=(-2, -1))
    return centred


@dataclass(frozen=True)
class SpectrumPanel:
    """One image before and after one attack on one model.

    `clean` and `attacked` are images (channels, height, width); `difference` is the absolute
    difference of their amplitudes, scaled to [0, 1]; zero frequency is in the centre.
    """

    model: str
    attack: str
    index: int
    label: str
    clean: torch.Tensor
    attacked: torch.Tensor

    @property
    def spectra(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Amplitudes of the clean and of the attacked image."""
        both = amplitude(torch.stack([self.clean, self.attacked]))
        return both[0], both[1]

    @property
    def difference(self) -> torch.Tensor:
        before, after = self.spectra
        gap = (after - before).abs()
        span = gap.max() - gap.min()
        return (gap - gap.min()) / span if span > 0 else torch.zeros_like(gap)

    def frame(self) -> pd.DataFrame:
        """One row a coefficient; `amplitude_of_difference` is |F(x' - x)|, as a check."""
        before, after = self.spectra
        rows, columns = np.indices(tuple(before.shape))
        height, width = before.shape
        added = amplitude((self.attacked.double() - self.clean.double())[None])[0]
        return pd.DataFrame(
            {
                "model": self.model,
                "attack": self.attack,
                "image": self.index,
                "frequency_y": rows.ravel() - height // 2,
                "frequency_x": columns.ravel() - width // 2,
                "clean": before.flatten().numpy(),
                "attacked": after.flatten().numpy(),
                "difference_scaled": self.difference.flatten().numpy(),
                "amplitude_of_difference": added.flatten().numpy(),
            }
        )


@dataclass(frozen=True)
class SpectrumPanels:
    """Figure 2: one row of panels a model and image."""

    panels: tuple[SpectrumPanel, ...]
    attack: AttackSpec
    seed: int

    def frame(self) -> pd.DataFrame:
        return pd.concat([panel.frame() for panel in self.panels], ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "spectrum-images",
            "attack": self.attack.model_dump(mode="json"),
            "seed": self.seed,
            "channels": "mean",
            "panels": [
                {
                    "model": panel.model,
                    "image": panel.index,
                    "label": panel.label,
                    "difference_scaled": panel.difference.float().tolist(),
                }
                for panel in self.panels
            ],
        }

    def plot(self) -> Figure:
        """Columns: x, x', log(1 + |F|) of both, scaled difference of amplitudes."""
        titles = ("$x$", "$x'$", "$\\log(1+|F(x)|)$", "$\\log(1+|F(x')|)$")
        rows = len(self.panels)
        with output.figure(7.6, 1.43 * rows + 0.3) as fig:
            grid = fig.subplots(rows, 5, squeeze=False)
            for axes in grid.flat:
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
            for axes, title in zip(grid[0], (*titles, "$||F(x')|-|F(x)||$"), strict=True):
                axes.set_title(title, parse_math=True)
            for row, panel in zip(grid, self.panels, strict=True):
                row[0].set_ylabel(f"{panel.model}\n{panel.label} (#{panel.index})", fontsize=8)
                for axes, image in zip(row, (panel.clean, panel.attacked), strict=False):
                    axes.imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
                logs = [spectrum.log1p() for spectrum in panel.spectra]
                top = max(float(log.max()) for log in logs)
                for axes, log in zip(row[2:], logs, strict=False):
                    axes.imshow(log.numpy(), cmap="gray", vmin=0, vmax=top)
                row[4].imshow(panel.difference.numpy(), cmap="gray", vmin=0, vmax=1)
        return fig

    def save(self, out: Path) -> None:
        """Write JSON, CSV, SVG and PNG into the folder `out`."""
        output.save_numbers(out, "spectrum-images", self.frame(), self.to_json())
        output.save_figure(out, "spectrum-images", self.plot())


def spectrum_panels(
    targets: Sequence[Target],
    samples: ImageSet,
    spec: AttackSpec,
    *,
    indices: Sequence[int] = (0, 1),
    classes: Sequence[str] = (),
    seed: int = 0,
) -> SpectrumPanels:
    """Attack the chosen images and keep what Figure 2 shows.

    Args:
        indices: positions in `samples`.
        classes: names of the labels; without them the number is shown.

    Raises:
        InputError: an index lies outside of the images.
    """
    check_targets(targets)
    wrong = [i for i in indices if not 0 <= i < len(samples)]
    if wrong or not indices:
        raise InputError(f"no image {wrong or ''} among the {len(samples)} given; count from 0")
    chosen = samples.subset(torch.tensor(list(indices)))
    names = [classes[y] if classes else f"class {y}" for y in chosen.labels.tolist()]
    panels = []
    for target in targets:
        x_adv = craft(target, chosen, spec, seed=seed)
        rows = zip(indices, names, chosen.images, x_adv, strict=True)
        panels += [
            SpectrumPanel(target.record.name, spec.name, index, name, clean, attacked)
            for index, name, clean, attacked in rows
        ]
    return SpectrumPanels(tuple(panels), spec, seed)


def _picture(image: torch.Tensor) -> Any:
    """For imshow: (height, width, 3), or (height, width) for other than three channels."""
    return (image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)).float().numpy()
