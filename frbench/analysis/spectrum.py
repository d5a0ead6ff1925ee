"""Where in frequency the perturbations lie: Figure 2 of the paper, and its mean over many images.

Energy is summed over channels before anything is averaged, so channels cannot cancel; amplitudes
that are drawn are those of the channel mean, as a choice of ours that the paper leaves open.
Radii are in cycles an image; the highest along an axis is half the image's size (Nyquist).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table

from frbench.analysis import estimates, output
from frbench.analysis.estimates import Estimate
from frbench.analysis.forward import check_targets, craft
from frbench.analysis.inputs import ImageSet
from frbench.attacks.spec import AttackSpec
from frbench.errors import InputError
from frbench.evaluation.target import Target

log = logging.getLogger(__name__)

BANDS = ("low", "mid", "high")
BANDS_TEXT = (
    "low: radius below a third of Nyquist; mid: below two thirds; high: the rest with the corners"
)


def radii(height: int, width: int) -> torch.Tensor:
    """Radius of each coefficient of `torch.fft.fft2` in cycles an image; (height, width)."""
    rows = torch.fft.fftfreq(height) * height
    columns = torch.fft.fftfreq(width) * width
    return torch.hypot(rows[:, None], columns[None, :])


def band_masks(height: int, width: int) -> dict[str, torch.Tensor]:
    """The three bands of BANDS_TEXT in the order of `torch.fft.fft2`; they cover everything."""
    nyquist = min(height, width) / 2
    radius = radii(height, width)
    low, high = radius < nyquist / 3, radius >= 2 * nyquist / 3
    return {"low": low, "mid": ~low & ~high, "high": high}


def energy(perturbation: torch.Tensor) -> torch.Tensor:
    """Share of each coefficient in the energy of each perturbation; float64 (n, height, width).

    Each image sums to one; an image without perturbation is NaN throughout.
    """
    power: torch.Tensor = torch.fft.fft2(perturbation.double()).abs().square().sum(1)
    return power / power.sum((1, 2), keepdim=True)


@dataclass(frozen=True)
class PerturbationSpectrum:
    """Mean over images of one attack's perturbation of one model.

    `ring_share[r]` is the share of energy at radii that round to r; `bands` has the mean share of
    each band; `low_share` the low band's share image by image, None where nothing was changed.
    """

    model: str
    attack: str
    changed: int
    ring_share: tuple[float, ...]
    bands: dict[str, Estimate]
    low_share: tuple[float | None, ...]


@dataclass(frozen=True)
class SpectrumStudy:
    """Spectra of every attack against every model, with the settings that made them.

    White noise, equal energy in every coefficient, is the yardstick: `white_rings` and
    `white_bands` are the shares it would have.
    """

    entries: tuple[PerturbationSpectrum, ...]
    white_rings: tuple[float, ...]
    white_bands: dict[str, float]
    seed: int
    data: dict[str, Any] | None

    def find(self, model: str, attack: str) -> PerturbationSpectrum | None:
        """The entry of one model and attack, or None."""
        return next((e for e in self.entries if (e.model, e.attack) == (model, attack)), None)

    def frame(self) -> pd.DataFrame:
        """One row a model, attack and ring; `density` is the share over white noise's."""
        return pd.DataFrame(
            {
                "model": entry.model,
                "attack": entry.attack,
                "images": entry.changed,
                "radius": radius,
                "share": share,
                "density": share / white,
            }
            for entry in self.entries
            for radius, (share, white) in enumerate(
                zip(entry.ring_share, self.white_rings, strict=True)
            )
        )

    def band_frame(self) -> pd.DataFrame:
        """One row a model, attack and band, with the interval of the mean share."""
        return pd.DataFrame(
            {
                "model": entry.model,
                "attack": entry.attack,
                "images": entry.changed,
                "band": band,
                "share": entry.bands[band].value,
                "low": entry.bands[band].low,
                "high": entry.bands[band].high,
                "white_noise": self.white_bands[band],
            }
            for entry in self.entries
            for band in BANDS
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "spectrum",
            "bands": BANDS_TEXT,
            "seed": self.seed,
            "data": self.data,
            "white_noise": {"rings": list(self.white_rings), "bands": self.white_bands},
            "entries": [
                {**asdict(e), "bands": {band: share.to_json() for band, share in e.bands.items()}}
                for e in self.entries
            ],
        }

    def table(self) -> Table:
        """Share of energy in each band, in percent."""
        table = Table(title="energy of the perturbation by band (%)", title_justify="left")
        for column in ("model", "attack", "images"):
            table.add_column(column)
        for band in BANDS:
            table.add_column(band, justify="right")
        for entry in self.entries:
            shares = [entry.bands[band].percent().replace(" ", "\n", 1) for band in BANDS]
            table.add_row(entry.model, entry.attack, str(entry.changed), *shares)
        white = [f"{100 * self.white_bands[band]:.1f}" for band in BANDS]
        table.add_row("white noise", "", "", *white)
        table.caption = BANDS_TEXT
        return table

    def plot(self) -> Figure:
        """Left: density over radius against white noise. Right: share of each band."""
        rows = len(self.entries)
        with output.figure(9.2, max(3.4, 1.6 + 0.3 * rows)) as fig:
            left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
            self._plot_density(left)
            self._plot_bands(right)
        return fig

    def save(self, out: Path) -> None:
        """Write JSON, CSV (rings, and bands in `spectrum-bands.csv`), SVG and PNG."""
        output.save_numbers(out, "spectrum", self.frame(), self.to_json())
        output.save_csv(out, "spectrum-bands", self.band_frame())
        output.save_figure(out, "spectrum", self.plot())

    def _plot_density(self, axes: Any) -> None:
        models = list(dict.fromkeys(e.model for e in self.entries))
        attacks = list(dict.fromkeys(e.attack for e in self.entries))
        for entry in self.entries:
            m, a = models.index(entry.model), attacks.index(entry.attack)
            density = np.divide(entry.ring_share, self.white_rings)
            axes.plot(
                density,
                color=output.GREYS[m % len(output.GREYS)],
                marker=output.MARKERS[m % len(output.MARKERS)],
                linestyle=output.DASHES[a % len(output.DASHES)],
                markevery=(a, 3),
                label=f"{entry.model}, {entry.attack}",
            )
        axes.axhline(1, color="#555555", linewidth=0.8, label="white noise")
        axes.set(yscale="log", xlabel="radius (cycles an image)", ylabel="energy over white noise")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title("Mean spectrum of perturbations", loc="left")
        axes.legend(fontsize=7.5)

    def _plot_bands(self, axes: Any) -> None:
        labels = [f"{e.model}, {e.attack}" for e in self.entries] + ["white noise"]
        rows = [[e.bands[b].value for b in BANDS] for e in self.entries]
        rows.append([self.white_bands[b] for b in BANDS])
        start = np.zeros(len(rows))
        for b, band in enumerate(BANDS):
            width = 100 * np.array([row[b] for row in rows])
            bars = axes.barh(
                labels,
                width,
                left=start,
                color=output.FILLS[b],
                hatch=output.HATCHES[b],
                edgecolor="white" if b == 1 else "black",
                linewidth=0.6,
                label=band,
                height=0.7,
            )
            texts = [f"{w:.0f}" if w >= 6 else "" for w in width]
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
            axes.bar_label(bars, texts, label_type="center", fontsize=7.5, bbox=box)
            start = start + width
        axes.invert_yaxis()
        axes.grid(False)
        axes.set(xlabel="share of energy (%)", xlim=(0, 100))
        axes.set_title("Share of energy by band", loc="left", y=1.08)
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 0.985), fontsize=7.5)


