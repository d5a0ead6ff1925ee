"""Splits: their digest, and the held-out part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frbench.data import Split, holdout
from frbench.data.types import make_split
from frbench.errors import InputError


def numbered(n: int) -> Split:
    return make_split(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n))


def test_holdout_is_the_first_part_of_numpys_permutation() -> None:
    train, validation = holdout(numbered(50000))
    order = np.random.RandomState(42).permutation(50000)
    assert len(train) == 45000 and len(validation) == 5000
    assert train.labels.tolist() == order[:45000].tolist()
    assert validation.labels.tolist() == order[45000:].tolist()
    assert order[:3].tolist() == [33553, 9427, 199]  # the same on every machine


def test_holdout_parts_are_disjoint_and_complete() -> None:
    train, validation = holdout(numbered(1437), fraction=0.25, seed=1)
    assert len(validation) == 359
    assert sorted(train.labels.tolist() + validation.labels.tolist()) == list(range(1437))
    assert len({train.sha256, validation.sha256, numbered(1437).sha256}) == 3


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, 0.001])
def test_holdout_refuses_an_empty_part(fraction: float) -> None:
    with pytest.raises(InputError, match="cannot hold out"):
        holdout(numbered(100), fraction=fraction)


def test_digest_sees_pixels_labels_and_shape() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    changed = images.clone()
    changed[1, 2, 1, 1] += 1
    labels = torch.tensor([0, 1])
    splits = [
        make_split(images, labels),
        make_split(changed, labels),
        make_split(images, labels.flip(0)),
        make_split(images.view(2, 1, 4, 3), labels),
    ]
    assert len({s.sha256 for s in splits}) == 4
    last = make_split(images.to(memory_format=torch.channels_last), labels)
    assert last.sha256 == splits[0].sha256 and last.images.is_contiguous()
