"""Targets that we did not train: found by scheme among the adapters, checked, confirmed."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict

from frbench import storage
from frbench.data import Dataset, load_dataset, to_float
from frbench.discovery import discover, explain
from frbench.engine.presets import PRESETS
from frbench.engine.source import modules_digest
from frbench.errors import FrbenchError, InputError
from frbench.evaluation import numerics
from frbench.evaluation.cells import ModelRecord
from frbench.evaluation.target import Target
from frbench.evaluation.views import changes, row_name
from frbench.models.outside import (
    Adapter,
    ExtraData,
    OutsideModel,
    confirm,
    refuse_options,
    renormalized,
)
from frbench.models.sizes import taking
from frbench.names import lookup

# Enough to tell a wrong normalization, which costs tens of points; a CPU takes seconds for these.
_IMAGES = {"cpu": 128, "cuda": 512}
_ADAPTERS = "baselines"
_TRIED = 8
"""Of these, first, to see whether the model takes them at all."""


class Training(BaseModel):
    """What a weights file of frbench tells of the training that it comes from."""

    model_config = ConfigDict(frozen=True)

    defense: str | None = None
    preset: str | None = None
    protocol: str | None = None
    seed: int | None = None
    view: str = "best"
    epoch: int | None = None
    engine: int | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainedModel(OutsideModel):
    """A model that frbench trained, without its run folder."""

    training: Training = field(default_factory=Training)


def adapters() -> dict[str, Adapter]:
    """The modules of `baselines/` that load models, by the scheme they answer to."""
    modules, _ = discover(_ADAPTERS)
    found = [cast(Adapter, m) for m in modules.values() if hasattr(m, "SCHEME")]
    return {adapter.SCHEME: adapter for adapter in found}


def outside_targets() -> dict[str, str]:
    """What that is by what an adapter takes, such as `file:PATH`; from the first line of its text,
    which begins with the latter in backquotes.
    """
    targets = {}
    for scheme, adapter in adapters().items():
        line = (inspect.getdoc(adapter) or "").partition("\n")[0]
        told = re.match(r"`([^`]+)`:? *(.*)", line)
        spelling, what = told.groups() if told else (f"{scheme}:...", line)
        targets[spelling] = what.replace("`", "").rstrip(".")
    return targets


def is_outside(text: str) -> bool:
    """Whether a target's text names an adapter: `natural`, or `SCHEME:` and whatever follows."""
    return text.partition(":")[0] in adapters()


def refuse_broken(text: str) -> None:
    """Raise InputError when the adapter of a target is a file that cannot be imported.

    Such a file may say its scheme in its text; else its own name is taken for it.
    """
    scheme = text.partition(":")[0]
    for module in discover(_ADAPTERS)[1]:
        said = re.search(r"""^SCHEME\b[^=]*=\s*["'](.+?)["']""", _source(module.path), re.MULTILINE)
        if scheme in (module.path.stem, said and said[1]):
            raise InputError(f"target '{text}' cannot be used: {module}")


