"""With what a cell was made: versions that enter its key, and the record that explains it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

import torch

from frbench.attacks import AttackSpec
from frbench.evaluation.cells import Cell, ModelRecord
from frbench.models.architectures import TIMM
from frbench.provenance import code_digest, commit, hardware_name, library_version

# Raised when the meaning of a verdict changes, so that older cells are not taken for new ones.
MATRIX_VERSION = "1"
FAST_SEARCH_VERSION = "3"
"""Since 2, FAB projects without sorting; since 3, CUDA multiplies in float16, not in TF32."""
SEEDING = "torch starts from the cell's seed in every chunk of every stage, as in pyautoattack"
_DECIDING = {
    "none": (),
    "torchattacks": ("torchattacks",),
    "frbench": ("torchattacks",),
    "pyautoattack": ("pyautoattack",),
}


def deciding_versions(
    spec: AttackSpec, model: ModelRecord, searched_in: torch.dtype | None = None
) -> dict[str, str]:
    """The versions that can change a verdict of this attack; they enter the cell's key.

    Args:
        spec: the attack.
        model: whose own code may be a library's.
        searched_in: what the twin of a fast search multiplies in; None for an exact search.
    """
    packages = ("torch", *_DECIDING[spec.library], *_computing(model))
    versions = {package: library_version(package) for package in packages}
    if searched_in is not None and spec.library != "none":
        kind = str(searched_in).removeprefix("torch.")
        versions[f"fast search in {kind}"] = FAST_SEARCH_VERSION
    return {"matrix": MATRIX_VERSION, **versions}


def _computing(model: ModelRecord) -> tuple[str, ...]:
    """The libraries whose code a model's digest does not cover: normalization and activations."""
    if model.source == "outside" and model.target.startswith("robustbench:"):
        return "robustbench", "timm"  # it takes some of its networks from there
    return ("timm",) if model.architecture.startswith(TIMM) else ()


def describe(device: torch.device) -> dict[str, Any]:
    """Device, system, versions, commit and code, for the record."""
    return {
        "device": hardware_name(device),
        "threads": torch.get_num_threads(),
        "host": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchattacks": library_version("torchattacks"),
        "pyautoattack": library_version("pyautoattack"),
        "commit": commit(),
        "code": code_digest(),
        "seeding": SEEDING,
    }


def record(cell: Cell, device: torch.device) -> None:
    """Set the cell's date and provenance; one that was continued elsewhere names every device."""
    cell.updated = datetime.now(UTC).isoformat(timespec="seconds")
    before = str(cell.provenance.get("device", ""))
    cell.provenance = describe(device)
    devices = [name for name in before.split("; ") if name]
    cell.provenance["device"] = "; ".join(dict.fromkeys([*devices, hardware_name(device)]))
