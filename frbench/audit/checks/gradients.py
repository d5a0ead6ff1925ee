"""Do gradients tell an attack where to go?"""

from __future__ import annotations

import torch
from torch import Tensor

from frbench.attacks import seeded
from frbench.attacks.margin import margin as margin_loss
from frbench.audit.ascent import (
    Ascent,
    Loss,
    cross_entropy,
    unit_cross_entropy,
    value_and_gradient,
)
from frbench.audit.findings import Finding, beaten, grade, significant, worst
from frbench.audit.straight_through import StraightThrough, step_functions
from frbench.audit.subject import Subject

# AutoAttack warns of any point without a gradient; a few dead units can cause one, and one point of
# ten is beyond any such accident.
_ZERO_IMAGES = (0.0, 0.10)
# ReLU networks have a zero here and there; half of all pixels without any influence has another
# cause, such as a mask.
_ZERO_ENTRIES = 0.5
# A right gradient leads uphill over a sixteenth of eps, a wrong one as often as not.
_UPHILL_STEP = 1 / 16
_DOWNHILL = (0.10, 0.50)
# Adversarial training makes the loss nearly linear in the ball (Qin et al. 2019). A rugged surface
# is no fault in itself, the undefended model has one, but a robust accuracy on it needs a reason.
_RUGGED = 0.75
_CLAIMED = 0.10
# PGD-20 exceeds AutoAttack by up to 8 points for honest defenses (MART, FR); beyond that it
# measures the loss.
_LOSS_GAP = (0.10, 0.20)


def zero_gradients(subject: Subject) -> Finding:
    """Cross-entropy must have a gradient at random points of the ball.

    Suspicious if any image has none, broken above 10 % of the images.
    """
    with seeded(subject.seed):
        points = Ascent(subject.eps).start(subject.images)
        gradient = _gradient(subject, points, cross_entropy)
    zero = (gradient == 0).flatten(1)
    images, entries = float(zero.all(dim=1).float().mean()), float(zero.float().mean())
    verdict = grade(images, *_ZERO_IMAGES)
    if verdict == "trusted" and entries > _ZERO_ENTRIES:
        verdict = "suspicious"
    return Finding(
        name="zero gradients",
        verdict=verdict,
        reason=f"the gradient is zero at {images:.0%} of the points, {entries:.0%} of its entries",
        numbers={"points without gradient": images, "entries that are zero": entries},
    )


def linearity(subject: Subject) -> Finding:
    """The loss must rise where the gradient says, and about as much as it says.

    Measured from the image along the sign of the gradient. Broken if a step of eps/16 leaves
    cross-entropy as it was or lower for more than half of the images, suspicious above 10 %. One
    step of eps is FGSM, which must not beat PGD. Suspicious too if over eps the rise of the margin
    (cross-entropy bends even where logits are linear) is mostly not what its gradient predicts
    while 10 % of the images withstand white-box attacks.
    """
    images = subject.images
    direction = _gradient(subject, images, cross_entropy).sign()
    near = (images + _UPHILL_STEP * subject.eps * direction).clamp(0, 1)
    risen = _loss(subject, near, cross_entropy) > _loss(subject, images, cross_entropy)
    downhill = 1 - float(risen.double().mean())
    fgsm = subject.right((images + subject.eps * direction).clamp(0, 1))
    one_step, only = beaten(fgsm, subject.white_box(), len(subject.sample))
    error = _linearity_error(subject)
    verdict = worst([grade(downhill, *_DOWNHILL), one_step])
    reason = f"the gradient leads uphill for {1 - downhill:.0%} of {len(images)} images"
    if one_step != "trusted":
        reason += f"; one step breaks {only} images that PGD leaves"
    if verdict == "trusted" and error > _RUGGED and subject.share(subject.white_box()) > _CLAIMED:
        verdict = "suspicious"
        reason = f"rugged: the rise over eps is off by {error:.0%} of what the gradient predicts"
    return Finding(
        name="linearity",
        verdict=verdict,
        reason=reason,
        numbers={
            "not uphill": downhill,
            "median linearity error": error,
            "fgsm": subject.share(fgsm),
        },
    )


