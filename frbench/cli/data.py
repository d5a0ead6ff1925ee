"""`frbench data`: fetch a dataset into the cache, or check the copy that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frbench.cli.outcome import plain_console

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` does not need it
    from frbench.data import Dataset

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="cifar10, cifar100, …")]
Folder = Annotated[
    Path | None,
    typer.Option(help="A folder that holds the files; FRBENCH_DATA names one too."),
]


def fetch(dataset: DatasetName, folder: Folder = None) -> None:
    """Get a dataset, verify it and keep it in the cache; a good copy there is kept as it is.

    Examples:

        frbench data fetch cifar10

        frbench data fetch cifar10 --folder ~/cifar-10-batches-py
    """
    from frbench.data import fetch_dataset

    _show(fetch_dataset(dataset, folder=folder))


def verify(dataset: DatasetName) -> None:
    """Check every byte of the cached copy against its SHA-256; needs no network."""
    from frbench.data import verify_dataset

    _show(verify_dataset(dataset))


def _show(dataset: Dataset) -> None:
    from frbench.data import cache_path

    path = cache_path(dataset.name)
    lines = [f"{dataset.name}: {len(dataset.classes)} classes, from {dataset.source}"]
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        size = "x".join(str(side) for side in split.images.shape[1:])
        lines.append(f"  {name:5}  {len(split):,} images {size}  SHA-256 {split.sha256}")
    lines.append(f"  file   {path} ({path.stat().st_size / 1e6:.1f} MB)")
    lines.append("verified: every byte matches its SHA-256")
    plain_console(soft_wrap=True).print("\n".join(lines))
