"""The other datasets: CIFAR-100 and SVHN from torchvision's sources, digits from scikit-learn.

torchvision and scikit-learn take seconds to import and a warm cache needs neither: they are
imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from frbench.data.sources import Arrays, Source, UnavailableError, torchvision_download

DIGITS = tuple(str(digit) for digit in range(10))


def _cifar100(folder: Path, *, download: bool) -> Arrays:
    from torchvision.datasets import CIFAR100

    if not download:  # torchvision unpickles these files: only the official ones get that far
        files = [*CIFAR100.train_list, *CIFAR100.test_list]
        files.append([CIFAR100.meta["filename"], CIFAR100.meta["md5"]])
        _require_official(folder / CIFAR100.base_folder, files)
    train = CIFAR100(str(folder), train=True, download=download)
    test = CIFAR100(str(folder), train=False)
    return Arrays(
        train.data.transpose(0, 3, 1, 2),
        np.asarray(train.targets),
        test.data.transpose(0, 3, 1, 2),
        np.asarray(test.targets),
        tuple(train.classes),
    )


def _svhn(folder: Path, *, download: bool) -> Arrays:
    from torchvision.datasets import SVHN

    if not download:
        _require_official(folder, (SVHN.split_list[split][1:] for split in ("train", "test")))
    train = SVHN(str(folder), split="train", download=download)
    test = SVHN(str(folder), split="test", download=download)
    return Arrays(train.data, train.labels, test.data, test.labels, DIGITS)


def _require_official(folder: Path, files: Iterable[list[str]]) -> None:
    """Check (name, MD5) pairs with the sums that torchvision ships; names the wrong file."""
    from torchvision.datasets.utils import check_integrity

    for name, md5 in files:
        path = folder / name
        if not path.is_file():
            raise UnavailableError(f"{path} is missing")
        if not check_integrity(str(path), md5):
            raise UnavailableError(f"{path} is not the official file (wrong MD5); it was not used")


def _download(read: Callable[..., Arrays], folder: Path) -> Arrays:
    with torchvision_download():
        return read(folder, download=True)


def _sources(read: Callable[..., Arrays]) -> tuple[Source, ...]:
    """The official files in the user's folder, then torchvision's own download."""
    return (
        Source("folder", partial(read, download=False), from_user=True),
        Source("torchvision", partial(_download, read)),
    )


CIFAR100_SOURCES = _sources(_cifar100)
SVHN_SOURCES = _sources(_svhn)


def _digits(folder: Path) -> Arrays:
    """scikit-learn's 1,797 digits: values 0 to 16 scaled to 0 to 255, 1,437 train and 360 test.

    The split is stratified by digit and always the same (seed 42). `folder` is not needed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    values, labels = load_digits(return_X_y=True)
    images = np.round(values * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=42
    )
    return Arrays(images[train], labels[train], images[test], labels[test], DIGITS)


DIGITS_SOURCES = (Source("scikit-learn", _digits),)
