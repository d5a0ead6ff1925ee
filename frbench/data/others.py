"""The other datasets: CIFAR-100 and SVHN from torchvision's sources, digits from scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100, SVHN

from frbench.data.sources import (
    Arrays,
    Source,
    require_official,
    torchvision_download,
)

DIGITS = tuple(str(digit) for digit in range(10))


def _cifar100(folder: Path, download: bool) -> Arrays:
    train = CIFAR100(str(folder), train=True, download=download)
    test = CIFAR100(str(folder), train=False)
    return Arrays(
        train.data.transpose(0, 3, 1, 2),
        np.asarray(train.targets),
        test.data.transpose(0, 3, 1, 2),
        np.asarray(test.targets),
        tuple(train.classes),
    )


def _svhn(folder: Path, download: bool) -> Arrays:
    train = SVHN(str(folder), split="train", download=download)
    test = SVHN(str(folder), split="test", download=download)
    return Arrays(train.data, train.labels, test.data, test.labels, DIGITS)


_CIFAR100_FILES = [*CIFAR100.train_list, *CIFAR100.test_list]
_CIFAR100_FILES.append([CIFAR100.meta["filename"], CIFAR100.meta["md5"]])
OFFICIAL = {
    "cifar100": [(f"{CIFAR100.base_folder}/{name}", md5) for name, md5 in _CIFAR100_FILES],
    "svhn": [(name, md5) for _, name, md5 in (SVHN.split_list[s] for s in ("train", "test"))],
}


def _torchvision_sources(
    read: Callable[[Path, bool], Arrays], files: list[tuple[str, str]]
) -> tuple[Source, ...]:
    """torchvision's files in the user's folder, then torchvision's own download.

    torchvision unpickles CIFAR-100; only files with the official sum get that far.
    """

    def from_folder(folder: Path) -> Arrays:
        require_official(folder, files)
        return read(folder, False)

    def from_download(folder: Path) -> Arrays:
        with torchvision_download():
            return read(folder, True)

    return (
        Source("folder", from_folder, from_user=True),
        Source("torchvision", from_download),
    )


CIFAR100_SOURCES = _torchvision_sources(_cifar100, OFFICIAL["cifar100"])
SVHN_SOURCES = _torchvision_sources(_svhn, OFFICIAL["svhn"])


def _digits(folder: Path) -> Arrays:
    """scikit-learn's 1,797 digits: values 0 to 16 scaled to 0 to 255, 1,437 train and 360 test.

    The split is stratified by digit and always the same (seed 42).
    """
    # Imported here: scikit-learn takes seconds to import and only this set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    values, labels = load_digits(return_X_y=True)
    images = np.round(values * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=42
    )
    return Arrays(images[train], labels[train], images[test], labels[test], DIGITS)


DIGITS_SOURCES = (Source("scikit-learn", _digits),)
