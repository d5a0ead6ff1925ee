"""One audit: the sample, the checks one after another, the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console
from torch import Tensor

from frbench.attacks import seeded
from frbench.attacks.columns import check_eps
from frbench.audit.checks import behaviour, blackbox, gradients, sweeps
from frbench.audit.findings import Finding, worst
from frbench.audit.report import AuditReport
from frbench.audit.subject import Subject
from frbench.data import Split
from frbench.durations import duration
from frbench.errors import InputError
from frbench.evaluation import Target, costs, numerics
from frbench.evaluation.provenance import describe

Check = Callable[[Subject], Finding]
# Cheap ones first, so that a plain fault shows within seconds.
CHECKS: tuple[Check, ...] = (
    behaviour.determinism,
    gradients.zero_gradients,
    gradients.linearity,
    sweeps.restarts,
    gradients.logit_scale,
    gradients.margin,
    gradients.straight_through,
    behaviour.batchnorm,
    sweeps.radii,
    sweeps.steps,
    blackbox.square,
    blackbox.transfer,
)
# For the forecast: gradients that all checks need of an image that PGD breaks at once, and of one
# that it does not.
_GRADIENTS_BROKEN, _GRADIENTS = 30, 350


def audit(
    target: Target,
    images: Split,
    *,
    n: int,
    sources: Sequence[Target] = (),
    eps: float = 8 / 255,
    seed: int = 0,
    batch: int = 128,
    checks: Sequence[Check] = CHECKS,
    console: Console | None = None,
) -> AuditReport:
    """Look for signs that a robust accuracy is an artefact of the attack.

    Args:
        target: the model, in eval mode with float32 weights; its device is used.
        images: whose first `n` images are the sample.
        sources: other models of the same data, to transfer from.
        eps: L-infinity radius of the number in question, in [0, 1] pixel units.
        seed: of everything random; the caller's random state is left alone.
        batch: most images at once.
        console: gets a line a check; None keeps silent.

    Raises:
        InputError: an impossible n or eps, a model that does not fit the data, logits that are not
            finite, or a model that classifies no image correctly.
    """
    begin = time.perf_counter()
    check_eps("Linf", eps)
    if not 0 < n <= len(images):
        raise InputError(f"n {n} is not possible: choose from 1 to {len(images)} test images")
    name = target.record.name
    with target.ready() as device, seeded(seed):
        sample = numerics.as_images(images.images[:n], device)
        labels = images.labels[:n].to(device)
        others = {source.record.name: source.model for source in sources}
        subject = _subject(target, sample, labels, others, eps=eps, seed=seed, batch=batch)
        if console is not None:
            _say(console, f"{name}: {_plan(subject)}")
        findings = _carry_out(checks, subject, name, console)
    return AuditReport(
        target=target.record.target,
        digest=target.record.digest,
        verdict=worst([finding.verdict for finding in findings]),
        reasons=tuple(f"{f.name}: {f.reason}" for f in findings if f.verdict != "trusted"),
        findings=tuple(findings),
        n=n,
        seed=seed,
        eps=eps,
        dataset=target.record.dataset,
        name=name,
        sources=tuple(others),
        seconds=round(time.perf_counter() - begin, 2),
        provenance=describe(device),
    )


def _subject(
    target: Target,
    sample: Tensor,
    labels: Tensor,
    sources: Mapping[str, torch.nn.Module],
    *,
    eps: float,
    seed: int,
    batch: int,
) -> Subject:
    """The model with those of the sampled images that it gets right."""
    pairs = zip(torch.split(sample, batch), torch.split(labels, batch), strict=True)
    right = torch.cat([target.correct(x, y, seed) for x, y in pairs])
    if not right.any():
        raise InputError(
            f"model '{target.record.name}' classifies none of {len(sample)} images correctly: "
            "nothing to audit; was it trained on these data?"
        )
    return Subject(
        target.model,
        sample,
        labels,
        sample[right],
        labels[right],
        eps=eps,
        seed=seed,
        batch=batch,
        sources=sources,
    )


def _carry_out(
    checks: Sequence[Check], subject: Subject, name: str, console: Console | None
) -> list[Finding]:
    """Every check with a line on the console."""
    findings = []
    for number, check in enumerate(checks, start=1):
        begin = time.perf_counter()
        finding = check(subject)
        findings.append(finding)
        if console is not None:
            seconds = time.perf_counter() - begin
            _say(
                console,
                f"{name}: {number}/{len(checks)} {finding.name}: {finding.verdict}, "
                f"{finding.reason} ({seconds:.1f} s)",
            )
    return findings


def _plan(subject: Subject) -> str:
    """What is about to be done and how long it takes, from three steps of PGD on a few images."""
    probed = costs.probe_images(subject.images.device, subject.batch)
    images, labels = subject.images[:probed], subject.labels[:probed]
    speed = costs.measure(subject.model, images, labels, subject.eps)
    surviving = speed.surviving * len(subject.images)
    gradient = speed.forward + speed.backward
    seconds = (len(subject.images) * _GRADIENTS_BROKEN + surviving * _GRADIENTS) * gradient
    seconds += surviving * blackbox.QUERIES * speed.forward
    others = ", ".join(subject.sources) or "no other model"
    return (
        f"{len(subject.images)} of {len(subject.sample)} images are correct, transfer from "
        f"{others}; about {duration(seconds)} without transfer"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
