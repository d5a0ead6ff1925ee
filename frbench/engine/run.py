"""A run folder: all that one training leaves behind, valid after a kill at any moment.

run.json                 settings, provenance, cost, whether it has finished
metrics.jsonl            one JSON object an epoch
checkpoint.safetensors   everything that the next epoch needs, replaced after every epoch
best.safetensors         weights of the best epoch on the held-out split; also last, and the
swa-best.safetensors     same two of a weight average (swa-, ema-)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from frbench import storage
from frbench.engine.mechanisms import AVERAGES, MECHANISMS
from frbench.engine.plan import Plan
from frbench.engine.source import source_digest
from frbench.errors import InputError, first_line

METRICS = "metrics.jsonl"


@dataclass
class Progress:
    """What a run has done so far, apart from its tensors."""

    epochs_done: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """Best held-out robust accuracy by kind of weights ('', 'swa', 'ema')."""
    metrics: list[dict[str, Any]] = field(default_factory=list)


class RunFolder:
    """The files of one run, by meaning."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def lock(self) -> Path:
        return self.path / ".lock"

    def drop_leftovers(self) -> None:
        """Remove files that a kill left half-written; for whoever holds the lock."""
        for names in ("*.safetensors", METRICS, "run.json"):
            storage.drop_leftovers(self.path, names, age=0)

    def weights(self, view: str) -> Path:
        """Path of one view: `best`, `last`, `swa-best`, ..."""
        return self.path / f"{view}.safetensors"

    def views(self) -> list[str]:
        """Views that this run has saved, best before last, the average's after the model's own."""
        names = [p.stem for p in self.path.glob("*.safetensors") if p.stem != "checkpoint"]
        return sorted(names, key=lambda n: ("-" in n, n))

    def promised_views(self) -> list[str]:
        """Views that this run has once it is finished."""
        kinds = [k for k in AVERAGES if k in self.info()["settings"]["recipe"]["mechanisms"]]
        return [f"{prefix}{which}" for prefix in ("", *(f"{k}-" for k in kinds))
                for which in ("best", "last")]  # fmt: skip

    def write_info(self, info: Mapping[str, Any]) -> None:
        storage.write_json(self.path / "run.json", info)

    def info(self) -> dict[str, Any]:
        """Contents of run.json; raises InputError when there is none or it is damaged."""
        path = self.path / "run.json"
        try:
            info: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(f"{self.path} is not a run: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise InputError(f"damaged run {path}: {error}; move it away and train again") from None
        missing = _missing(info)
        if missing:
            raise InputError(f"damaged run {path}: no {missing}; move it away, train again")
        return info

    def readable(self) -> bool:
        """Whether run.json is there and whole; a stray folder shall not stop other runs."""
        try:
            self.info()
        except InputError:
            return False
        return True

    def begun(self) -> bool:
        """Whether a training has written here."""
        return (self.path / "run.json").is_file()

    def finished(self) -> bool:
        """Whether training reached its last epoch."""
        return self.begun() and bool(self.info().get("finished"))

    def check_weights(self) -> None:
        """Look at the header of every view that a finished run has; InputError names a bad one.

        A header tells how long its file must be, so a truncated file is seen without reading it.
        """
        for path in map(self.weights, self.promised_views()):
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                why = first_line(error) if path.is_file() else "no such file"
                raise InputError(
                    f"damaged run: cannot read weights {path}: {why}; "
                    f"move the folder {self.path} away to train it again"
                ) from None

    def save_checkpoint(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the checkpoint atomically, then the metrics that it implies."""
        content = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        blob = safetensors.torch.save(content, {"progress": json.dumps(asdict(progress))})
        storage.write_bytes(self.path / "checkpoint.safetensors", blob)
        self.write_metrics(progress)

    def write_metrics(self, progress: Progress) -> None:
        """Write metrics.jsonl anew; a kill may have kept a checkpoint's last line from it."""
        lines = "".join(json.dumps(line) + "\n" for line in progress.metrics)
        storage.write_text(self.path / METRICS, lines)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], Progress] | None:
        """Tensors and progress of the last finished epoch; None before the first.

        Raises:
            InputError: the file is damaged; says what to do, deletes nothing.
        """
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                progress = Progress(**json.loads(file.metadata()["progress"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"damaged checkpoint {path}: {first_line(error)}; move it away to train this run "
                "from the start"
            ) from None
        return tensors, progress

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary an epoch, oldest first, with its `epoch` counted from 0.

        Raises:
            InputError: names the first line that is damaged.
        """
        path = self.path / METRICS
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [_epoch(line, f"{path}:{n}") for n, line in enumerate(lines, start=1) if line]


def _epoch(line: bytes, where: str) -> dict[str, Any]:
    """One line of the metrics; a kill leaves none half-written, a copy may."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"damaged metrics {where}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("epoch"), int):
        raise InputError(f"damaged metrics {where}: no epoch")
    return content


_SETTINGS = {"defense": str, "preset": str, "protocol": str, "seed": int, "frame": dict}


def _missing(info: Any) -> str:
    """The first thing that a run's information lacks; empty if it has what all of them have."""
    if not isinstance(info, dict) or not isinstance(info.get("settings"), dict):
        return "settings"
    settings = info["settings"]
    recipe = settings.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("mechanisms"), dict):
        return "recipe"
    return next((k for k, kind in _SETTINGS.items() if not isinstance(settings.get(k), kind)), "")


