"""From what a user types as TARGET to a model that is ready to be attacked.

TARGET is a run folder or a run's name (its best weights, or `@VIEW` such as `@last`), a defense
that one finished run has trained, or a model from outside: `natural`, `file:PATH`,
`robustbench:ID`, `timm:NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frbench import storage
from frbench.engine.mechanisms import AVERAGES
from frbench.engine.presets import PRESETS
from frbench.engine.registry import parse_defense
from frbench.engine.run import RunFolder, runs_in
from frbench.errors import InputError
from frbench.evaluation.cells import ModelRecord
from frbench.evaluation.outside import (
    is_outside,
    load_outside,
    outside_targets,
    refuse_broken,
)
from frbench.evaluation.target import Target
from frbench.evaluation.views import changes, headline_view, row_name
from frbench.models import load_weights
from frbench.models.outside import ExtraData, refuse_options
from frbench.names import lookup, unknown

RUNS = Path("runs")


def resolve_target(
    text: str,
    *,
    device: str | torch.device = "cpu",
    runs_dir: Path = RUNS,
    architecture: str | None = None,
    normalization: str | None = None,
    extra_data: ExtraData | None = None,
) -> Target:
    """The model that `text` names, in eval mode on `device`.

    Args:
        text: a TARGET, see the module's text.
        runs_dir: where runs are looked up by their name or their defense's.
        architecture: of weights from outside that do not tell.
        normalization: of weights from outside: `none` or `cifar10`.
        extra_data: of weights from outside that do not tell.

    Raises:
        InputError: no such run, weights or adapter (with the nearest known), several runs of a
            defense or only unfinished ones, a damaged file, or an option that a run has no use for.
    """
    if not text.strip():
        raise InputError("an empty TARGET: name a run, natural or file:PATH")
    options = {
        "architecture": architecture,
        "normalization": normalization,
        "extra data": extra_data,
    }
    for name, view in _readings(text):
        for run in (RunFolder(Path(name)), RunFolder(runs_dir / name)):
            if run.begun():
                refuse_options(f"run {run.name}", **options)
                return run_target(run, view, device=device)
    if is_outside(text):
        return load_outside(
            text, architecture, normalization=normalization, extra_data=extra_data, device=device
        )
    for name, _ in _readings(text):
        if Path(name).exists():
            raise InputError(
                f"{name} is not a run (it has no run.json); for a weights file write file:{name}"
            )
    name, view = _readings(text)[-1]
    found = run_of(name, runs_dir)
    if found is not None:
        refuse_options(f"run {found[0].name}", **options)
        return run_target(found[0], view or found[1], device=device)
    refuse_broken(text)
    runs = [run.name for run in runs_in(runs_dir)]
    raise unknown("target", text, [*outside_targets(), *runs], order=False)


def _readings(text: str) -> list[tuple[str, str | None]]:
    """What a text may mean: all of it a name or a path, or `NAME@VIEW` (a view has no `/`)."""
    name, at, view = text.rpartition("@")
    return [(text, None), *([(name, view or None)] if at and "/" not in view else [])]


def run_of(text: str, runs_dir: Path) -> tuple[RunFolder, str | None] | None:
    """The finished run that trained a defense, and the view that is it; None if there is none.

    A run with an average also trained the defense without it: that is its view `best`, as `bench`
    has it, where the plain defense has no run of its own.

    Raises:
        InputError: several finished runs, or none but unfinished or damaged ones; names them.
    """
    try:
        defense = parse_defense(text).name
    except InputError:
        return None
    runs = runs_in(runs_dir)
    trained = [(run, str(run.info()["settings"]["defense"])) for run in runs if run.readable()]
    finished = [(run, name) for run, name in trained if run.finished()]
    own = [run for run, name in finished if name == defense]
    serving = own or [run for run, name in finished if row_name(name, "best") == defense]
    if len(serving) > 1:
        names = ", ".join(run.name for run in serving)
        raise InputError(f"'{text}' has {len(serving)} runs: name one of {names}")
    if serving:
        return serving[0], None if own else "best"
    begun = [run for run, name in trained if name == defense]
    if begun:
        far = "; ".join(f"{run.name}, {_epochs(run, run.info())}" for run in begun)
        raise InputError(
            f"'{text}' has no finished run ({far}): go on with the same 'frbench train', or name "
            "the run"
        )
    for run in runs:
        run.info()  # the one that was meant may be the one that cannot be read
    return None


def run_target(
    run: RunFolder, view: str | None = None, *, device: str | torch.device = "cpu"
) -> Target:
    """One view of a run: its defense's best weights, or the one asked for."""
    views = run.views()
    if not views:
        raise InputError(
            f"run {run.name} has no weights yet; train it with the same 'frbench train' command"
        )
    info = run.info()
    settings = info["settings"]
    if view is None:
        view = headline_view(settings["recipe"]["mechanisms"])
    if view not in views and view in run.promised_views():
        raise InputError(
            f"{'damaged' if info.get('finished') else 'unfinished'} run {run.path}: it has no "
            f"{view}.safetensors; name other weights of it, such as {run.name}@{views[0]}, or "
            f"{'move it away and train again' if info.get('finished') else 'train on'}"
        )
    model, meta = load_weights(
        lookup(f"view of run {run.name}", view, {v: run.weights(v) for v in views})
    )
    model.to(device)
    preset = PRESETS.get(settings["preset"])
    unfinished = _unfinished(run, info)
    changed = changes(settings.get("changed", []), view)
    notes = [preset.told(changed) if preset else "", *changed, unfinished]
    record = ModelRecord(
        name=row_name(settings["defense"], view),
        target=run.name if view == "best" else f"{run.name}@{view}",
        digest=meta.digest,
        architecture=meta.architecture,
        parameters=sum(p.numel() for p in model.parameters()),
        dataset=meta.dataset,
        classes=meta.classes,
        source="run",
        defense=row_name(settings["defense"], view),
        preset=settings["preset"],
        protocol=settings["protocol"],
        weights=view.rpartition("-")[2],
        seed=settings["seed"],
        epoch=meta.extra["epoch"] + 1,
        engine=info.get("engine"),
        training_precision=info.get("precision"),
        settings=_settings(info, view),
        comparable=bool(preset and preset.comparable) and not (changed or unfinished),
        note="; ".join(filter(None, notes)),
        cost={k: v for k, v in info.get("cost", {}).items() if v is not None},
    )
    return Target(model.eval().requires_grad_(False), record)


def _settings(info: Mapping[str, Any], view: str) -> str:
    """Digest of all that decides the weights of a view but the seed: recipe, its code, frame.

    Test images only watch, and an average leaves the plain weights as they are.
    """
    settings = info["settings"]
    mechanisms = settings["recipe"]["mechanisms"]
    if "-" not in view:
        mechanisms = {kind: m for kind, m in mechanisms.items() if kind not in AVERAGES}
    frame = {key: value for key, value in settings["frame"].items() if key != "test_images"}
    recipe = {**settings["recipe"], "mechanisms": mechanisms}
    known = {"recipe": recipe, "code": info.get("recipe_code"), "frame": frame}
    return storage.canonical_digest(known, length=6)


def _unfinished(run: RunFolder, info: Mapping[str, Any]) -> str:
    """How far an unfinished run has come, for its row; empty for a finished one."""
    if info.get("finished"):
        return ""
    return f"unfinished: {_epochs(run, info)}"


def _epochs(run: RunFolder, info: Mapping[str, Any]) -> str:
    return f"{len(run.metrics())} of {info['settings']['frame']['epochs']} epochs"
