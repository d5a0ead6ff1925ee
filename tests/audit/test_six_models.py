"""The audit must see through three faults, and leave three honest models in peace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from frbench.audit import AuditReport, Finding
from frbench.audit.run import audit
from frbench.data import Split
from frbench.errors import FrbenchError
from frbench.evaluation import Target, outside, resolve_target

IMAGES = 48
Robust = dict[str, nn.Module]
MakeTarget = Callable[..., Target]


def finding(report: AuditReport, name: str) -> Finding:
    return next(found for found in report.findings if found.name == name)


def test_a_fault_around_a_robust_model_is_called_broken(
    fault: Callable[[nn.Module], nn.Module],
    robust: Robust,
    make_target: MakeTarget,
    cifar10: Split,
) -> None:
    target = make_target(fault(robust["pgd_at"]), "audited", "cifar10")
    other = make_target(robust["at_fr"], "at_fr", "cifar10")
    report = audit(target, cifar10, n=IMAGES, sources=[other])
    assert report.verdict == "broken"
    random = "Random" in fault.__name__
    for witness in ("determinism",) if random else ("zero gradients", "linearity", "eps"):
        assert finding(report, witness).verdict == "broken"


@pytest.mark.parametrize(("name", "other"), [("pgd_at", "at_fr"), ("at_fr", "pgd_at")])
def test_a_robust_model_is_trusted(
    name: str, other: str, robust: Robust, make_target: MakeTarget, cifar10: Split
) -> None:
    source = make_target(robust[other], other, "cifar10")
    target = make_target(robust[name], name, "cifar10")
    report = audit(target, cifar10, n=IMAGES, sources=[source])
    assert report.verdict == "trusted", report.reasons
    assert report.reasons == ()
    assert f"from {other}" in finding(report, "transfer").numbers
    steps = finding(report, "steps").numbers["accuracy"]
    assert isinstance(steps, list) and 0.1 < steps[-1] < 0.6


def test_the_natural_model_is_honestly_not_robust(
    cifar10: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(name: str) -> None:
        raise FrbenchError("the test brings its own images")

    monkeypatch.setattr(outside, "load_dataset", no_data)
    report = audit(resolve_target("natural"), cifar10, n=6)
    assert report.verdict != "broken", report.reasons
    steps = finding(report, "steps").numbers["accuracy"]
    assert isinstance(steps, list) and steps[-1] == 0
