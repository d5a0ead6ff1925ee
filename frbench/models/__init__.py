"""Networks by name, with normalization inside, and their weights on disk."""

from frbench.models.architectures import architectures, build_model
from frbench.models.normalization import NORMALIZATIONS, Normalization, Normalized
from frbench.models.weights import (
    WeightsMeta,
    blank_model,
    load_weights,
    save_weights,
    weights_digest,
)

__all__ = [
    "NORMALIZATIONS",
    "Normalization",
    "Normalized",
    "WeightsMeta",
    "architectures",
    "blank_model",
    "build_model",
    "load_weights",
    "save_weights",
    "weights_digest",
]
