"""`file:PATH`: weights that another project, or frbench itself, has saved."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from frbench.errors import InputError
from frbench.evaluation.outside import TrainedModel, Training
from frbench.models import NORMALIZATIONS, Normalization, Normalized, load_weights, weights_digest
from frbench.models.foreign import ForeignWeights, detect_architecture, fit, read_foreign
from frbench.models.outside import Certainty, OutsideModel, refuse_options
from frbench.models.weights import is_ours
from frbench.names import lookup

SCHEME = "file"
_DATASETS = {(10, 3): "cifar10", (100, 3): "cifar100", (10, 1): "digits"}


def load(reference: str, *, architecture: str | None, normalization: str | None) -> OutsideModel:
    """The model of a `.pt`, `.pth` or `.safetensors` file.

    Without an architecture it is found from the tensors' names and shapes; without a normalization
    the file's own is taken, and if it has none, the one that the clean accuracy speaks for.
    """
    path = Path(reference).expanduser()
    if not reference:
        raise InputError("'file:' needs a path, as in 'file:model.pt'")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a weights file")
    if path.is_file() and is_ours(path):
        refuse_options(f"file:{path}", architecture=architecture, normalization=normalization)
        return _ours(path)
    weights = read_foreign(path)
    chosen = architecture or detect_architecture(weights)
    net = fit(weights, chosen).net
    constants, certainty = _normalization(weights, normalization)
    return OutsideModel(
        module=Normalized(net, constants).eval(),
        name=f"file:{path.stem}",
        target=f"file:{path}",
        architecture=chosen,
        normalization=constants,
        dataset=_dataset(weights),
        classes=weights.classes,
        digest=weights_digest(net.state_dict(), chosen, constants),
        certainty=certainty,
        note="; ".join([f"{'given' if architecture else 'detected'} {chosen}", *weights.seen]),
    )


def _ours(path: Path) -> TrainedModel:
    module, meta = load_weights(path)
    try:
        training = Training(**meta.extra)
    except ValidationError as error:
        what = f"{error.errors()[0]['loc'][0]}={error.errors()[0]['input']}"
        raise InputError(
            f"damaged metadata of {path}: {what}; copy it from its run again"
        ) from None
    return TrainedModel(
        module=module,
        name=f"file:{path.stem}",
        target=f"file:{path}",
        architecture=meta.architecture,
        normalization=meta.normalization,
        dataset=meta.dataset,
        classes=meta.classes,
        digest=meta.digest,
        certainty="verified",
        extra_data="none" if training.defense else "unknown",
        note="saved by frbench",
        training=training,
    )


def _normalization(
    weights: ForeignWeights, given: str | None
) -> tuple[Normalization | None, Certainty]:
    own = weights.normalization
    if given is None:
        return own, "guessed" if own is None else "declared"
    chosen = lookup("normalization", given, NORMALIZATIONS)
    if own is not None and chosen != own:
        raise InputError(f"{weights.path} has its own normalization ({own}), not '{given}'")
    return chosen, "declared"


def _dataset(weights: ForeignWeights) -> str:
    shape = (weights.classes, weights.channels)
    if shape not in _DATASETS:
        raise InputError(
            f"{weights.path} has {shape[0]} classes and {shape[1]} channels; "
            "the datasets have 10 or 100 classes"
        )
    return _DATASETS[shape]
