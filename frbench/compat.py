"""The one place that knows how to import robustbench, whose wheel does not import alone."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast


def register_autoattack() -> None:
    """Make `import autoattack` mean pyautoattack.

    AutoAttack is on PyPI as `pyautoattack` only; robustbench requires that package and imports it
    under its old name, `autoattack`.
    """
    if importlib.util.find_spec("autoattack") is None:
        sys.modules["autoattack"] = importlib.import_module("pyautoattack")
        sys.modules["autoattack.state"] = importlib.import_module("pyautoattack.state")


def robustbench_module(name: str) -> ModuleType:
    """Import `robustbench.<name>`; slow the first time, so call it only where it is needed."""
    register_autoattack()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources and timm announce their next versions
        return importlib.import_module(f"robustbench.{name}")


@functools.cache
def robustbench_zoo(dataset: str, threat_model: str) -> Mapping[str, Mapping[str, Any]]:
    """The zoo's entries of one dataset and threat model, by model id.

    Args:
        dataset: `cifar10`, `cifar100` or `imagenet`.
        threat_model: `Linf`, `L2` or `corruptions`.

    Returns:
        For each id an entry with `model`, which builds the network, and `gdrive_id`, one address or
        a list of them. Empty for a pair that the zoo does not have.
    """
    tables = robustbench_module("model_zoo").model_dicts
    for data, by_threat in tables.items():
        for threat, models in by_threat.items():
            if (data.value, threat.value) == (dataset, threat_model):
                return cast("Mapping[str, Mapping[str, Any]]", models)
    return {}


def shadowed_robustbench_files() -> tuple[str, ...]:
    """Files of robustbench that another package has overwritten (the wheel's record disagrees).

    torchattacks 3.5.1 ships an old copy of robustbench in its own wheel; whichever of the two is
    installed last wins. Its zoo lacks the newer models; the architectures are the same.
    """
    found = importlib.metadata.distribution("robustbench")
    root = Path(str(found.locate_file("")))
    shadowed = []
    for name, digest, _ in csv.reader((found.read_text("RECORD") or "").splitlines()):
        if digest.startswith("sha256=") and name.startswith("robustbench/"):
            content = (root / name).read_bytes() if (root / name).is_file() else b""
            actual = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            if digest != f"sha256={actual.decode()}":
                shadowed.append(name)
    return tuple(shadowed)
