"""The paper's Analysis as checks: does each claim hold for our models?

Every claim is one number with its 95 % interval against a threshold that is fixed here. It holds
when the whole interval is on the right side, does not hold when the whole interval is on the wrong
side, and cannot be told when the threshold lies inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.table import Table

from frbench.analysis import estimates, output
from frbench.analysis.estimates import Estimate
from frbench.analysis.kernels import KernelStudy
from frbench.analysis.lowpass import FilterStudy
from frbench.analysis.spectrum import SpectrumStudy
from frbench.errors import InputError

Verdict = Literal["holds", "does not hold", "cannot be told"]

# Bandwidths of the paper's Table 1 as shares of the image's size, so that they fit other images.
NARROW, MATCHED = 1 / 2, 5 / 8
# Thresholds, in shares of one; ours, the paper gives numbers but no limits.
SMALL_LOSS = 0.05
LARGE_LOSS = 0.20
CLEAR_RISE = 0.10
SIMILAR = 0.05
MOST = 0.5


@dataclass(frozen=True)
class Claim:
    """One claim about one model, with what was found."""

    key: str
    claim: str
    models: str
    measured: str
    estimate: Estimate
    threshold: str
    paper: str
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "estimate": self.estimate.to_json()}


@dataclass(frozen=True)
class ClaimStudy:
    """All claims that the given measurements can speak to."""

    claims: tuple[Claim, ...]

    def frame(self) -> pd.DataFrame:
        """One row a claim and model."""
        return pd.DataFrame(
            {
                "claim": c.key,
                "text": c.claim,
                "models": c.models,
                "measured": c.measured,
                "value": c.estimate.value,
                "low": c.estimate.low,
                "high": c.estimate.high,
                "threshold": c.threshold,
                "paper": c.paper,
                "verdict": c.verdict,
            }
            for c in self.claims
        )

    def to_json(self) -> dict[str, Any]:
        return {"analysis": "claims", "claims": [claim.to_json() for claim in self.claims]}

    def table(self) -> Table:
        """For the terminal; differences in percentage points, intervals of 95 %."""
        table = Table(title="claims of the paper's Analysis", title_justify="left", show_lines=True)
        for column in ("", "claim and measurement", "finding"):
            table.add_column(column)
        for c in self.claims:
            lines = (
                c.claim,
                f"{c.models}: {c.measured}",
                f"asked: {c.threshold}; paper: {c.paper}",
            )
            table.add_row(c.key, "\n".join(lines), c.verdict)
        return table

    def save(self, out: Path) -> None:
        """Write JSON and CSV into the folder `out`."""
        output.save_numbers(out, "claims", self.frame(), self.to_json())


def check_claims(
    natural: str,
    robust: Sequence[str],
    accuracies: FilterStudy,
    spectra: SpectrumStudy,
    kernels: KernelStudy,
    *,
    size: int = 32,
) -> ClaimStudy:
    """Hold the paper's claims against measurements of one natural and some robust models.

    Args:
        natural: name of the model trained without attacks.
        robust: names of the adversarially trained ones.
        accuracies: low-pass study that is not adaptive, with bandwidths `size`, 5/8 and 1/2 of it.
        spectra: perturbation spectra of PGD-20.
        size: of the images, in pixels.

    Raises:
        InputError: a measurement that a claim needs is missing.
    """
    if accuracies.adaptive:
        raise InputError(
            "the paper's claims are about attacks that ignore the filter: not adaptive"
        )
    found = _natural_claims(natural, accuracies, size)
    for model in robust:
        found += _accuracy_claims(natural, model, accuracies, size)
        found += _spectrum_claims(natural, model, spectra)
        found.append(_kernel_claim(natural, model, kernels))
    return ClaimStudy(tuple(sorted(found, key=lambda claim: claim.key)))


def _natural_claims(natural: str, study: FilterStudy, size: int) -> list[Claim]:
    narrow, matched = _even(size * NARROW), _even(size * MATCHED)
    clean = [_verdicts(study, natural, "clean", width) for width in (size, narrow)]
    attacked = [_verdicts(study, natural, "pgd20", width) for width in (size, matched)]
    fall = estimates.accuracy_difference(*clean)
    rise = estimates.accuracy_difference(attacked[1], attacked[0])
    return [
        Claim(
            "b1",
            "the natural model's clean accuracy falls without high frequencies",
            natural,
            f"{_change(*clean)}, fall {fall.percent()}",
            fall,
            f"fall of at least {100 * LARGE_LOSS:.0f} points, LPF {size} to {narrow}",
            "94.56 to 50.72",
            _above(fall, LARGE_LOSS),
        ),
        Claim(
            "b2",
            "the natural model's accuracy under attack rises without high frequencies",
            natural,
            f"{_change(*attacked)}, rise {rise.percent()}",
            rise,
            f"rise of at least {100 * CLEAR_RISE:.0f} points, LPF {size} to {matched}",
            "0.0 to 39.25",
            _above(rise, CLEAR_RISE),
        ),
    ]


def _accuracy_claims(natural: str, robust: str, study: FilterStudy, size: int) -> list[Claim]:
    narrow, matched = _even(size * NARROW), _even(size * MATCHED)
    full = _verdicts(study, robust, "clean", size)
    filtered = _verdicts(study, robust, "clean", narrow)
    loss = estimates.accuracy_difference(full, filtered)
    seen = _verdicts(study, natural, "clean", matched)
    gap = estimates.accuracy_difference(seen, full)
    return [
        Claim(
            "a",
            "the robust model loses little clean accuracy without high frequencies",
            robust,
            f"{_change(full, filtered)}, loss {loss.percent()}",
            loss,
            f"loss of at most {100 * SMALL_LOSS:.0f} points, LPF {size} to {narrow}",
            "80.55 to 77.4",
            _below(loss, SMALL_LOSS),
        ),
        Claim(
            "e",
            f"the natural model at LPF {matched} is as accurate as the robust model is clean",
            f"{natural}, {robust}",
            f"{_share(seen)} and {_share(full)}, gap {gap.percent()}",
            gap,
            f"gap of at most {100 * SIMILAR:.0f} points either way",
            "80.7 and 80.55",
            _within(gap, SIMILAR),
        ),
    ]


def _spectrum_claims(natural: str, robust: str, study: SpectrumStudy) -> list[Claim]:
    ours, theirs = study.find(robust, "pgd20"), study.find(natural, "pgd20")
    if ours is None or theirs is None:
        raise InputError(f"no spectrum of pgd20 against {robust} and {natural}: measure both first")
    pairs = zip(ours.low_share, theirs.low_share, strict=True)
    excess = estimates.mean([a - b for a, b in pairs if a is not None and b is not None])
    low, yardstick = ours.bands["low"], theirs.bands["low"]
    return [
        Claim(
            "c1",
            "the perturbation lies lower in frequency for the robust model than the natural",
            f"{natural}, {robust}",
            f"low band {100 * yardstick.value:.1f} and {100 * low.value:.1f} %, "
            f"excess {excess.percent()}",
            excess,
            "excess above 0 points (low band: below a third of Nyquist)",
            "seen in Figure 2",
            _above(excess, 0.0),
        ),
        Claim(
            "c2",
            "the robust model's perturbation lies mainly at low frequencies",
            robust,
            f"low band {low.percent()} % (white noise {100 * study.white_bands['low']:.1f})",
            low,
            f"more than {100 * MOST:.0f} % of the energy",
            "seen in Figure 2",
            _above(low, MOST),
        ),
    ]


def _kernel_claim(natural: str, robust: str, study: KernelStudy) -> Claim:
    ours, theirs = study.find(robust), study.find(natural)
    if ours is None or theirs is None:
        raise InputError(f"no kernels of {robust} and {natural}: measure both first")
    # Total variation over L1 norm grows with the kernel; that of independent weights does as well.
    before, after = (
        [value / e.noise_level for value in e.by_filter if value is not None]
        for e in (theirs, ours)
    )
    gain = estimates.mean_difference(before, after)
    shares = " and ".join(f"{100 * estimates.mean(part).value:.0f}" for part in (before, after))
    return Claim(
        "d",
        "first-layer kernels are smoother in the robust model",
        f"{natural}, {robust}",
        f"{shares} % of independent weights, gain {gain.percent()} points",
        gain,
        "gain above 0 in total variation over L1 norm, in shares of independent weights",
        "seen in Figure 1",
        _above(gain, 0.0),
    )


def _verdicts(study: FilterStudy, model: str, attack: str, bandwidth: int) -> str:
    entry = study.find(model, attack, bandwidth)
    if entry is None or entry.filter.kind != "lowpass":
        raise InputError(f"no low-pass accuracy of {model} ({attack}) at bandwidth {bandwidth}")
    return entry.verdicts


def _even(value: float) -> int:
    return 2 * round(value / 2)


def _share(verdicts: str) -> str:
    return f"{100 * estimates.accuracy(verdicts).value:.1f}"


def _change(before: str, after: str) -> str:
    return f"{_share(before)} to {_share(after)}"


def _above(estimate: Estimate, limit: float) -> Verdict:
    if estimate.low > limit:
        return "holds"
    return "does not hold" if estimate.high < limit else "cannot be told"


def _below(estimate: Estimate, limit: float) -> Verdict:
    return _above(Estimate(-estimate.value, -estimate.high, -estimate.low), -limit)


def _within(estimate: Estimate, limit: float) -> Verdict:
    """Inside of both limits; outside of one is enough to fail."""
    both = (_below(estimate, limit), _above(estimate, -limit))
    if "does not hold" in both:
        return "does not hold"
    return "holds" if both == ("holds", "holds") else "cannot be told"
