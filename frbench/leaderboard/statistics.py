"""What the numbers of a table can carry: intervals, paired tests, rank ranges, the worst case.

A verdict vector is a string with one character an image: '1' classified correctly, '0' not,
'.' not known yet (see `frbench.evaluation.cells`).

scipy.stats is imported where it is called: it takes most of a second, and a table of one row needs
none of its tests.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from frbench.errors import InputError
from frbench.evaluation.cells import BROKEN, ROBUST, UNSEEN

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
_Z = statistics.NormalDist().inv_cdf(1 - ALPHA / 2)

# Each attack with those that cannot leave more images than it: they contain it or search harder.
STRONGER: dict[str, tuple[str, ...]] = {
    "clean": ("fgsm", "pgd20", "cw", "aa"),
    "fgsm": ("pgd20", "aa"),
    "pgd20": ("aa",),
    "cw": ("aa",),
}
_FULL_REACH = 8
"""PGD steps of eps/4 that lead from any start to any corner; fewer can do less than FGSM."""


class Interval(NamedTuple):
    """Both ends, as shares in [0, 1]; for a difference in [-1, 1]."""

    low: float
    high: float


class RankRange(NamedTuple):
    """The ranks (1 is best) that the data leave open."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


@dataclass(frozen=True)
class PairCounts:
    """Images by which of two models is right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of a minus accuracy of b."""
        return (self.only_a - self.only_b) / self.n


def wilson(correct: int, n: int) -> Interval:
    """Wilson's 95 % score interval of a proportion (Wilson 1927)."""
    rate, spread = correct / n, _Z * _Z / n
    middle = rate + spread / 2
    half = sqrt(spread * (rate * (1 - rate) + spread / 4))
    low = (middle - half) / (1 + spread) if correct else 0.0
    high = (middle + half) / (1 + spread) if correct < n else 1.0
    return Interval(low, high)


def pair_counts(a: str, b: str) -> PairCounts:
    """Count the four outcomes of two complete verdict vectors over the same images.

    Raises:
        InputError: the vectors differ in length, are empty or hold an unknown verdict.
    """
    if len(a) != len(b) or not a:
        raise InputError(f"cannot pair verdicts of {len(a)} and {len(b)} images")
    if UNSEEN in a or UNSEEN in b:
        raise InputError("cannot pair verdicts before every image has one; finish the evaluation")
    left, right = _right(a), _right(b)
    both, only_a, only_b = (int(v.sum()) for v in (left & right, left & ~right, ~left & right))
    return PairCounts(both, only_a, only_b, len(a) - both - only_a - only_b)


def _right(verdicts: str) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = np.frombuffer(verdicts.encode(), np.uint8) == ord(ROBUST)
    return right


def mcnemar(counts: PairCounts) -> float:
    """Two-sided p-value of McNemar's exact test: discordant images fall either way equally."""
    from scipy import stats

    discordant = counts.only_a + counts.only_b
    return 1.0 if discordant == 0 else float(stats.binomtest(counts.only_a, discordant).pvalue)


def paired_interval(counts: PairCounts) -> Interval:
    """95 % interval of the difference of two accuracies on the same images.

    Wald's interval after one image is added to each discordant count (Bonett and Price 2012).
    """
    n = counts.n + 2
    a, b = (counts.only_a + 1) / n, (counts.only_b + 1) / n
    half = _Z * sqrt((a + b - (a - b) ** 2) / n)
    return Interval(max(-1.0, a - b - half), min(1.0, a - b + half))


def two_proportions(correct_a: int, n_a: int, correct_b: int, n_b: int) -> float:
    """Two-sided p-value of Fisher's exact test, for accuracies on different images."""
    from scipy import stats

    table = [[correct_a, n_a - correct_a], [correct_b, n_b - correct_b]]
    return float(stats.fisher_exact(table).pvalue)


def unpaired_interval(correct_a: int, n_a: int, correct_b: int, n_b: int) -> Interval:
    """95 % interval of the difference on different images, from Wilson's (Newcombe 1998, 10)."""
    a, b = correct_a / n_a, correct_b / n_b
    low_a, high_a = wilson(correct_a, n_a)
    low_b, high_b = wilson(correct_b, n_b)
    return Interval(
        a - b - sqrt((a - low_a) ** 2 + (high_b - b) ** 2),
        a - b + sqrt((high_a - a) ** 2 + (b - low_b) ** 2),
    )


