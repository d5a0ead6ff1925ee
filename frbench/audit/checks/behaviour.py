"""Is the model one fixed function of one image?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frbench.attacks import seeded
from frbench.audit.ascent import Ascent
from frbench.audit.findings import Finding, Verdict, beaten, significant, worst
from frbench.audit.subject import Subject

_PASSES = 8
# As shares of the spread of an image's logits. Float32 sums in another order differ by 1e-6 to
# 1e-5; a hundred times that is no rounding.
_ROUNDING = 1e-3
# A prediction that changes in 1 of 100 images moves an accuracy as much as its 95 % interval does.
_FLIPPED = 0.01
# Weight averaging without fresh statistics costs tens of points; batches of 64 cost a few.
_BATCHNORM_GAP = 0.10
_FEWEST_IMAGES = 8


def determinism(subject: Subject) -> Finding:
    """The same image must give the same logits, again and in any company.

    Broken if a prediction changes in more than 1 % of the images; suspicious if logits change by
    more than rounding. An accuracy of a random model is that of one draw, and an attack follows
    the gradient of another.
    """
    images = subject.sample
    with seeded(subject.seed):
        first, *others = [subject.logits(images) for _ in range(_PASSES)]
        flipped = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for logits in others:
            flipped |= logits.argmax(dim=1) != first.argmax(dim=1)
        changed = max(_change(first, logits) for logits in others)
        company = first.clone()
        for every_second in (slice(0, None, 2), slice(1, None, 2)):  # other neighbours for each
            if len(images[every_second]):
                company[every_second] = subject.logits(images[every_second])
    moved = company.argmax(dim=1) != first.argmax(dim=1)
    dependence = _change(first, company)
    share, moved_share = float(flipped.float().mean()), float(moved.float().mean())
    reason = "same logits in every pass and in every batch"
    verdict: Verdict = "trusted"
    if changed > _ROUNDING:
        verdict = "broken" if share > _FLIPPED else "suspicious"
        reason = f"random: predictions of {share:.0%} of the images change between {_PASSES} passes"
    elif dependence > _ROUNDING:
        verdict = "broken" if moved_share > _FLIPPED else "suspicious"
        reason = f"logits depend on the rest of the batch ({moved_share:.0%} of predictions change)"
    return Finding(
        name="determinism",
        verdict=verdict,
        reason=reason,
        numbers={
            "predictions changed": share,
            "logits changed": changed,
            "predictions changed by the batch": moved_share,
            "logits changed by the batch": dependence,
        },
    )


def _change(first: Tensor, second: Tensor) -> float:
    """Largest change of a logit, as a share of the spread of its image's logits."""
    spread = (first.amax(dim=1) - first.amin(dim=1)).clamp_min(torch.finfo(first.dtype).tiny)
    return float(((first - second).abs().amax(dim=1) / spread).max())


def batchnorm(subject: Subject) -> Finding:
    """BatchNorm's stored statistics must fit the weights, and hide no gradient.

    Suspicious if clean accuracy with the batch's own statistics is another by over 10 points, not
    by chance; suspicious or broken if an attack through them beats the attack on the model itself.
    """
    twin = _train_mode_twin(subject.model)
    if twin is None:
        return Finding(name="batchnorm", verdict="trusted", reason="no BatchNorm with statistics")
    if len(subject.images) < _FEWEST_IMAGES:
        return Finding(
            name="batchnorm",
            verdict="trusted",
            reason=f"not measured: {len(subject.images)} images make no statistics",
        )
    with torch.no_grad(), seeded(subject.seed):
        own = subject.logits(subject.sample).argmax(dim=1) == subject.sample_labels
        batch = twin(subject.sample).argmax(dim=1) == subject.sample_labels
    gap = subject.share(batch) - subject.share(own)
    more, fewer = int((batch & ~own).sum()), int((own & ~batch).sum())
    unfit = abs(gap) > _BATCHNORM_GAP and significant(max(more, fewer), min(more, fewer))
    numbers = {"clean": subject.share(own), "clean with batch statistics": subject.share(batch)}
    verdict: Verdict = "suspicious" if unfit else "trusted"
    reason = f"clean accuracy changes by {100 * gap:+.1f} points with the batch's own statistics"
    if subject.white_box().any():
        survivors = subject.survivors(Ascent(subject.eps).perturb, model=twin)
        attacked, only = beaten(survivors, subject.white_box(), len(subject.sample))
        numbers["attacked through batch statistics"] = subject.share(survivors)
        numbers["broken only through batch statistics"] = only
        if attacked != "trusted":
            reason = f"an attack through batch statistics alone breaks {only} images"
        verdict = worst([verdict, attacked])
    return Finding(name="batchnorm", verdict=verdict, reason=reason, numbers=numbers)


def _train_mode_twin(model: nn.Module) -> nn.Module | None:
    """A copy whose BatchNorm layers use the batch's statistics; None if it has no such layer."""
    twin = copy.deepcopy(model)
    layers = [m for m in twin.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.train()
    return twin if layers else None
