"""Which attack broke which image, and what the images looked like before and after.

Verdicts come from the cells. Pictures are computed anew for a few images, from the same weights,
data and seed, and only where all of that is at hand and fast enough.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from frbench.analysis.forward import craft
from frbench.analysis.inputs import ImageSet
from frbench.attacks.spec import AttackSpec
from frbench.data import Dataset, cache_path, load_dataset, to_float
from frbench.errors import FrbenchError
from frbench.evaluation import resolve_target
from frbench.evaluation.cells import BROKEN, ROBUST, Cell, ModelRecord
from frbench.evaluation.target import Target
from frbench.leaderboard.rows import Column, Leaderboard, Row, Table

IMAGES = 24  # columns of the matrix of verdicts
_PICTURES = 4  # of each model
_MODELS = 3  # of each dataset
# Work for all pictures together, about ten seconds of one CPU core. Counted and not timed, so
# that two reports of one input show the same.
_BUDGET = 4e11
# Forward passes that cost as much as a step of an attack: one, and the gradient to the input.
_FORWARDS_A_STEP = 2


@dataclass(frozen=True)
class Breaking:
    """The weakest attack that broke one image; `mark` is one letter, '·' for none."""

    mark: str
    words: str
    level: int


@dataclass(frozen=True)
class Thumbnail:
    """A test image of the split; `source` is a data address, empty without the pixels."""

    index: int
    label: str
    source: str


@dataclass(frozen=True)
class Picture:
    """One image before and after an attack, and the difference between, amplified."""

    index: int
    label: str
    before: str
    after: str
    clean: str
    adversarial: str
    difference: str
    broken: bool
    cell_verdict: str


@dataclass(frozen=True)
class ModelPictures:
    """Pictures of one model under one attack."""

    label: str
    attack: str
    amplification: float
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """One table's images: a line of verdicts a row, pictures of some rows, what was left out."""

    name: str
    dataset: str
    title: str
    images: tuple[Thumbnail, ...]
    legend: tuple[tuple[str, str, int], ...]
    lines: tuple[tuple[str, tuple[Breaking, ...]], ...]
    models: tuple[ModelPictures, ...]
    notes: tuple[str, ...]


@dataclass
class Budget:
    """Floating-point operations that pictures may still cost."""

    left: float = _BUDGET


def galleries(
    board: Leaderboard, cells: Sequence[Cell], runs_dir: Path, budget: Budget | None = None
) -> list[Gallery]:
    """One gallery a dataset, of its table with the most attacks.

    Args:
        budget: how much work the pictures may be.
    """
    budget = budget or Budget()
    by_key = {cell.key: cell for cell in cells}
    chosen: dict[str, Table] = {}
    for table in board.tables:
        best = chosen.get(table.data_sha256)
        size = (len(table.columns), len(table.rows), table.n)
        if table.norm and (best is None or size > (len(best.columns), len(best.rows), best.n)):
            chosen[table.data_sha256] = table
    return [
        _gallery(f"gallery{i}", table, by_key, runs_dir, budget)
        for i, table in enumerate(chosen.values())
    ]


def _gallery(
    name: str, table: Table, cells: dict[str, Cell], runs_dir: Path, budget: Budget
) -> Gallery:
    dataset, notes = _local_dataset(table)
    thumbnails = _thumbnails(table, dataset)
    lines = []
    for row in table.rows:
        label, member = _shown(row)
        lines.append((label, breakings(member, table, cells)))
    models = []
    if dataset is not None:
        for row in _spread(table.rows):
            made = _pictures(row, table, cells, dataset, runs_dir, budget)
            if isinstance(made, str):
                notes.append(made)
            else:
                models.append(made)
    legend = [("·", "withstood every attack of its row", 0)]
    for level, column in enumerate(table.columns, start=1):
        words = column.label if column.attack.eps else "wrong without attack"
        legend.append((mark_of(column), words, level))
    return Gallery(
        name=name,
        dataset=table.dataset,
        title=table.title,
        images=thumbnails,
        legend=tuple(legend),
        lines=tuple(lines),
        models=tuple(models),
        notes=tuple(notes),
    )


def _shown(row: Row) -> tuple[str, Row]:
    """A row's label and itself; of several seeds the first, which the label then names."""
    if not row.members:
        return row.label, row
    return f"{row.label}, seed {row.members[0].model.seed}", row.members[0]


def breakings(row: Row, table: Table, cells: dict[str, Cell]) -> tuple[Breaking, ...]:
    """The weakest column that broke each of the first images of the table, for a single row."""
    verdicts: list[tuple[Column, str]] = []
    for column in table.columns:
        score = row.scores.get(column.key)
        if score is None or not score.cells or score.cells[0].key not in cells:
            continue
        verdicts.append((column, _verdicts(cells[score.cells[0].key], table, table.n)))
    levels = {column.key: i for i, column in enumerate(table.columns, start=1)}
    found = []
    for place in range(min(IMAGES, table.n)):
        breaking = next((c for c, v in verdicts if v[place] == BROKEN), None)
        if breaking is not None:
            words = "wrong without attack" if not breaking.attack.eps else f"by {breaking.label}"
            found.append(Breaking(mark_of(breaking), words, levels[breaking.key]))
        elif all(v[place] == ROBUST for _, v in verdicts):
            found.append(Breaking("·", "withstood all", 0))
        else:
            found.append(Breaking("?", "not finished", 0))
    return tuple(found)


def _verdicts(cell: Cell, table: Table, n: int) -> str:
    """Of the first `n` images of the table; the cell may begin before them."""
    first = table.start - cell.data.start
    return cell.final_verdicts()[first : first + n]