def _source(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def load_outside(
    text: str,
    architecture: str | None = None,
    *,
    normalization: str | None = None,
    extra_data: ExtraData | None = None,
    device: str | torch.device = "cpu",
) -> Target:
    """The model that a target such as `natural` or `file:model.pt` names, ready to be attacked.

    Args:
        text: `SCHEME` or `SCHEME:REFERENCE`.
        architecture: as given by the user, for adapters that can use it.
        normalization: name of a preset, as given by the user, for adapters that can use it.
        extra_data: what the user says it was trained on besides its dataset, if nobody else does.

    Returns:
        The target; its record's note says what was detected and how accurate it is.

    Raises:
        InputError: unknown scheme, an adapter that cannot be imported (with file and line), weights
            that do not fit, logits that make no sense.
    """
    refuse_broken(text)
    scheme, _, reference = text.partition(":")
    adapter = lookup("kind of target", scheme, adapters())
    with _blamed(text, adapter):
        model = adapter.load(reference, architecture=architecture, normalization=normalization)
    model = _declared(model, extra_data)
    model.module.to(device).eval()  # before it sees images: its digest is of what it is now
    model = _with_code(_trusted(model, torch.device(device)))
    model.module.to(device).eval().requires_grad_(False)
    return Target(model.module, _record(model))


@contextlib.contextmanager
def _blamed(text: str, adapter: Adapter) -> Iterator[None]:
    """Say in which line of an adapter something went wrong that it does not explain itself."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"target '{text}': there is no file {error.filename}") from error
    except (FrbenchError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        where = explain(Path(inspect.getfile(cast(ModuleType, adapter))), error)
        raise InputError(f"target '{text}' cannot be used: {where}") from error


def _with_code(model: OutsideModel) -> OutsideModel:
    """The model, told apart also by the code of those of its classes that are in `baselines/`."""
    own = {type(part).__module__ for part in model.module.modules()}
    own = {name for name in own if name.startswith(f"{_ADAPTERS}.")}
    if not own:
        return model
    content = {"model": model.digest, "code": modules_digest(own)}
    return dataclasses.replace(model, digest=storage.canonical_digest(content, length=64))


def _declared(model: OutsideModel, extra_data: ExtraData | None) -> OutsideModel:
    """The model with the user's word on its training data, where its adapter has none."""
    if extra_data is None:
        return model
    if model.extra_data != "unknown":
        refuse_options(model.target, **{"extra data": extra_data})
    return dataclasses.replace(model, extra_data=extra_data)


def _trusted(model: OutsideModel, device: torch.device) -> OutsideModel:
    """The model after one look at a few training images, its note telling what they showed."""
    try:
        dataset = load_dataset(model.dataset)
    except FrbenchError as error:
        return _noted(model, f"not confirmed on images ({error})")
    images, labels = _sample(dataset, device)
    few, classes = slice(_TRIED), len(dataset.classes)
    with taking(f"model '{model.target}'", images.shape[1:]):
        numerics.correct(
            model.module, images[few], labels[few], classes=classes, name=model.target, seed=0
        )
    if model.certainty == "verified":
        return model
    confirmation = confirm(model, images, labels)
    if confirmation.normalization != model.normalization:
        model = renormalized(model, confirmation.normalization)
        model = _noted(model, f"normalization {model.normalization or 'none'} fits best")
    return _noted(model, str(confirmation))


def _sample(dataset: Dataset, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    n = _IMAGES.get(device.type, _IMAGES["cpu"])
    few = dataset.train.first(n)
    return to_float(few.images.to(device)), few.labels.to(device)


def _noted(model: OutsideModel, remark: str) -> OutsideModel:
    return dataclasses.replace(model, note="; ".join(filter(None, (model.note, remark))))


def _record(model: OutsideModel) -> ModelRecord:
    record = ModelRecord(
        name=model.name,
        target=model.target,
        digest=model.digest,
        architecture=model.architecture,
        parameters=sum(p.numel() for p in model.module.parameters()),
        dataset=model.dataset,
        classes=model.classes,
        source="outside",
        comparable=True,
        extra_data=model.extra_data,
        note=model.note,
    )
    if isinstance(model, TrainedModel) and model.training.defense and model.training.preset:
        return record.model_copy(update=_told(model.training, model.note))
    return record


def _told(training: Training, note: str) -> dict[str, object]:
    """What the row of a run would say, as far as its weights file knows."""
    preset = PRESETS.get(str(training.preset))
    changed = changes(training.changed, training.view)
    defense = row_name(str(training.defense), training.view)
    return {
        "name": f"file:{defense}",
        "defense": defense,
        "preset": training.preset,
        "protocol": training.protocol,
        "weights": training.view.rpartition("-")[2],
        "seed": training.seed,
        "epoch": None if training.epoch is None else training.epoch + 1,
        "engine": training.engine,
        "comparable": bool(preset and preset.comparable) and not changed,
        "note": "; ".join(filter(None, [note, preset.told(changed) if preset else "", *changed])),
    }