def runs_in(runs_dir: Path) -> list[RunFolder]:
    """Every run that has begun in a folder, by name."""
    return [RunFolder(path.parent) for path in sorted(runs_dir.glob("*/run.json"))]


def find_run(runs_dir: Path, plan: Plan) -> RunFolder | None:
    """The run that serves `plan`: its own, if that is finished; else a finished one of the same
    trajectory with its average and its test images (or any, if it wants none); else its own, to be
    resumed."""
    folders = [run for run in runs_in(runs_dir) if run.name.endswith(f"-{plan.trajectory}")]
    found = {folder: _watched(folder.info()["settings"]) for folder in folders}
    wanted = _watched(plan.settings())
    own = [folder for folder, watched in found.items() if watched == wanted]
    serving = [folder for folder, watched in found.items() if _serves(watched, wanted)]
    candidates = [folder for folder in (*own, *serving) if folder.finished()] or own
    if not candidates:
        return None
    _check_source(candidates[0], plan)
    return candidates[0]


def _check_source(folder: RunFolder, plan: Plan) -> None:
    """Raise InputError where the recipe's code has changed since: its numbers would be the old."""
    if folder.info().get("recipe_code", now := source_digest(plan.recipe)) != now:
        raise InputError(
            f"{folder.path} was trained by other code of '{plan.defense}': move that folder "
            "away to train the present one, or undo the change"
        )


@dataclass(frozen=True)
class _Watched:
    """What tells apart the runs of one trajectory: all mechanisms, test images, what it is called.

    A row bears preset and protocol of its run.
    """

    called: tuple[str, str]
    mechanisms: Mapping[str, Mapping[str, Any]]
    test_images: int


def _watched(settings: Mapping[str, Any]) -> _Watched:
    """Of a run's settings; what an older run does not know was as it is by default."""
    mechanisms = settings["recipe"]["mechanisms"]
    known = {kind: part().model_dump(mode="json") for kind, part in MECHANISMS.items()}
    filled = {kind: {**known.get(kind, {}), **values} for kind, values in mechanisms.items()}
    called = settings["preset"], settings["protocol"]
    return _Watched(called, filled, settings["frame"].get("test_images", 0))


def _serves(found: _Watched, wanted: _Watched) -> bool:
    if found.called != wanted.called or wanted.test_images not in (0, found.test_images):
        return False
    return all(found.mechanisms.get(kind) == v for kind, v in wanted.mechanisms.items())
