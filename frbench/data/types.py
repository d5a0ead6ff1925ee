"""What a dataset is, once it lies in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch

from frbench.errors import InputError


@dataclass(frozen=True)
class Split:
    """Images with labels, on the CPU, in their official order.

    `images` is uint8, contiguous, (n, channels, height, width); `labels` is int64, (n,). `sha256`
    is the digest of both, see `digest`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> Split:
        """The first `n` images; `sha256` stays that of the whole, which they were taken from."""
        return Split(self.images[:n], self.labels[:n], self.sha256)


@dataclass(frozen=True)
class Dataset:
    """Training and test images of one benchmark; `source` tells where this copy came from."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str = field(default="", compare=False)


def digest(images: torch.Tensor, labels: torch.Tensor) -> str:
    """SHA-256 of the shape, the images' bytes (NCHW) and the labels' (int64), one after another."""
    state = hashlib.sha256(repr(tuple(images.shape)).encode())
    state.update(images.numpy().data)
    state.update(labels.numpy().data)
    return state.hexdigest()


def make_split(images: torch.Tensor, labels: torch.Tensor) -> Split:
    """A split with its digest; `images` uint8 (n, c, h, w), `labels` any integers (n,)."""
    images, labels = images.contiguous(), labels.to(torch.int64).contiguous()
    return Split(images, labels, digest(images, labels))


def held_out(n: int, fraction: float) -> int:
    """How many of `n` training images `holdout` keeps for validation; InputError if none or all."""
    held = round(n * fraction)
    if not 0 < held < n:
        raise InputError(
            f"cannot hold out {fraction:g} of {n} images: each part needs at least one"
        )
    return held


def holdout(split: Split, fraction: float = 0.1, seed: int = 42) -> tuple[Split, Split]:
    """Part a training set into (training, validation), 9:1 by default.

    The order is numpy's `RandomState(seed).permutation(n)`: the first n - round(n * fraction)
    images of it train (45,000 of CIFAR-10), the last round(n * fraction) validate (5,000). The two
    are disjoint and together complete.
    """
    n = len(split)
    held = held_out(n, fraction)
    order = torch.from_numpy(np.random.RandomState(seed).permutation(n))
    train, validation = order[: n - held], order[n - held :]
    return (
        make_split(split.images[train], split.labels[train]),
        make_split(split.images[validation], split.labels[validation]),
    )
