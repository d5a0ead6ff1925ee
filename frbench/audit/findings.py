"""What a check returns, and the two ways in which checks compare attacks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Verdict = Literal["trusted", "suspicious", "broken"]
MARKS: dict[Verdict, str] = {"trusted": "✓", "suspicious": "?", "broken": "✗"}
"""How tables show a verdict; from the best to the worst."""
# One audit makes about ten comparisons: at this level an honest model fails one by chance in at
# most one audit of a hundred.
SIGNIFICANT = 0.001
# An honest model loses an odd image to a weaker attack alone, by the luck of its random numbers.
ODD_SHARE = 0.03
ODD_IMAGES = 3


class Finding(BaseModel):
    """The result of one check: what was measured, what it means, and why in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    verdict: Verdict
    reason: str
    numbers: dict[str, float | int | str | list[float]] = Field(default_factory=dict)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The worst of them; `trusted` when there is none."""
    return max(verdicts, key=list(MARKS).index, default="trusted")


def grade(value: float, suspicious: float, broken: float) -> Verdict:
    """The verdict of a number that is better the smaller it is; each bound is still allowed."""
    if value > broken:
        return "broken"
    return "suspicious" if value > suspicious else "trusted"


def beaten(weaker: Tensor, stronger: Tensor, sampled: int) -> tuple[Verdict, int]:
    """Whether an attack that ought to be weaker beats one that ought to be stronger.

    Broken if it breaks more images and chance does not explain it (McNemar's exact test, one-sided,
    0.001); suspicious if it alone breaks at least 3 images and 3 % of the sample.

    Args:
        weaker: which images survive it, bool (n,).
        stronger: the same images under the other attack, bool (n,).
        sampled: images of the sample, n and those that were wrong before any attack.

    Returns:
        The verdict, and how many images only the weaker attack breaks.
    """
    only_weaker = int((stronger & ~weaker).sum())
    only_stronger = int((weaker & ~stronger).sum())
    if only_weaker > only_stronger and significant(only_weaker, only_stronger):
        return "broken", only_weaker
    odd = only_weaker >= max(ODD_IMAGES, ODD_SHARE * sampled)
    return ("suspicious" if odd else "trusted"), only_weaker


def significant(wins: int, losses: int) -> bool:
    """Whether `wins` against `losses` of paired images is more than chance."""
    from scipy.stats import binomtest  # takes most of a second, which tables need not wait for

    if wins + losses == 0:
        return False
    test = binomtest(wins, wins + losses, alternative="greater")
    return bool(test.pvalue < SIGNIFICANT)
