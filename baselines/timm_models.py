"""`timm:NAME`: a model of timm with published weights for the datasets here.

NAME is what timm takes: a model of its own list, or a model that others trained with timm, as
`hf-hub:USER/MODEL` from a hub or `local-dir:FOLDER` from a folder with `config.json` and weights.
Timm's own weights are of data sets with more classes; most models for CIFAR-10 are others'.
"""

from __future__ import annotations

import importlib
from typing import Any

from frbench.errors import FrbenchError, InputError, first_line
from frbench.models import Normalization, Normalized, weights_digest
from frbench.models.outside import OutsideModel, refuse_options
from frbench.names import unknown

SCHEME = "timm"
_DATASETS = {10: "cifar10", 100: "cifar100"}


def load(reference: str, *, architecture: str | None, normalization: str | None) -> OutsideModel:
    """The pretrained model, from timm's cache, a hub or a folder, as its configuration states it.

    Raises:
        InputError: no such model, or one without weights for 10 or 100 classes.
        FrbenchError: its weights cannot be had.
    """
    refuse_options(f"timm:{reference}", architecture=architecture, normalization=normalization)
    if not reference:
        raise InputError("'timm:' needs the name of a model, as in 'timm:NAME'")
    timm = importlib.import_module("timm")  # seconds, and every target looks at this file
    if ":" not in reference:
        _refuse_unfit(timm, reference)
    try:
        net = timm.create_model(reference, pretrained=True)
    except Exception as error:  # hub and file errors of many kinds, all with the same remedy
        raise FrbenchError(
            f"cannot get the weights of 'timm:{reference}': {first_line(error)}; "
            f"{_own_weights(reference)}"
        ) from error
    config: dict[str, Any] = net.pretrained_cfg
    _refuse_classes(reference, config["num_classes"])
    constants = Normalization(tuple(config["mean"]), tuple(config["std"]))
    network = f"timm:{config['architecture'] if ':' in reference else reference}"
    return OutsideModel(
        module=Normalized(net, constants).eval(),
        name=f"timm:{reference}",
        target=f"timm:{reference}",
        architecture=network,
        normalization=constants,
        dataset=_DATASETS[config["num_classes"]],
        classes=config["num_classes"],
        digest=weights_digest(net.state_dict(), network, constants),
        certainty="declared",
        note=f"weights found by timm, {constants}",
    )


def _refuse_unfit(timm: Any, name: str) -> None:
    """Say that timm's own list has no such model, or none for us, before anything is fetched."""
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise InputError(f"timm has no trained weights for '{name}'; {_own_weights(name)}")
    _refuse_classes(name, config.num_classes)


def _refuse_classes(reference: str, classes: int) -> None:
    if classes not in _DATASETS:
        raise InputError(
            f"the weights of 'timm:{reference}' have {classes} classes, the datasets here have 10 "
            f"or 100; {_own_weights(reference)}"
        )


def _own_weights(reference: str) -> str:
    network = "NAME" if ":" in reference else reference
    return (
        f"for weights of your own write file:PATH --arch timm:{network}, or for a folder or hub of "
        "timm's timm:local-dir:FOLDER or timm:hf-hub:USER/MODEL"
    )
