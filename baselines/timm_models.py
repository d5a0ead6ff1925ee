"""`timm:NAME`: a model of timm with the weights that timm publishes for it."""

from __future__ import annotations

import importlib

from frbench.errors import FrbenchError, InputError, first_line
from frbench.models import Normalization, Normalized, weights_digest
from frbench.models.outside import OutsideModel, refuse_options
from frbench.names import unknown

SCHEME = "timm"
_DATASETS = {10: "cifar10", 100: "cifar100"}


def load(reference: str, *, architecture: str | None, normalization: str | None) -> OutsideModel:
    """The pretrained model, from timm's cache or its hub, behind the normalization timm states."""
    refuse_options(f"timm:{reference}", architecture=architecture, normalization=normalization)
    if not reference:
        raise InputError("'timm:' needs the name of a model, as in 'timm:NAME'")
    timm = importlib.import_module("timm")  # seconds, and every target looks at this file
    if not timm.is_model(reference):
        raise unknown("timm model", reference, timm.list_models())
    config = timm.get_pretrained_cfg(reference)
    own_weights = f"use 'file:PATH --arch timm:{reference}' for weights of your own"
    if config is None or not config.has_weights:
        raise InputError(f"timm has no trained weights for '{reference}'; {own_weights}")
    if config.num_classes not in _DATASETS:
        raise InputError(
            f"timm's weights for '{reference}' have {config.num_classes} classes, "
            f"the datasets here have 10 or 100; {own_weights}"
        )
    try:
        net = timm.create_model(reference, pretrained=True)
    except Exception as error:  # hub and file errors of many kinds, all with the same remedy
        raise FrbenchError(
            f"cannot get timm's weights for '{reference}': {first_line(error)}; {own_weights}"
        ) from error
    constants = Normalization(tuple(config.mean), tuple(config.std))
    name = f"timm:{reference}"
    return OutsideModel(
        module=Normalized(net, constants).eval(),
        name=name,
        target=name,
        architecture=name,
        normalization=constants,
        dataset=_DATASETS[config.num_classes],
        classes=config.num_classes,
        digest=weights_digest(net.state_dict(), name, constants),
        certainty="declared",
        note=f"timm's weights, {constants}",
    )
