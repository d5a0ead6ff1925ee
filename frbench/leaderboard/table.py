"""From cells to the typed rows of a leaderboard.

One table holds one dataset, threat model, range of images and precision, so that no column mixes
two protocols; what else differs between its rows is a column or a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frbench import published
from frbench.attacks.spec import AttackSpec, Norm, format_length
from frbench.audit import Audit, read_audits
from frbench.evaluation.cells import BROKEN, UNSEEN, Cell, ModelRecord
from frbench.leaderboard import statistics
from frbench.leaderboard.columns import columns_of
from frbench.leaderboard.labels import labels_of
from frbench.leaderboard.marks import audited
from frbench.leaderboard.neighbours import find_neighbours
from frbench.leaderboard.notes import notes_of, warnings_of
from frbench.leaderboard.rows import (
    Column,
    Difference,
    Leaderboard,
    Neighbours,
    Row,
    Score,
    Table,
)
from frbench.leaderboard.scores import (
    autoattack,
    counted,
    mean_cost,
    mean_score,
    paired_difference,
    score_of,
)
from frbench.leaderboard.selection import (
    Single,
    Task,
    full_name,
    load_cells,
    pick,
    recipe_of,
    spec_id,
    task_of,
)


@dataclass(frozen=True)
class _Frame:
    """What every row of one table shares."""

    task: Task
    start: int
    stop: int
    norm: Norm | None
    eps: float


@dataclass(frozen=True)
class _Around:
    """What a row is made from beside its own cells."""

    frame: _Frame
    columns: Sequence[Column]
    snapshot: published.Snapshot


def leaderboard(root: Path, *, each_seed: bool = False) -> Leaderboard:
    """The leaderboard of a results folder.

    Args:
        root: folder that holds `cells/`, and perhaps `audits/`.
        each_seed: one row a seed instead of mean and standard deviation.

    Raises:
        InputError: no cells.
    """
    return build(load_cells(root), each_seed=each_seed, audits=read_audits(root))


def build(
    cells: Sequence[Cell],
    *,
    each_seed: bool = False,
    audits: Mapping[tuple[str, str], Audit] | None = None,
) -> Leaderboard:
    """The leaderboard of these cells, with audits as `read_audits` has them; see `leaderboard`."""
    snapshot = published.robustbench()
    made = [_table(frame, cells, each_seed, snapshot) for frame in _frames(cells)]
    marked = [
        t.model_copy(
            update={"rows": tuple(audited(r, t.threat_model, audits or {}) for r in t.rows)}
        )
        for t in made
    ]
    tables = _distinct_titles(marked)
    paper = published.paper_table2()
    return Leaderboard(
        confidence=statistics.CONFIDENCE,
        measured=max((cell.updated for cell in cells), default=""),
        tables=tuple(tables),
        paper=paper if any(paper.is_of(t.dataset, t.threat_model) for t in tables) else None,
        robustbench=snapshot.info,
    )


def _frames(cells: Sequence[Cell]) -> list[_Frame]:
    """One for every task, range and threat model; most images first."""
    threats: dict[tuple[Task, int, int], set[tuple[Norm, float]]] = defaultdict(set)
    for cell in cells:
        known = threats[task_of(cell), cell.data.start, cell.data.stop]
        if cell.attack.eps > 0:
            known.add((cell.attack.norm, cell.attack.eps))
    frames = []
    for (task, start, stop), known in threats.items():
        frames += [_Frame(task, start, stop, norm, eps) for norm, eps in sorted(known)]
        if not known:
            frames.append(_Frame(task, start, stop, None, 0.0))
    return sorted(
        frames,
        key=lambda f: (
            *(f.task.dataset, f.norm or "~", -f.eps, f.task.precision, f.task.split),
            *(f.start - f.stop, f.start, f.task.sha256),
        ),
    )


def _table(
    frame: _Frame, cells: Sequence[Cell], each_seed: bool, snapshot: published.Snapshot
) -> Table:
    usable = [c for c in cells if task_of(c) == frame.task and _fits(c.attack, frame)]
    columns = columns_of(_specs(usable, frame))
    singles = _singles(usable, cells, frame, columns)
    groups = [[s] for s in singles] if each_seed else _seed_groups(singles)
    ranked_by = _ranking_column(groups, columns)
    ranks = _ranks(groups, ranked_by)
    labels = labels_of([[single.record for single in group] for group in groups])
    around = _Around(frame, columns, snapshot)
    rows = [
        _row(label, group, around).model_copy(
            update={"rank": rank, "overfitting_gap": _gap(group, singles)}
        )
        for label, group, rank in zip(labels, groups, ranks, strict=True)
    ]
    by = ranked_by or columns[-1].key
    rows.sort(key=lambda r: (-r.scores[by].accuracy if by in r.scores else 1.0, r.label))
    threat = "clean" if frame.norm is None else f"{frame.norm} {format_length(frame.eps)}"
    n = frame.stop - frame.start
    return Table(
        title=f"{frame.task.dataset} {frame.task.split} images {frame.start} to {frame.stop - 1} "
        f"(n = {n:,}), {threat}, {frame.task.precision}",
        dataset=frame.task.dataset,
        split=frame.task.split,
        data_sha256=frame.task.sha256,
        start=frame.start,
        stop=frame.stop,
        n=n,
        norm=frame.norm,
        eps=frame.eps,
        threat_model=threat,
        precision=frame.task.precision,
        columns=tuple(columns),
        ranked_by=ranked_by,
        rows=tuple(rows),
        notes=tuple(notes_of(rows, singles, columns)),
    )


def _fits(spec: AttackSpec, frame: _Frame) -> bool:
    return spec.eps == 0 or (spec.norm, spec.eps) == (frame.norm, frame.eps)


def _specs(usable: Iterable[Cell], frame: _Frame) -> dict[str, AttackSpec]:
    """The attacks that have seen all the images of the table, by identity."""
    return {
        spec_id(c.attack): c.attack
        for c in usable
        if c.data.start <= frame.start and frame.stop <= c.data.stop
    }


def _singles(
    usable: Sequence[Cell], cells: Sequence[Cell], frame: _Frame, columns: Sequence[Column]
) -> list[Single]:
    """The models of the table: those with a cell of exactly its range.

    Their other cells fill in where they cover the range. A model that was attacked on this range
    only under another threat model does not belong here.
    """
    exact = [
        c for c in cells if task_of(c) == frame.task and _range(c) == (frame.start, frame.stop)
    ]
    attacked_elsewhere = {c.model.digest for c in exact if not _fits(c.attack, frame)}
    attacked_here = {c.model.digest for c in exact if c.attack.eps > 0 and _fits(c.attack, frame)}
    keys = {spec_id(column.attack): column.key for column in columns}
    found = []
    for digest in dict.fromkeys(c.model.digest for c in exact):
        if digest in attacked_elsewhere - attacked_here:
            continue
        own: dict[str, list[Cell]] = defaultdict(list)
        for cell in usable:
            if cell.model.digest == digest:
                own[spec_id(cell.attack)].append(cell)
        picked = {
            key: best
            for identity, key in keys.items()
            if (best := pick(own[identity], frame.start, frame.stop)) is not None
        }
        records = sorted((c for group in own.values() for c in group), key=lambda c: c.updated)
        names = dict.fromkeys(full_name(c.model) for c in reversed(records))
        found.append(Single(_record([c.model for c in records]), tuple(names)[1:], picked))
    return found


def _record(records: Sequence[ModelRecord]) -> ModelRecord:
    """The newest record of a model; what was said of its training data once holds for all cells."""
    newest = records[-1]
    told = [r.extra_data for r in records if r.extra_data != "unknown"]
    return newest.model_copy(update={"extra_data": told[-1]}) if told else newest


def _range(cell: Cell) -> tuple[int, int]:
    return cell.data.start, cell.data.stop


def _seed_groups(singles: Sequence[Single]) -> list[list[Single]]:
    """Runs that differ in their seed alone; runs that share a seed differ in something else."""
    groups: dict[tuple[object, ...], list[Single]] = defaultdict(list)
    for single in singles:
        groups[*recipe_of(single.record), single.record.weights].append(single)
    split: list[list[Single]] = []
    for group in groups.values():
        seeds = [s.record.seed for s in group]
        if None in seeds or len(set(seeds)) < len(seeds):
            split.extend([s] for s in group)
        else:
            split.append(sorted(group, key=lambda s: s.record.seed or 0))
    return split


def _ranking_column(groups: Sequence[Sequence[Single]], columns: Sequence[Column]) -> str | None:
    """The strongest attack that two rows, and at least half of all, have finished."""
    attacked = [c for c in columns if c.attack.eps > 0] or list(columns)
    for column in reversed(attacked):
        finished = sum(_finished(group, column.key) for group in groups)
        if finished >= max(2, len(groups) / 2):
            return column.key
    return None


def _finished(group: Sequence[Single], key: str) -> bool:
    return all(key in s.picked and s.picked[key].cell.complete for s in group)


def _ranks(
    groups: Sequence[Sequence[Single]], key: str | None
) -> list[statistics.RankRange | None]:
    if key is None:
        return [None] * len(groups)
    ranked = [i for i, group in enumerate(groups) if _finished(group, key)]
    ranges = statistics.rank_ranges(
        [[s.picked[key].cell.final_verdicts() for s in groups[i]] for i in ranked]
    )
    by_row = dict(zip(ranked, ranges, strict=True))
    return [by_row.get(i) for i in range(len(groups))]


def _row(label: str, group: Sequence[Single], around: _Around) -> Row:
    """One row; with several seeds the means of its members, which it keeps."""
    if len(group) == 1:
        return _single_row(label, group[0], around)
    members = tuple(_single_row(f"{label} seed {s.record.seed}", s, around) for s in group)
    scores = {
        column.key: mean_score([m.scores[column.key] for m in members if column.key in m.scores])
        for column in around.columns
        if any(column.key in m.scores for m in members)
    }
    first = group[0].record
    return Row(
        label=label,
        model=first,
        seeds=tuple(seed for m in members for seed in m.seeds),
        epochs=tuple(sorted({epoch for m in members for epoch in m.epochs})),
        scores=scores,
        worst_case=_mean_worst_case(members),
        cost=mean_cost([s.record for s in group]),
        warnings=tuple(f"seed {m.model.seed}: {w}" for m in members for w in m.warnings),
        neighbours=_neighbours(first, scores, around),
        members=members,
    )


def _mean_worst_case(members: Sequence[Row]) -> Score | None:
    """None when the seeds have not been through the same attacks."""
    worst = [m.worst_case for m in members if m.worst_case is not None]
    alike = len({frozenset(m.scores) for m in members}) == 1
    return mean_score(worst) if worst and alike else None


def _single_row(label: str, single: Single, around: _Around) -> Row:
    record = single.record
    scores = {key: score_of(picked) for key, picked in single.picked.items()}
    return Row(
        label=label,
        model=record,
        seeds=() if record.seed is None else (record.seed,),
        epochs=() if record.epoch is None else (record.epoch,),
        scores=scores,
        worst_case=_worst_case(single, around.columns),
        cost=record.cost,
        warnings=tuple(warnings_of(single, around.columns)),
        neighbours=_neighbours(record, scores, around),
    )


def _worst_case(single: Single, columns: Sequence[Column]) -> Score | None:
    """The union of the row's attacks, image by image; none for a row without an attack."""
    if not any(c.key in single.picked and c.attack.eps > 0 for c in columns):
        return None
    verdicts = statistics.worst_case([p.cell.final_verdicts() for p in single.picked.values()])
    broken, pending = verdicts.count(BROKEN), verdicts.count(UNSEEN)
    return counted(len(verdicts) - broken, pending, len(verdicts))


