"""Where a cell was made: what does not enter its key but helps to explain it."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from frbench.attacks import AttackSpec
from frbench.discovery import PROJECT_ROOT
from frbench.evaluation.cells import Cell

# Raised when the meaning of a verdict changes, so that older cells are not taken for new ones.
MATRIX_VERSION = "1"
SEEDING = "torch starts from the cell's seed in every chunk of every stage, as in pyautoattack"
_DECIDING = {
    "none": (),
    "torchattacks": ("torchattacks",),
    "frbench": ("torchattacks",),
    "pyautoattack": ("pyautoattack",),
}


def version(package: str) -> str:
    """Version of an installed package without the local part: `2.11.0` for `2.11.0+cu130`."""
    return metadata.version(package).split("+")[0]


def deciding_versions(spec: AttackSpec) -> dict[str, str]:
    """The versions that can change a verdict of this attack; they enter the cell's key."""
    packages = ("torch", *_DECIDING[spec.library])
    return {"matrix": MATRIX_VERSION, **{package: version(package) for package in packages}}


def describe(device: torch.device) -> dict[str, Any]:
    """Device, system, versions and commit, for the record."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchattacks": version("torchattacks"),
        "pyautoattack": version("pyautoattack"),
        "commit": _commit(),
        "seeding": SEEDING,
    }


def record(cell: Cell, device: torch.device) -> None:
    """Set the cell's provenance; a cell that was continued elsewhere names every device."""
    before = str(cell.provenance.get("device", ""))
    cell.provenance = describe(device)
    devices = [name for name in before.split("; ") if name]
    cell.provenance["device"] = "; ".join(dict.fromkeys([*devices, device_name(device)]))


@functools.cache
def device_name(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3`, or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _commit() -> str | None:
    command = ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
