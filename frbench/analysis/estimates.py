"""A number with its 95 % interval, as every analysis reports it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from frbench.evaluation.cells import ROBUST
from frbench.leaderboard.statistics import CONFIDENCE, pair_counts, paired_interval, wilson


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; a bound that is not known is infinite."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """As JSON; a bound that is not known is null."""
        return {key: v if math.isfinite(v) else None for key, v in asdict(self).items()}

    def percent(self) -> str:
        """`94.1 [90.4, 96.5]`: shares in percent, differences of shares in points."""
        return Estimate(100 * self.value, 100 * self.low, 100 * self.high).plain(digits=1)

    def plain(self, digits: int = 2) -> str:
        """`1.62 [1.51, 1.73]`."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def accuracy(verdicts: str) -> Estimate:
    """Share of '1' among the verdicts, with Wilson's interval."""
    correct = verdicts.count(ROBUST)
    return Estimate(correct / len(verdicts), *wilson(correct, len(verdicts)))


def accuracy_difference(first: str, second: str) -> Estimate:
    """Accuracy of `first` less that of `second`, verdicts on the same images."""
    counts = pair_counts(first, second)
    return Estimate(counts.difference, *paired_interval(counts))


def mean(values: Sequence[float]) -> Estimate:
    """A mean with Student's interval; the interval of a single value is unbounded."""
    data = np.asarray(values, dtype=float)
    centre = float(data.mean())
    if len(data) < 2:
        return Estimate(centre, -math.inf, math.inf)
    error = float(data.std(ddof=1)) / math.sqrt(len(data))
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(data) - 1))
    return Estimate(centre, centre - half, centre + half)


def mean_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of `first` less mean of `second`, independent samples, with Welch's interval."""
    value = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return Estimate(value, -math.inf, math.inf)
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return Estimate(value, value, value)
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    return Estimate(value, float(found.low), float(found.high))