def _gap(group: Sequence[Single], singles: Sequence[Single]) -> Difference | None:
    """Best minus last checkpoint under PGD-20; with several seeds the mean of their gaps."""
    gaps = [
        gap
        for single in group
        if (last := _last_of(single, singles)) is not None
        and (gap := _paired(single, last, "pgd20")) is not None
    ]
    if len(gaps) == 1 and len(group) == 1:
        return gaps[0]
    if not gaps or len(gaps) < len(group):
        return None
    return Difference(points=round(sum(gap.points for gap in gaps) / len(gaps), 2))


def _last_of(best: Single, singles: Sequence[Single]) -> Single | None:
    """The last checkpoint of the very training that `best` is from."""
    weights = best.record.weights or ""
    if "best" not in weights:
        return None
    wanted = (*recipe_of(best.record), best.training, weights.replace("best", "last"))
    matches = [s for s in singles if (*recipe_of(s.record), s.training, s.record.weights) == wanted]
    return matches[0] if len(matches) == 1 else None


def _paired(a: Single, b: Single, key: str) -> Difference | None:
    if not (_finished([a], key) and _finished([b], key)):
        return None
    counts = statistics.pair_counts(
        a.picked[key].cell.final_verdicts(), b.picked[key].cell.final_verdicts()
    )
    return paired_difference(counts)


def _neighbours(record: ModelRecord, scores: dict[str, Score], around: _Around) -> Neighbours:
    frame = around.frame
    if frame.norm is None:
        return Neighbours(reason="not attacked yet, so there is nothing to set beside RobustBench")
    aa = autoattack(scores, around.columns)
    return find_neighbours(record, frame.task.dataset, frame.norm, frame.eps, aa, around.snapshot)


def _distinct_titles(tables: list[Table]) -> list[Table]:
    """Say which data where two tables differ in nothing else that a title shows."""
    seen = Counter(table.title for table in tables)
    return [
        t.model_copy(update={"title": f"{t.title}, data {t.data_sha256[:8]}"})
        if seen[t.title] > 1
        else t
        for t in tables
    ]