def _linearity_error(subject: Subject) -> float:
    """Median over images of |rise - predicted rise| / max(|rise|, |predicted rise|), in [0, 2].

    Of the margin, over eps along the sign of its gradient.
    """
    images = subject.images
    gradient = _gradient(subject, images, margin_loss)
    far = (images + subject.eps * gradient.sign()).clamp(0, 1)
    rise = _loss(subject, far, margin_loss) - _loss(subject, images, margin_loss)
    predicted = (gradient * (far - images)).double().flatten(1).sum(dim=1)
    largest = torch.maximum(rise.abs(), predicted.abs()).clamp_min(torch.finfo(rise.dtype).tiny)
    return float(((rise - predicted).abs() / largest).median())


def margin(subject: Subject) -> Finding:
    """PGD on the margin must not do far better than PGD on cross-entropy.

    Both have 20 steps and the same random start. Suspicious beyond 10 points, broken beyond 20, if
    chance does not explain it.
    """
    return _against_cross_entropy(subject, "margin", subject.margin(), "the margin")


def logit_scale(subject: Subject) -> Finding:
    """PGD on logits brought to unit scale must not do far better: it would mean underflow.

    Cross-entropy of logits that lie 100 apart has the gradient 0 in float32. Bounds as for the
    margin.
    """
    survivors = subject.survivors(Ascent(subject.eps, loss=unit_cross_entropy).perturb)
    found = _against_cross_entropy(subject, "logit scale", survivors, "unit-scale logits")
    logits = subject.logits(subject.images)
    spread = float((logits.amax(dim=1) - logits.amin(dim=1)).median())
    certain = float((cross_entropy(logits, subject.labels) == 0).float().mean())
    numbers = {"median logit range": spread, "cross-entropy exactly 0": certain, **found.numbers}
    return found.model_copy(update={"numbers": numbers})


def straight_through(subject: Subject) -> Finding:
    """An attack that sees through rounding must not beat one that does not (BPDA).

    Only for models that call a step function of torch between image and logits.
    """
    name = "straight-through"
    met = step_functions(subject.model, subject.images[:2])
    if not met:
        return Finding(name=name, verdict="trusted", reason="no step function found in the model")
    if not subject.white_box().any():
        return nothing_left(name)
    attack = Ascent(subject.eps, surrogate=StraightThrough)
    survivors = subject.survivors(attack.perturb)
    verdict, only = beaten(survivors, subject.white_box(), len(subject.sample))
    return Finding(
        name=name,
        verdict=verdict,
        reason=f"{met} step functions; ignoring them breaks {only} images that PGD leaves",
        numbers={"straight-through": subject.share(survivors), **white_box_number(subject)},
    )


def nothing_left(name: str) -> Finding:
    """The finding of an attack that cannot beat the white-box attack: no image survived that."""
    reason = "PGD leaves no image, so there is nothing to beat"
    return Finding(name=name, verdict="trusted", reason=reason)


def white_box_number(subject: Subject) -> dict[str, float]:
    """Accuracy under the white-box attack, by its name."""
    return {"white-box": subject.share(subject.white_box())}


def _against_cross_entropy(subject: Subject, name: str, survivors: Tensor, what: str) -> Finding:
    reference = subject.cross_entropy()
    usual, left = subject.share(reference), subject.share(survivors)
    wins = int((reference & ~survivors).sum())
    losses = int((survivors & ~reference).sum())
    far = significant(wins, losses)
    return Finding(
        name=name,
        verdict=grade(usual - left, *_LOSS_GAP) if far else "trusted",
        reason=f"PGD-20 on {what} leaves {100 * left:.1f} %, on cross-entropy {100 * usual:.1f} %",
        numbers={"cross-entropy": usual, name: left},
    )


def _gradient(subject: Subject, points: Tensor, loss: Loss) -> Tensor:
    """Gradients at `points`, one for each of the subject's images."""
    pairs = zip(
        torch.split(points, subject.batch), torch.split(subject.labels, subject.batch), strict=True
    )
    return torch.cat([value_and_gradient(subject.model, x, y, loss)[1] for x, y in pairs])


def _loss(subject: Subject, images: Tensor, loss: Loss) -> Tensor:
    """Loss an image in float64: small rises of a small loss would be lost in float32."""
    with seeded(subject.seed):
        return loss(subject.logits(images).double(), subject.labels)
