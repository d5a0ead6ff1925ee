"""RobustBench's honest neighbours of a measured row: the same task, network and data class."""

from __future__ import annotations

import re

from frbench.attacks.spec import Norm, format_length
from frbench.evaluation.cells import ModelRecord
from frbench.leaderboard.rows import Difference, Neighbour, Neighbours, Score
from frbench.published import RobustBenchEntry, Snapshot

_SCHEME = "robustbench"
# 0.031 and 8/255 are 1.2 % apart: near enough to be asked for, too far to be the same ball.
_NEAR = 0.02


def architecture_name(text: str) -> str:
    """One spelling for one network: `WideResNet-34-10`, `wrn_34_10` -> `wrn-34-10`.

    Only the spelling changes, so `PreActResNet-18` stays apart from `ResNet-18`.
    """
    name = re.sub(r"[^a-z0-9+]+", "-", text.lower()).strip("-").replace("wideresnet", "wrn")
    return re.sub(r"(resnet|wrn)(?=\d)", r"\1-", name)


def find_neighbours(
    model: ModelRecord, dataset: str, norm: Norm, eps: float, aa: Score | None, snapshot: Snapshot
) -> Neighbours:
    """The entries to set beside a row, best first, and its own entry if it is one of theirs.

    Args:
        dataset: the dataset of the cells.
        aa: AutoAttack's score of the row, if it has one.

    Returns:
        Never a near architecture or another data class: when nothing fits, the reason.
    """
    task = [e for e in snapshot.entries if (e.dataset, e.threat_model) == (dataset, norm)]
    # The adapter puts dataset or threat model in front where they are not the usual ones.
    scheme, _, reference = model.target.partition(":")
    identity = reference.rpartition("/")[2] if scheme == _SCHEME else None
    own = next((e for e in task if e.model_id == identity), None)
    claim = None if own is None else _neighbour(own, eps, aa)
    reason = _refusal(model)
    if reason:
        return Neighbours(own_claim=claim, reason=reason)
    wanted = architecture_name(model.architecture)
    same = [
        e
        for e in task
        if architecture_name(e.architecture) == wanted and e.data_class == model.extra_data
    ]
    exact = [e for e in same if _distance(e, eps) < 1e-9]
    near = [e for e in same if 1e-9 <= _distance(e, eps) < _NEAR]
    if not exact and not near:
        what = f"{model.architecture}, {dataset}, {norm} {format_length(eps)}"
        reason = f"no RobustBench entry with {what}, data class '{model.extra_data}'"
    return Neighbours(
        entries=tuple(_neighbour(e, eps, aa) for e in _best_first(exact)),
        other_eps=tuple(_neighbour(e, eps, aa) for e in _best_first(near)),
        own_claim=claim,
        reason=reason,
    )


def _refusal(model: ModelRecord) -> str:
    if not model.comparable:
        return f"not comparable with published numbers: {model.note or 'shortened protocol'}"
    if model.extra_data == "unknown":
        return (
            "it is unknown whether this model saw extra data, so no entry is its neighbour; "
            "'frbench evaluate' takes it from you with --extra-data"
        )
    return ""


def _distance(entry: RobustBenchEntry, eps: float) -> float:
    """Relative distance of the radii."""
    return float("inf") if entry.radius is None else abs(entry.radius - eps) / eps


def _best_first(entries: list[RobustBenchEntry]) -> list[RobustBenchEntry]:
    return sorted(entries, key=lambda e: (-(e.robust_acc or 0.0), e.model_id))


def _neighbour(entry: RobustBenchEntry, eps: float, aa: Score | None) -> Neighbour:
    theirs = entry.robust_acc
    difference = None
    if aa is not None and theirs is not None:
        difference = Difference(
            points=round(aa.accuracy - theirs, 2),
            low=None if aa.low is None else round(aa.low - theirs, 2),
            high=None if aa.high is None else round(aa.high - theirs, 2),
            at_most=aa.at_most,
        )
    return Neighbour(
        entry=entry, same_eps=_distance(entry, eps) < 1e-9, robust=theirs, difference=difference
    )
