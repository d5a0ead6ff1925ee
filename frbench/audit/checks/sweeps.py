"""Does a stronger attack do more harm? More steps, a larger eps, more restarts."""

from __future__ import annotations

import torch

from frbench.attacks import format_length, seeded
from frbench.audit.ascent import Ascent
from frbench.audit.findings import Finding, grade, worst
from frbench.audit.subject import Subject

STEPS = (1, 2, 5, 10, 20, 50, 100)
# Steps on which every image is broken before the rest of the curve is taken to be 0.
_SETTLED = 10
_LOOK_EVERY = 5
RADII = (0.5, 1, 2, 4, 8, 16)  # in units of eps; then 1, which reaches every image
# The last iterate of PGD swings: an odd image of a hundred comes back.
_RISE = (0.03, 0.10)
# Adversarially trained networks lose under a point from step 20 to 100; with 5 the usual number of
# steps is not enough for this model.
_NOT_CONVERGED = 0.05
# At eps 1 every image can become every other; what is still correct then was not attacked.
_FLOOR = (0.01, 0.05)
# Honest models lose up to two points to five starts. More says that it depends on luck where PGD
# ends, far more that it mostly gets stuck.
_LUCK = (0.05, 0.15)


def steps(subject: Subject) -> Finding:
    """Accuracy after 1 to 100 steps of PGD must not rise, and must level off by step 20.

    Each point is the last iterate of that many steps, as a column of the matrix would have it.
    Rise: suspicious beyond 3 points, broken beyond 10. From step 20 to 100: suspicious beyond 5.
    """
    curve = _curve(subject)
    rise = _largest_rise(curve)
    usual, longest = curve[STEPS.index(20)], curve[-1]
    verdict = grade(rise, *_RISE)
    reason = f"{100 * usual:.1f} % after 20 steps, {100 * longest:.1f} % after {STEPS[-1]}"
    if verdict != "trusted":
        reason = f"accuracy rises by {100 * rise:.1f} points with more steps"
    elif usual - longest > _NOT_CONVERGED:
        verdict = "suspicious"
        reason = f"20 steps are not enough: {reason}"
    return Finding(
        name="steps",
        verdict=verdict,
        reason=reason,
        numbers={"steps": list(map(float, STEPS)), "accuracy": curve, "largest rise": rise},
    )


def _curve(subject: Subject) -> list[float]:
    """Accuracy of the last iterate after each of `STEPS` steps."""
    counts = torch.tensor([_correct_after(part) for part in subject.chunks()])
    return [total / len(subject.sample) for total in counts.sum(dim=0).tolist()]


def _correct_after(part: Subject) -> list[int]:
    """Images of one batch that are still correct after each of `STEPS` steps."""
    attack = Ascent(part.eps, steps=STEPS[-1])
    counts = dict.fromkeys(STEPS, 0)
    alive = 0
    with seeded(part.seed):
        iterates = attack.iterates(part.model, part.images, part.labels)
        for number, adversarial in enumerate(iterates, start=1):
            if number not in STEPS and number % _LOOK_EVERY:
                continue
            correct = int(part.right(adversarial).sum())
            counts |= {number: correct} if number in STEPS else {}
            alive = number if correct else alive
            if number - alive >= _SETTLED:
                break
    return list(counts.values())


def radii(subject: Subject) -> Finding:
    """Accuracy must fall with eps, to 0 at the latest when eps is 1.

    PGD-20 from the image itself, so that gradients and not noise do the work. Left at eps 1:
    suspicious beyond 1 %, broken beyond 5 %. Rise from one eps to a larger one as for the steps.
    """
    lengths = [*(f * subject.eps for f in RADII if f * subject.eps < 1), 1.0]
    curve = []
    for eps in lengths:
        attack = Ascent(eps, random_start=False)
        curve.append(subject.share(subject.survivors(attack.perturb)))
    rise = _largest_rise(curve)
    floor = min(curve)
    verdict = worst([grade(floor, *_FLOOR), grade(rise, *_RISE)])
    reached = next((eps for eps, value in zip(lengths, curve, strict=True) if value == 0), None)
    if floor > _FLOOR[0]:
        reason = f"{100 * floor:.1f} % are left even at eps 1"
    elif verdict != "trusted":
        reason = f"accuracy rises by {100 * rise:.1f} points with a larger eps"
    else:
        reached_at = "eps 1" if reached is None else f"eps {format_length(reached)}"
        reason = f"falls to {100 * floor:.1f} % at {reached_at}"
    return Finding(
        name="eps",
        verdict=verdict,
        reason=reason,
        numbers={"eps": lengths, "accuracy": curve, "largest rise": rise},
    )


def restarts(subject: Subject) -> Finding:
    """Further random starts of PGD-20 must gain little.

    Suspicious beyond 5 points from the first to the fifth start, broken beyond 15.
    """
    curve = [subject.share(alive) for alive in subject.restarts()]
    gain = curve[0] - curve[-1]
    return Finding(
        name="restarts",
        verdict=grade(gain, *_LUCK),
        reason=f"one random start leaves {100 * curve[0]:.1f} %, five {100 * curve[-1]:.1f} %",
        numbers={"accuracy": curve},
    )


def _largest_rise(curve: list[float]) -> float:
    """From the lowest value so far to a later one."""
    values = torch.tensor(curve, dtype=torch.float64)
    return float((values - values.cummin(dim=0).values).max())