def spectrum_study(
    targets: Sequence[Target],
    samples: ImageSet,
    attacks: Sequence[AttackSpec],
    *,
    seed: int = 0,
) -> SpectrumStudy:
    """Attack every model with every attack and average the spectra of what was added.

    Images that an attack leaves unchanged have no spectrum and are left out of the means.
    """
    check_targets(targets)
    height, width = samples.size
    entries = []
    for target in targets:
        for spec in attacks:
            log.info("%s: spectrum of %s", target.record.name, spec.name)
            added = craft(target, samples, spec, seed=seed) - samples.images
            entries.append(_summarize(target.record.name, spec.name, added))
    white = torch.full((1, height, width), 1 / (height * width), dtype=torch.float64)
    bands = {b: float(white[0][mask].sum()) for b, mask in band_masks(height, width).items()}
    rings = tuple(_by_ring(white)[0].tolist())
    return SpectrumStudy(tuple(entries), rings, bands, seed, samples.describe())


def _summarize(model: str, attack: str, added: torch.Tensor) -> PerturbationSpectrum:
    shares = energy(added)
    changed = shares.isfinite().all(2).all(1)
    if not changed.any():
        raise InputError(f"{attack} changed none of the images of {model}; use more images")
    masks = band_masks(*shares.shape[1:])
    by_band = {band: shares[:, mask].sum(1) for band, mask in masks.items()}
    low = zip(by_band["low"].tolist(), changed.tolist(), strict=True)
    return PerturbationSpectrum(
        model=model,
        attack=attack,
        changed=int(changed.sum()),
        ring_share=tuple(_by_ring(shares[changed]).mean(0).tolist()),
        bands={b: estimates.mean(v[changed].tolist()) for b, v in by_band.items()},
        low_share=tuple(share if ok else None for share, ok in low),
    )


def _by_ring(shares: torch.Tensor) -> torch.Tensor:
    """Sum over rings of rounded radius; (n, rings)."""
    ring = radii(*shares.shape[1:]).round().long().flatten()
    sums = torch.zeros(len(shares), int(ring.max()) + 1, dtype=shares.dtype)
    return sums.index_add_(1, ring, shares.flatten(1))
