"""Accuracy through a frequency filter: Table 1 of the paper, for any models and filters.

Adversarial images are crafted on the unfiltered model and image, and filtered before they are
classified. An attacker who knows of the filter does better: `adaptive` attacks through it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table

from frbench.analysis import estimates, output
from frbench.analysis.estimates import Estimate
from frbench.analysis.filters import (
    Filtered,
    FilterKind,
    FrequencyFilter,
    check_fits,
    default_bandwidths,
    filter_bank,
)
from frbench.analysis.forward import check_targets, craft, verdicts
from frbench.analysis.inputs import ImageSet
from frbench.attacks import specs
from frbench.attacks.spec import AttackSpec
from frbench.engine.presets import EVALUATION_BATCH
from frbench.evaluation.cells import ROBUST
from frbench.evaluation.target import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilteredAccuracy:
    """One number of the table: a model on clean or attacked images through one filter.

    `verdicts` has one character an image, '1' for correct.
    """

    model: str
    digest: str
    attack: str
    filter: FrequencyFilter
    verdicts: str

    @property
    def accuracy(self) -> Estimate:
        return estimates.accuracy(self.verdicts)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "digest": self.digest,
            "attack": self.attack,
            "filter": self.filter.to_json(),
            "n": len(self.verdicts),
            "correct": self.verdicts.count(ROBUST),
            "accuracy": self.accuracy.to_json(),
            "verdicts": self.verdicts,
        }


@dataclass(frozen=True)
class FilterStudy:
    """The whole table with the settings that made it."""

    entries: tuple[FilteredAccuracy, ...]
    attack: AttackSpec
    adaptive: bool
    seed: int
    batch: int
    data: dict[str, Any] | None

    def models(self) -> list[str]:
        return list(dict.fromkeys(entry.model for entry in self.entries))

    def attacks(self) -> list[str]:
        return list(dict.fromkeys(entry.attack for entry in self.entries))

    def filters(self) -> list[FrequencyFilter]:
        return list(dict.fromkeys(entry.filter for entry in self.entries))

    def find(self, model: str, attack: str, bandwidth: int) -> FilteredAccuracy | None:
        """The entry of one model, attack and bandwidth, or None."""
        wanted = (model, attack, bandwidth)
        matching = (e for e in self.entries if (e.model, e.attack, e.filter.bandwidth) == wanted)
        return next(matching, None)

    def frame(self) -> pd.DataFrame:
        """One row an entry, accuracies in [0, 1]."""
        return pd.DataFrame(
            {
                "model": entry.model,
                "attack": entry.attack,
                "adaptive": self.adaptive and entry.attack != "clean",
                "filter": entry.filter.kind,
                "bandwidth": entry.filter.bandwidth,
                "inner": entry.filter.inner,
                "clamp": entry.filter.clamp,
                "n": len(entry.verdicts),
                "correct": entry.verdicts.count(ROBUST),
                "accuracy": entry.accuracy.value,
                "low": entry.accuracy.low,
                "high": entry.accuracy.high,
            }
            for entry in self.entries
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "lowpass",
            "attack": self.attack.model_dump(mode="json"),
            "adaptive": self.adaptive,
            "seed": self.seed,
            "batch": self.batch,
            "data": self.data,
            "entries": [entry.to_json() for entry in self.entries],
        }

    def table(self) -> Table:
        """The layout of the paper's Table 1, in percent with 95 % intervals."""
        filters = self.filters()
        table = Table(title=self._title(), title_justify="left")
        for column in ("model", "images", *(f.label for f in filters)):
            table.add_column(column, justify="left" if column in ("model", "images") else "right")
        for model in self.models():
            for attack in self.attacks():
                found = [self.find(model, attack, f.bandwidth) for f in filters]
                shown = [entry.accuracy.percent() if entry else "" for entry in found]
                numbers = [text.replace(" ", "\n", 1) for text in shown]
                table.add_row(model, attack, *numbers)
        return table

    def plot(self) -> Figure:
        """Accuracy against bandwidth; clean solid, attacked dashed, a grey and marker a model."""
        filters = self.filters()
        with output.figure(6.4, 4.0) as fig:
            axes = fig.subplots()
            for m, model in enumerate(self.models()):
                for a, attack in enumerate(self.attacks()):
                    found = (self.find(model, attack, f.bandwidth) for f in filters)
                    shares = [entry.accuracy for entry in found if entry]
                    axes.errorbar(
                        range(len(shares)),
                        [100 * s.value for s in shares],
                        yerr=[
                            [100 * (s.value - s.low) for s in shares],
                            [100 * (s.high - s.value) for s in shares],
                        ],
                        color=output.GREYS[m % len(output.GREYS)],
                        marker=output.MARKERS[m % len(output.MARKERS)],
                        linestyle=output.DASHES[a % len(output.DASHES)],
                        markerfacecolor="white" if a else None,
                        elinewidth=0.8,
                        capsize=2.5,
                        label=f"{model}, {attack}",
                    )
            axes.set_xticks(range(len(filters)), [f.label for f in filters])
            axes.set(xlabel=_AXIS[filters[0].kind], ylabel="accuracy (%)", ylim=(-2, 102))
            axes.set_title(self._title(), loc="left")
            fig.legend(loc="outside lower center", ncols=2, fontsize=8)
        return fig

    def save(self, out: Path) -> None:
        """Write JSON, CSV, SVG and PNG into the folder `out`."""
        stem = self.filters()[0].kind + ("-adaptive" if self.adaptive else "")
        output.save_numbers(out, stem, self.frame(), self.to_json())
        output.save_figure(out, stem, self.plot())

    def _title(self) -> str:
        first = self.entries[0]
        parts = [f"{first.filter.kind} filter, n={len(first.verdicts)}"]
        if len(self.attacks()) > 1:
            way = "through the filter" if self.adaptive else "before the filter"
            parts.append(f"{self.attack.name} {self.attack.threat_model} {way}")
        parts.append("clamped" if first.filter.clamp else "not clamped")
        return "; ".join(parts)


