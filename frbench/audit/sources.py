"""Which other models an audit transfers from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from frbench.engine.run import runs_in
from frbench.errors import FrbenchError, InputError
from frbench.evaluation import Target, resolve_target, run_target

# Undefended models that are always at hand: an image that one of these fails on costs nothing.
_AT_HAND = {"cifar10": ("natural",)}


def named_sources(
    texts: Iterable[str], target: Target, *, device: torch.device, runs_dir: Path
) -> list[Target]:
    """The models that a user named.

    Raises:
        InputError: an unknown one, the audited model itself, or one of another data set.
    """
    found = [resolve_target(text, device=device, runs_dir=runs_dir) for text in texts]
    for source in found:
        if source.record.digest == target.record.digest:
            raise InputError(f"'{source.record.target}' is the audited model itself: name others")
        if source.record.dataset != target.record.dataset:
            raise InputError(
                f"'{source.record.target}' knows {source.record.dataset}, the audited model "
                f"{target.record.dataset}: name models of the same data set"
            )
    return _distinct(found)


def default_sources(
    target: Target, *, device: torch.device, runs_dir: Path, console: Console | None = None
) -> list[Target]:
    """The other runs of the same data set in `runs_dir`, and the models that are always at hand.

    A run that has no weights yet is left out; one that cannot be read is too, with a line on the
    console.
    """
    found = []
    for run in runs_in(runs_dir):
        try:
            if run.views() and run.info()["settings"]["frame"]["dataset"] == target.record.dataset:
                found.append(run_target(run, device=device))
        except FrbenchError as error:
            if console is not None:
                console.print(f"left out as a source: {error}", markup=False, soft_wrap=True)
    texts = _AT_HAND.get(target.record.dataset, ())
    found += [resolve_target(text, device=device, runs_dir=runs_dir) for text in texts]
    return [s for s in _distinct(found) if s.record.digest != target.record.digest]


def _distinct(targets: Sequence[Target]) -> list[Target]:
    """Each model once, and those that share a name called by their target."""
    unique = list({target.record.digest: target for target in targets}.values())
    names = [target.record.name for target in unique]
    return [t.renamed(t.record.target) if names.count(t.record.name) > 1 else t for t in unique]
