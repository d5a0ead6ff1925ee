"""From verdicts to scores: counts, intervals, bounds, means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frbench.attacks.spec import AA_STAGES
from frbench.evaluation.cells import Cell, ModelRecord
from frbench.leaderboard import statistics
from frbench.leaderboard.rows import CellRef, Column, Difference, Score
from frbench.leaderboard.selection import Picked


def percent(share: float) -> float:
    """A share in [0, 1] as the percentage that every format prints."""
    return round(100 * share, 2)


def score_of(picked: Picked) -> Score:
    cell = picked.cell
    return counted(
        cell.correct(),
        cell.pending,
        cell.data.n,
        stages=cell.stages,
        stages_done=cell.stages_done(),
        seconds_left=picked.source.seconds_left if cell.pending else None,
        cells=(_reference(picked.source),),
    )


def counted(
    correct: int,
    pending: int,
    n: int,
    *,
    stages: tuple[str, ...] = (),
    stages_done: tuple[str, ...] = (),
    seconds_left: float | None = None,
    cells: tuple[CellRef, ...] = (),
) -> Score:
    """A score from counts; while images are pending the interval holds whatever becomes of them."""
    return Score(
        accuracy=percent(correct / n),
        at_most=pending > 0,
        low=percent(statistics.wilson(correct - pending, n).low),
        high=percent(statistics.wilson(correct, n).high),
        n=n,
        correct=correct,
        stages=stages,
        stages_done=stages_done,
        seconds_left=seconds_left,
        cells=cells,
    )


def paired_difference(counts: statistics.PairCounts) -> Difference:
    """Of two models on the same images, with its interval and McNemar's test."""
    low, high = statistics.paired_interval(counts)
    return Difference(
        points=percent(counts.difference),
        low=percent(low),
        high=percent(high),
        p_value=statistics.mcnemar(counts),
    )


def _reference(cell: Cell) -> CellRef:
    return CellRef(
        key=cell.key,
        attack=cell.attack.name,
        start=cell.data.start,
        stop=cell.data.stop,
        seed=cell.seed,
        batch=cell.batch,
        seconds=round(cell.total_seconds, 3),
        updated=cell.updated,
        versions=cell.versions,
        provenance=cell.provenance,
    )


def mean_score(scores: Sequence[Score]) -> Score:
    """Mean and standard deviation over seeds; one seed alone stays as it is."""
    if len(scores) == 1:
        return scores[0]
    # From counts where there are some, so that nothing is rounded twice.
    exact = [s.accuracy if s.correct is None else 100 * s.correct / s.n for s in scores]
    mean, sd = statistics.seed_summary(exact)
    left = [s.seconds_left for s in scores if s.at_most]
    known = [seconds for seconds in left if seconds is not None]
    return Score(
        accuracy=round(mean, 2),
        at_most=any(s.at_most for s in scores),
        n=scores[0].n,
        seeds=len(scores),
        sd=round(sd, 2),
        stages=scores[0].stages,
        stages_done=tuple(
            stage for stage in scores[0].stages if all(stage in s.stages_done for s in scores)
        ),
        seconds_left=sum(known) if known and len(known) == len(left) else None,
        cells=tuple(ref for s in scores for ref in s.cells),
    )


def mean_cost(records: Sequence[ModelRecord]) -> dict[str, float]:
    """Means of what every seed recorded."""
    shared = [key for key in records[0].cost if all(key in r.cost for r in records)]
    return {key: sum(r.cost[key] for r in records) / len(records) for key in shared}


def autoattack(scores: Mapping[str, Score], columns: Sequence[Column]) -> Score | None:
    """The row's AutoAttack; a run of fewer stages is an upper bound of it."""
    own = [c for c in columns if c.attack.is_autoattack and c.key in scores]
    if not own:
        return None
    column = max(own, key=lambda c: len(c.attack.stages))
    score = scores[column.key]
    if column.attack.stages == AA_STAGES:
        return score
    return score.model_copy(update={"at_most": True})
