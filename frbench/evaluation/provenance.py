"""Where a cell was made: what does not enter its key but helps to explain it."""

from __future__ import annotations

import platform
from typing import Any

import torch

from frbench.attacks import AttackSpec
from frbench.evaluation.cells import Cell
from frbench.evaluation.search import Search
from frbench.provenance import commit, hardware_name, library_version

# Raised when the meaning of a verdict changes, so that older cells are not taken for new ones.
MATRIX_VERSION = "1"
FAST_AUTOATTACK_VERSION = "2"
"""Since 2, FAB projects without sorting."""
SEEDING = "torch starts from the cell's seed in every chunk of every stage, as in pyautoattack"
_DECIDING = {
    "none": (),
    "torchattacks": ("torchattacks",),
    "frbench": ("torchattacks",),
    "pyautoattack": ("pyautoattack",),
}


def deciding_versions(spec: AttackSpec, search: Search) -> dict[str, str]:
    """The versions that can change a verdict of this attack; they enter the cell's key."""
    packages = ("torch", *_DECIDING[spec.library])
    versions = {package: library_version(package) for package in packages}
    if search != "exact" and spec.is_autoattack:
        versions["fast search"] = FAST_AUTOATTACK_VERSION
    return {"matrix": MATRIX_VERSION, **versions}


def describe(device: torch.device) -> dict[str, Any]:
    """Device, system, versions and commit, for the record."""
    return {
        "device": hardware_name(device),
        "threads": torch.get_num_threads(),
        "host": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchattacks": library_version("torchattacks"),
        "pyautoattack": library_version("pyautoattack"),
        "commit": commit(),
        "seeding": SEEDING,
    }


def record(cell: Cell, device: torch.device) -> None:
    """Set the cell's provenance; a cell that was continued elsewhere names every device."""
    before = str(cell.provenance.get("device", ""))
    cell.provenance = describe(device)
    devices = [name for name in before.split("; ") if name]
    cell.provenance["device"] = "; ".join(dict.fromkeys([*devices, hardware_name(device)]))