def mark_of(column: Column) -> str:
    """One letter a kind of attack; the legend says which setting."""
    attack = column.attack
    if attack.is_autoattack or attack.name.startswith("pgd"):
        return "A" if attack.is_autoattack else "P"
    return {"clean": "W", "fgsm": "F", "cw": "C"}.get(attack.name, attack.name[:1].upper())


def _local_dataset(table: Table) -> tuple[Dataset | None, list[str]]:
    """The data of the table if this machine has them; a report never fetches anything."""
    if not cache_path(table.dataset).is_file():
        return None, [f"no pictures: {table.dataset} is not in this machine's cache"]
    try:
        dataset = load_dataset(table.dataset)
    except FrbenchError as error:
        return None, [f"no pictures: {error}"]
    if getattr(dataset, table.split).sha256 != table.data_sha256:
        return None, [f"no pictures: this machine's {table.dataset} is not what was measured on"]
    return dataset, []


def _thumbnails(table: Table, dataset: Dataset | None) -> tuple[Thumbnail, ...]:
    indices = range(table.start, table.start + min(IMAGES, table.n))
    if dataset is None:
        return tuple(Thumbnail(i, "", "") for i in indices)
    split = getattr(dataset, table.split)
    return tuple(
        Thumbnail(i, dataset.classes[int(split.labels[i])], png(split.images[i])) for i in indices
    )


def _spread(rows: Sequence[Row]) -> list[Row]:
    """The first row, the last, and the one halfway: the most and the least robust."""
    places = dict.fromkeys((0, len(rows) - 1, len(rows) // 2))
    return [rows[i] for i in list(places)[:_MODELS]]


def _pictures(
    row: Row,
    table: Table,
    cells: dict[str, Cell],
    dataset: Dataset,
    runs_dir: Path,
    budget: Budget,
) -> ModelPictures | str:
    """Pictures of one row, or why there are none."""
    label, member = _shown(row)
    column = _attack_shown(member, table)
    if column is None:
        return f"{row.label}: no pictures, it has no attack that is fast to repeat"
    target = _local_target(member.model, runs_dir)
    if isinstance(target, str):
        return f"{row.label}: no pictures, {target}"
    images = _affordable(target, dataset, table, column.attack, budget)
    if images < 2:
        return f"{row.label}: no pictures, {column.label} of this network is too much work here"
    samples = _samples(dataset, table, images)
    cell = cells[member.scores[column.key].cells[0].key]
    adversarial = craft(target, samples, column.attack, seed=cell.seed, batch=cell.batch)
    verdicts = _verdicts(cell, table, images)
    gain = 0.5 / column.attack.eps
    pictures = _compare(target, samples, adversarial, dataset, table.start, verdicts, gain)
    return ModelPictures(label, column.label, gain, pictures)


def _compare(
    target: Target,
    samples: ImageSet,
    adversarial: torch.Tensor,
    dataset: Dataset,
    start: int,
    verdicts: str,
    gain: float,
) -> tuple[Picture, ...]:
    """The first images that the model gets right without attack, before and after."""
    before, after = (_predictions(target, x) for x in (samples.images, adversarial))
    truth = samples.labels.tolist()
    right = [i for i, label in enumerate(truth) if before[i] == label]
    return tuple(
        Picture(
            index=start + i,
            label=dataset.classes[truth[i]],
            before=dataset.classes[before[i]],
            after=dataset.classes[after[i]],
            clean=png(samples.images[i]),
            adversarial=png(adversarial[i]),
            difference=png(0.5 + gain * (adversarial[i] - samples.images[i])),
            broken=after[i] != truth[i],
            cell_verdict=verdicts[i],
        )
        for i in (right or range(len(truth)))[:_PICTURES]
    )


def _attack_shown(row: Row, table: Table) -> Column | None:
    """The strongest attack of the row that is a few gradient steps."""
    known = [c for c in table.columns if c.key in row.scores and row.scores[c.key].cells]
    quick = [c for c in known if c.attack.eps > 0 and not c.attack.is_autoattack]
    pgd = [c for c in quick if c.attack.name == "pgd20"]
    return next(iter(pgd or quick[-1:]), None)


def _local_target(record: ModelRecord, runs_dir: Path) -> Target | str:
    """The very weights of a row, or why they are not at hand; nothing is downloaded."""
    if ":" in record.target:
        return "models from other places are not loaded for a report"
    try:
        target = resolve_target(record.explicit_target, runs_dir=runs_dir)
    except FrbenchError as error:
        return f"its weights are not at hand ({error})"
    if target.record.digest != record.digest:
        return "its weights have changed since it was measured"
    return target


def _affordable(
    target: Target, dataset: Dataset, table: Table, spec: AttackSpec, budget: Budget
) -> int:
    """How many images may be attacked; their work is taken from the budget."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        target.model(_samples(dataset, table, 1).images)
    work = max(counter.get_total_flops(), 1) * _FORWARDS_A_STEP * (spec.steps or 1)
    images = min(_PICTURES + 2, table.n, int(budget.left // work))
    budget.left -= images * work
    return images


def _samples(dataset: Dataset, table: Table, n: int) -> ImageSet:
    """The first images of the table."""
    split = getattr(dataset, table.split)
    chosen = slice(table.start, table.start + n)
    return ImageSet(to_float(split.images[chosen]), split.labels[chosen])


def _predictions(target: Target, images: torch.Tensor) -> list[int]:
    with torch.no_grad():
        logits: torch.Tensor = target.model(images)
    return [int(i) for i in logits.argmax(1)]


def png(image: torch.Tensor) -> str:
    """A data address of an image (1 or 3, height, width), bytes or floats in [0, 1]."""
    if image.dtype != torch.uint8:
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
