"""Where and with what something was made, for cells and runs."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import frbench
from frbench import storage
from frbench.discovery import PROJECT_ROOT

LIBRARIES = ("torch", "torchattacks", "pyautoattack", "robustbench", "timm", "numpy")


def provenance(device: str) -> dict[str, Any]:
    """Device, versions, commit and code, as JSON-like data.

    Args:
        device: name of the hardware, for people.
    """
    return {
        "device": device,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "frbench": frbench.__version__,
        "commit": commit(),
        "code": code_digest(),
        "versions": {name: library_version(name) for name in LIBRARIES},
    }


@functools.cache
def hardware_name(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3`, or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def library_version(name: str) -> str:
    """Installed version of a package without its build tag, or `missing`."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "missing"


@functools.cache
def commit() -> str | None:
    """The project's git commit, with `+` when files differ from it; None outside a checkout.

    Results do not count: what a run wrote there is not what the next one was made with.
    """
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/results")
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return f"{head}+" if dirty else head


@functools.cache
def code_digest() -> str:
    """Digest of the Python files of `frbench/`: tells the code where no commit does.

    `frbench doctor` prints it, so a checkout can be held against what a result names.
    """
    package = PROJECT_ROOT / "frbench"
    files = {
        path.relative_to(package).as_posix(): storage.sha256(path.read_bytes())
        for path in package.rglob("*.py")
    }
    return storage.canonical_digest(files)


def _git(*arguments: str) -> str:
    finished = subprocess.run(
        ["git", *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return finished.stdout.strip()
