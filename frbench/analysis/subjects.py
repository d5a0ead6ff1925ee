"""What a command analyses: models by their targets, and test images of their common data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from frbench.analysis.forward import check_targets
from frbench.analysis.inputs import ImageSet
from frbench.data import Dataset, load_dataset, to_float
from frbench.errors import InputError
from frbench.evaluation import DataRange, resolve_target
from frbench.evaluation.target import Target


@dataclass(frozen=True)
class Subjects:
    """Models in the order they were named, and the data set of all."""

    targets: tuple[Target, ...]
    dataset: Dataset

    def count(self, n: int | None, default: int) -> int:
        """`n`, or where it is None `default`, or all test images where there are fewer.

        Raises InputError when there are not `n`.
        """
        available = len(self.dataset.test)
        if n is None:
            return min(default, available)
        if not 0 < n <= available:
            raise InputError(
                f"n {n} is not possible: {self.dataset.name} has 1 to {available} test images"
            )
        return n

    def images(self, n: int | None, default: int = 0) -> ImageSet:
        """The first test images, as many as `count` says."""
        split, n = self.dataset.test, self.count(n, default)
        data = DataRange(dataset=self.dataset.name, sha256=split.sha256, stop=n)
        return ImageSet(to_float(split.images[:n]), split.labels[:n], data)

    def reaching(self, indices: Sequence[int]) -> ImageSet:
        """The first test images, as many as the largest of `indices` (from 0) needs.

        Raises InputError for an index that no test image has.
        """
        last = len(self.dataset.test) - 1
        for index in indices:
            if not 0 <= index <= last:
                raise InputError(
                    f"image {index} is not there: {self.dataset.name} has test images 0 to {last}"
                )
        return self.images(max(indices) + 1)


def load_subjects(texts: Sequence[str], *, device: torch.device, runs_dir: Path) -> Subjects:
    """Resolve targets; those that would share a row's name are called by what was typed.

    Raises InputError for no target, the same one twice, or targets of several data sets.
    """
    found = [resolve_target(text, device=device, runs_dir=runs_dir) for text in texts]
    names = [target.record.name for target in found]
    targets = tuple(
        target.renamed(text) if names.count(target.record.name) > 1 else target
        for target, text in zip(found, texts, strict=True)
    )
    return Subjects(targets, load_dataset(check_targets(targets)))