_AXIS = {
    "lowpass": "kept block k x k (coefficients; right: stronger filter)",
    "highpass": "removed block k x k (coefficients; left: stronger filter)",
    "bandpass": "kept ring between two blocks (coefficients; right: lower frequencies)",
}


def filter_study(
    targets: Sequence[Target],
    samples: ImageSet,
    *,
    bandwidths: Iterable[int] | None = None,
    kind: FilterKind = "lowpass",
    clamp: bool = False,
    attacked: bool = True,
    adaptive: bool = False,
    seed: int = 0,
    batch: int = EVALUATION_BATCH,
) -> FilterStudy:
    """Clean and PGD-20 accuracy of each model at each bandwidth.

    Args:
        bandwidths: even numbers; None for those of the paper.
        clamp: clip filtered images to [0, 1]; the paper does not say, so off by default.
        attacked: add the PGD-20 rows (eps 8/255, step 2/255, random start).
        adaptive: craft through each filter anew instead of once without it.

    Raises:
        InputError: a bandwidth is odd, not positive or larger than the image.
    """
    check_targets(targets)
    widths = default_bandwidths(min(samples.size)) if bandwidths is None else bandwidths
    bank = filter_bank(widths, kind, clamp=clamp)
    for each in bank:
        check_fits(each.bandwidth, *samples.size)
    spec = specs()["pgd20"]
    entries: list[FilteredAccuracy] = []
    for target in targets:
        log.info("%s: clean images through %d filters", target.record.name, len(bank))
        entries += [
            _measure(target, samples.images, samples.labels, f, "clean", batch) for f in bank
        ]
        if attacked:
            entries += _attacked(target, samples, bank, spec, adaptive, seed, batch)
    return FilterStudy(tuple(entries), spec, adaptive, seed, batch, samples.describe())


def _attacked(
    target: Target,
    samples: ImageSet,
    bank: Sequence[FrequencyFilter],
    spec: AttackSpec,
    adaptive: bool,
    seed: int,
    batch: int,
) -> list[FilteredAccuracy]:
    entries = []
    x_adv: torch.Tensor | None = None
    for each in bank:
        if adaptive or x_adv is None:
            model = Filtered(target.model, each) if adaptive else None
            log.info("%s: %s%s", target.record.name, spec.name, f" at {each.label}" * adaptive)
            x_adv = craft(target, samples, spec, model=model, seed=seed, batch=batch)
        entries.append(_measure(target, x_adv, samples.labels, each, spec.name, batch))
    return entries


def _measure(
    target: Target,
    images: torch.Tensor,
    labels: torch.Tensor,
    frequency_filter: FrequencyFilter,
    attack: str,
    batch: int,
) -> FilteredAccuracy:
    model = Filtered(target.model, frequency_filter)
    found = verdicts(target, images, labels, model=model, batch=batch)
    record = target.record
    return FilteredAccuracy(record.name, record.digest, attack, frequency_filter, found)
