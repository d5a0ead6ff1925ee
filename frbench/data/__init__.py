"""Data: verified datasets in memory, parted and served in augmented batches on the device."""

from frbench.data.batches import Batches, augment, to_float
from frbench.data.cache import cache_path, cache_root
from frbench.data.datasets import (
    DATASETS,
    DatasetSpec,
    fetch_dataset,
    load_dataset,
    verify_dataset,
)
from frbench.data.seeds import derive_seed
from frbench.data.types import Dataset, Split, holdout

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "DatasetSpec",
    "Split",
    "augment",
    "cache_path",
    "cache_root",
    "derive_seed",
    "fetch_dataset",
    "holdout",
    "load_dataset",
    "to_float",
    "verify_dataset",
]