def seed_summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1) over seeds; needs two values."""
    return statistics.fmean(values), statistics.stdev(values)


def worst_case(verdicts: Sequence[str]) -> str:
    """Verdicts under the union of attacks: an image is right only when every attack left it so."""
    return "".join(_worst(column) for column in zip(*verdicts, strict=True))


def _worst(column: Sequence[str]) -> str:
    if BROKEN in column:
        return BROKEN
    return UNSEEN if UNSEEN in column else ROBUST


def rank_ranges(rows: Sequence[Sequence[str]]) -> list[RankRange]:
    """The ranks that each row may have, given verdicts on the same images.

    Row a beats row b when every seed of a beats every seed of b by McNemar's test. Of all pairs of
    rows together the chance of one false finding is at most 5 % (Holm 1979). Best rank is 1 + rows
    that beat it, worst is the number of rows less those that it beats; rows that cannot be told
    apart share ranks.

    Args:
        rows: one entry a row: the complete verdict vectors of its seeds.
    """
    pairs = sorted((*_tested(rows[i], rows[j]), i, j) for i, j in combinations(range(len(rows)), 2))
    lost, won = [0] * len(rows), [0] * len(rows)
    for place, (p_value, ahead, i, j) in enumerate(pairs):
        if p_value * (len(pairs) - place) >= ALPHA:
            break
        winner, loser = (i, j) if ahead else (j, i)
        won[winner] += 1
        lost[loser] += 1
    n = len(rows)
    return [RankRange(1 + lost[i], n - won[i]) for i in range(n)]


def _tested(a: Sequence[str], b: Sequence[str]) -> tuple[float, bool]:
    """The largest p-value of any seed of a against any of b, and whether a is ahead in all.

    It is 1 where seeds disagree on which row is ahead.
    """
    counts = [pair_counts(one, other) for one in a for other in b]
    ahead = {found.only_a > found.only_b for found in counts}
    p_value = max(mcnemar(found) for found in counts)
    return (p_value if len(ahead) == 1 else 1.0), True in ahead


def order_warnings(verdicts: Mapping[str, str]) -> list[str]:
    """Attacks that left more images than a weaker one did, in words; chance can explain a few.

    Args:
        verdicts: complete verdict vectors by attack, all on the same images.
    """
    return [
        _out_of_order(strong, weak, counts)
        for weak, strong in permutations(verdicts, 2)
        if _is_stronger(strong, weak)
        for counts in [pair_counts(verdicts[strong], verdicts[weak])]
        if counts.only_a > counts.only_b
    ]


def _is_stronger(strong: str, weak: str) -> bool:
    """Whether one column contains another or searches harder; PGD does with more steps."""
    steps, fewer = _pgd_steps(strong), _pgd_steps(weak)
    if steps and fewer:
        return steps > fewer
    return _standard(strong) in STRONGER.get(_standard(weak), ())


def _standard(name: str) -> str:
    """The column of STRONGER that another one is like; its own name if there is none."""
    if _pgd_steps(name) >= _FULL_REACH:
        return "pgd20"
    return "aa" if {"apgd-ce", "apgd-t"} <= set(name.removeprefix("aa-").split("+")) else name


def _pgd_steps(name: str) -> int:
    """100 for `pgd100`; 0 for all but PGD."""
    steps = name.removeprefix("pgd")
    return int(steps) if steps != name and steps.isdecimal() else 0


def _out_of_order(strong: str, weak: str, counts: PairCounts) -> str:
    more, p_value = counts.only_a - counts.only_b, mcnemar(counts)
    reason = (
        "a sign of masked gradients or of an attack that failed"
        if p_value < ALPHA
        else f"within chance (McNemar's test, p = {p_value:.2f})"
    )
    images = "image" if more == 1 else "images"
    return f"{strong} leaves {more} more {images} than the weaker {weak}: {reason}"
