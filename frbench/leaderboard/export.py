"""A run as a RobustBench submission: model info, loader and the text of the request."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from frbench import published, storage
from frbench.attacks.columns import specs
from frbench.attacks.spec import AA_STAGES, AttackSpec, format_length
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, ModelRecord
from frbench.leaderboard.compare import find_row
from frbench.leaderboard.neighbours import architecture_name
from frbench.leaderboard.refresh import entry_of
from frbench.leaderboard.selection import Task, full_name, load_cells, pick, spec_id, task_of
from frbench.published import Snapshot

IMAGES = 10_000
USUAL = "Linf 8/255"  # the threat model to submit where a row was measured under several
MISSING = "N/A"


class ModelInfo(BaseModel):
    """An entry as RobustBench keeps it: its field names, and every number a string."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    link: str
    name: str
    authors: str
    additional_data: bool
    number_forward_passes: Literal[1] = 1
    dataset: str
    venue: str
    architecture: str
    eps: str
    clean_acc: str
    reported: str
    autoattack_acc: str
    footnote: str = ""
    unreliable: bool = False


class Paper(BaseModel):
    """What no measurement can tell; `N/A` where it is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = MISSING
    authors: str = MISSING
    link: str = MISSING
    venue: str = MISSING


def export_robustbench(
    root: Path, row: str, output: Path, *, model_id: str = "", paper: Paper | None = None
) -> list[Path]:
    """Write `<id>.json`, `<id>_loader.py` and `<id>_submission.md`.

    A row that was measured under several threat models is submitted under Linf 8/255.

    Args:
        root: results folder that holds `cells/`.
        row: the row as the table shows it, its target, or the first digits of its digest.
        output: folder for the files.
        model_id: name of the entry; by default the row's name.
        paper: title, authors, link and venue.

    Returns:
        The files.

    Raises:
        InputError: AutoAttack or the clean pass is not complete on all 10,000 test images, several
            AutoAttacks could be meant, or the task is not one of RobustBench's.
    """
    cells = load_cells(root)
    digest = find_row(cells, row)
    own = [c for c in cells if c.model.digest == digest]
    snapshot = published.robustbench()
    _check_source(own[0].model, row)
    _check_task(own, snapshot)
    clean, aa = _measured(own, row, root)
    info = _model_info(clean, aa, paper or Paper(), snapshot)
    identity = "".join(
        c if c.isalnum() or c in "-_" else "_" for c in model_id or full_name(aa.model)
    ).strip("_")
    content = info.model_dump(mode="json", exclude=None if info.footnote else {"footnote"})
    entry_of(info.dataset, aa.attack.norm, identity, content)  # the snapshot's reader accepts it
    files = {
        f"{identity}.json": json.dumps(content, indent=2) + "\n",
        f"{identity}_loader.py": _loader(info, aa),
        f"{identity}_submission.md": _submission(identity, info, aa),
    }
    for name, text in files.items():
        storage.write_text(output / name, text)
    return [output / name for name in files]


def _measured(cells: list[Cell], row: str, root: Path) -> tuple[Cell, Cell]:
    """The clean pass and AutoAttack on the whole test set."""
    aa = _autoattack(cells, row, root)
    same = [c for c in cells if c.attack.eps == 0 and task_of(c) == task_of(aa)]
    clean = _full(same)
    if clean is None:
        raise InputError(
            f"'{row}' has no clean accuracy on all {IMAGES:,} test images; "
            + _command(aa.model, "clean", root)
        )
    return clean, aa


def _check_source(model: ModelRecord, row: str) -> None:
    if model.defense is None:
        raise InputError(f"'{row}' was not trained by frbench: its authors submit it, not you")


def _check_task(cells: list[Cell], snapshot: Snapshot) -> None:
    """Refuse what RobustBench has no place for, before anyone measures more of it."""
    measured = [c.attack for c in cells if c.attack.is_autoattack] or [specs()["aa"]]
    dataset = cells[0].data.dataset
    if not any(_has_task(snapshot, dataset, spec) for spec in measured):
        raise _no_task(dataset, measured[0])


def _has_task(snapshot: Snapshot, dataset: str, spec: AttackSpec) -> bool:
    return any(
        (e.dataset, e.threat_model) == (dataset, spec.norm)
        and e.radius is not None
        and abs(e.radius - spec.eps) < 1e-9
        for e in snapshot.entries
    )


def _no_task(dataset: str, spec: AttackSpec) -> InputError:
    return InputError(
        f"RobustBench has no {dataset} entry under {spec.threat_model}: nothing to submit to"
    )


def _autoattack(cells: list[Cell], row: str, root: Path) -> Cell:
    """The one complete AutoAttack of a task: the usual threat model's, or whose there is."""
    tasks: dict[tuple[str, Task], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.attack.is_autoattack and cell.attack.stages == AA_STAGES:
            tasks[spec_id(cell.attack), task_of(cell)].append(cell)
    complete = [whole for own in tasks.values() if (whole := _full(own)) is not None]
    if not complete:
        raise InputError(_refusal(cells, row, root))
    found = [c for c in complete if c.attack.threat_model == USUAL] or complete
    if len(found) > 1:
        listed = "; ".join(
            f"{c.data.dataset} #{c.data.sha256[:6]} under {c.attack.threat_model}, "
            f"{c.attack.library}"
            for c in found
        )
        raise InputError(
            f"'{row}' has {len(found)} complete AutoAttacks that differ ({listed}): name a "
            "--results-dir that holds the cells of one"
        )
    return found[0]


def _full(cells: list[Cell]) -> Cell | None:
    test = [c for c in cells if c.data.split == "test" and c.precision == "fp32"]
    found = pick(test, 0, IMAGES)
    return found.cell if found is not None and found.cell.complete else None


def _refusal(cells: list[Cell], row: str, root: Path) -> str:
    """How far AutoAttack has come, and the command that finishes it."""
    own = [c for c in cells if c.attack.is_autoattack]
    command = _command(cells[0].model, "clean,aa", root)
    wanted = f"RobustBench needs all four stages of AutoAttack on all {IMAGES:,} test images"
    if not own:
        return f"'{row}' has no AutoAttack: {wanted}; {command}"
    best = max(own, key=lambda c: (c.data.n, len(c.stages_done())))
    if best.precision != "fp32":
        return f"'{row}' was measured with {best.precision}: RobustBench needs fp32; {command}"
    done = ", ".join(best.stages_done()) or "no stage"
    return f"'{row}' has {done} complete on {best.data.n:,} images: {wanted}; {command}"


def _command(model: ModelRecord, attacks: str, root: Path) -> str:
    """What to run, so that the cells which are missing come to the others."""
    target = model.explicit_target
    return f"run `frbench evaluate {target} --attacks {attacks} --results-dir {root}`"


def _model_info(clean: Cell, aa: Cell, paper: Paper, snapshot: Snapshot) -> ModelInfo:
    model, spec = aa.model, aa.attack
    if not _has_task(snapshot, aa.data.dataset, spec):
        raise _no_task(aa.data.dataset, spec)
    spelling = [
        e.architecture
        for e in snapshot.entries
        if architecture_name(e.architecture) == architecture_name(model.architecture)
    ]
    robust = f"{100 * aa.accuracy:.2f}"
    return ModelInfo(
        link=paper.link,
        name=paper.title,
        authors=paper.authors,
        additional_data=model.extra_data == "extra",
        dataset=aa.data.dataset,
        venue=paper.venue,
        architecture=spelling[0] if spelling else model.architecture,
        eps=_eps_text(spec),
        clean_acc=f"{100 * clean.accuracy:.2f}",
        reported=robust,
        autoattack_acc=robust,
        footnote="It uses synthetic images in training." if model.extra_data == "synthetic" else "",
    )


def _eps_text(spec: AttackSpec) -> str:
    return format_length(spec.eps) if spec.norm == "Linf" else f"{spec.eps:g}"


def _loader(info: ModelInfo, aa: Cell) -> str:
    return f'''"""Load {info.architecture} for {info.dataset} and check it with RobustBench."""

import sys

from robustbench.eval import benchmark

from frbench.models import load_weights

model, meta = load_weights(sys.argv[1])  # the run's .safetensors file; needs no pickle
assert meta.digest == "{aa.model.digest}", "these are other weights"
clean, robust = benchmark(
    model,
    n_examples={IMAGES},
    dataset="{info.dataset}",
    threat_model="{aa.attack.norm}",
    eps={info.eps},
)
print(f"clean {{clean:.2%}} (measured {info.clean_acc} %)")
print(f"robust {{robust:.2%}} (measured {info.autoattack_acc} %)")
'''


def _submission(identity: str, info: ModelInfo, aa: Cell) -> str:
    missing = [
        field for field in ("name", "authors", "link", "venue") if getattr(info, field) == MISSING
    ]
    data = {"none": "no", "extra": "yes, real images", "synthetic": "yes, synthetic images"}
    todo = f"Still to fill in: {', '.join(missing)}.\n\n" if missing else ""
    versions = ", ".join(f"{name} {version}" for name, version in aa.versions.items())
    return f"""# [New Model] {identity}

{todo}- Paper: {info.name}
- Link: {info.link}
- Venue: {info.venue}
- Architecture: {info.architecture} ({aa.model.parameters:,} parameters)
- Dataset: {info.dataset}
- Threat model: {aa.attack.norm}, eps {info.eps}
- Additional data: {data.get(aa.model.extra_data, "unknown")}
- Clean accuracy: {info.clean_acc} %
- Robust accuracy: {info.autoattack_acc} %
- Evaluation: standard AutoAttack ({", ".join(aa.stages)}), all {IMAGES:,} test images, \
{aa.precision}, seed {aa.seed}, batch {aa.batch}; {versions}
- Weights: SHA-256 digest {aa.model.digest}; `{identity}_loader.py` loads and checks them
- Randomness at inference: none; forward passes an image: {info.number_forward_passes}
"""
