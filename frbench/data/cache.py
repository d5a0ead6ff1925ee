"""The verified copy of a dataset: one safetensors file that opens in under a second."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from frbench import storage
from frbench.data.types import Dataset, make_split
from frbench.errors import FrbenchError, first_line

FORMAT = "1"


class DamagedError(Exception):
    """A cached file is not what was once written; the message says why in a few words."""


def cache_root() -> Path:
    """Where frbench keeps what it can fetch again: FRBENCH_CACHE, or ~/.cache/frbench."""
    return Path(os.environ.get("FRBENCH_CACHE") or "~/.cache/frbench").expanduser()


def cache_path(name: str) -> Path:
    """The file of one dataset."""
    return cache_root() / "datasets" / f"{name}.safetensors"


def write(dataset: Dataset) -> Path:
    """Store a verified dataset atomically; its digests go into the file's metadata."""
    path = cache_path(dataset.name)
    tensors = {
        "train_images": dataset.train.images,
        "train_labels": dataset.train.labels,
        "test_images": dataset.test.images,
        "test_labels": dataset.test.labels,
    }
    metadata = {
        "format": FORMAT,
        "name": dataset.name,
        "source": dataset.source,
        "classes": json.dumps(dataset.classes),
        "train_sha256": dataset.train.sha256,
        "test_sha256": dataset.test.sha256,
    }
    storage.write_bytes(path, save(tensors, metadata))
    return path


def read(name: str) -> Dataset | None:
    """Open a dataset, or None where there is none; every byte is checked against its digest.

    Raises DamagedError for a file that is not what `write` wrote, FrbenchError for one that cannot
    be opened.
    """
    path = cache_path(name)
    try:
        if not path.exists():
            return None
        path.open("rb").close()  # says in the system's words why it cannot be opened
        return _read(path, name)
    except OSError as error:
        raise FrbenchError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{type(error).__name__}: {first_line(error)}") from error


def _read(path: Path, name: str) -> Dataset:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if (metadata["format"], metadata["name"]) != (FORMAT, name):
            raise DamagedError(f"it holds {metadata['name']} in format {metadata['format']}")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    train = make_split(tensors["train_images"], tensors["train_labels"])
    test = make_split(tensors["test_images"], tensors["test_labels"])
    for split, content in (("train", train), ("test", test)):
        if content.sha256 != metadata[f"{split}_sha256"]:
            raise DamagedError(f"the {split} split has a wrong SHA-256")
    classes = tuple(json.loads(metadata["classes"]))
    return Dataset(name, train, test, classes, metadata["source"])


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `*.rejected`, where nothing reads it, and return that name."""
    aside = path.with_name(path.name + ".rejected")
    try:
        os.replace(path, aside)
    except OSError as error:
        raise FrbenchError(f"cannot move {path} aside: {error.strerror}") from error
    return aside
