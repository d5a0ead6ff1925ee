"""Models that we did not train: what an adapter returns, and the checks before it is trusted.

An adapter is a module of `baselines/` with a `SCHEME`, such as `file`, and a `load` that turns the
rest of a target, such as a path, into an `OutsideModel`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from frbench.errors import InputError
from frbench.models.normalization import NORMALIZATIONS, Normalization, Normalized
from frbench.models.weights import weights_digest

Certainty = Literal["verified", "declared", "guessed"]
ExtraData = Literal["none", "synthetic", "extra", "unknown"]
# Below this p-value two normalizations are told apart; a wrong one costs tens of points.
_CLEARLY = 0.01


@dataclass(frozen=True)
class OutsideModel:
    """A model in eval mode that maps [0, 1] images to logits, and what its adapter found out.

    Attributes:
        name: row label.
        target: the canonical way to ask for it.
        digest: of weights, architecture and normalization; it identifies the model in cells.
        certainty: of the normalization. `verified`: a digest vouches for the whole model;
            `declared`: the user, the file or the zoo says so; `guessed`: nobody does.
        note: what was detected, for people.
    """

    module: nn.Module
    name: str
    target: str
    architecture: str
    normalization: Normalization | None
    dataset: str
    classes: int
    digest: str
    certainty: Certainty
    extra_data: ExtraData = "unknown"
    note: str = ""


class Adapter(Protocol):
    """What a module of `baselines/` offers to be an adapter."""

    SCHEME: str

    def load(
        self, reference: str, *, architecture: str | None, normalization: str | None
    ) -> OutsideModel:
        """The model that `reference`, the target without its scheme, names.

        Args:
            reference: such as a path or a model id; empty for a scheme that is one model.
            architecture: given by the user; None lets the adapter find out.
            normalization: name in `NORMALIZATIONS` given by the user; None as above.
        """


@dataclass(frozen=True)
class Confirmation:
    """Clean accuracy on a few labelled images, and the normalization that explains it best."""

    normalization: Normalization | None
    accuracy: float
    n: int
    warning: str = ""

    def __str__(self) -> str:
        text = f"{self.accuracy:.1%} clean on {self.n} training images"
        return f"{text}; warning: {self.warning}" if self.warning else text


def refuse_options(scheme: str, **options: str | None) -> None:
    """Raise InputError for an option that means nothing to an adapter."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"'{scheme}' brings its own {name}: leave out '{value}'")


def confirm(model: OutsideModel, images: torch.Tensor, labels: torch.Tensor) -> Confirmation:
    """Measure clean accuracy, with the other known normalizations too where one may be wrong.

    A guessed normalization gives way to one that is clearly better (exact sign test on the images
    where the two differ, p < 0.01). A declared one stays, with a warning.

    Args:
        images: float in [0, 1], shape (n, channels, height, width), from the training set: the test
            set decides nothing here.
        labels: int64, shape (n,).
    """
    own = _correct(model.module, images, labels)
    correct = {model.normalization: own}
    if isinstance(model.module, Normalized):
        for other in NORMALIZATIONS.values():
            # Told apart as they read, because a file may have rounded its constants to float32.
            if str(other) != str(model.normalization) and _fits(other, images):
                module = Normalized(model.module.net, other).to(images.device).eval()
                correct[other] = _correct(module, images, labels)
    best = max(correct, key=lambda normalization: int(correct[normalization].sum()))
    if not _clearly_better(correct[best], own):
        best = model.normalization
    share, warning = _share(correct[best]), ""
    if model.certainty == "declared" and best != model.normalization:
        warning = f"normalization {best or 'none'} would give {share:.1%}; was the right one given?"
        best, share = model.normalization, _share(own)
    elif share < 2 / model.classes:
        warning = "this is near chance: wrong architecture, normalization, dataset or class order?"
    return Confirmation(best, share, len(labels), warning)


def renormalized(model: OutsideModel, normalization: Normalization | None) -> OutsideModel:
    """The same network behind another normalization, with the digest that goes with it."""
    if not isinstance(model.module, Normalized):
        raise InputError(f"{model.name} has its normalization in its own code")
    module = Normalized(model.module.net, normalization).eval()
    digest = weights_digest(module.state_dict(), model.architecture, normalization)
    return dataclasses.replace(model, module=module, normalization=normalization, digest=digest)


def _fits(normalization: Normalization | None, images: torch.Tensor) -> bool:
    return normalization is None or len(normalization.mean) == images.shape[1]


def _correct(module: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which images are classified correctly: bool, shape (n,)."""
    with torch.no_grad():
        chunks = zip(torch.split(images, 64), torch.split(labels, 64), strict=True)
        return torch.cat([module(x).argmax(1) == y for x, y in chunks])


def _clearly_better(other: torch.Tensor, own: torch.Tensor) -> bool:
    from scipy.stats import binomtest  # takes most of a second; our own models need none of it

    wins, losses = int((other & ~own).sum()), int((own & ~other).sum())
    return wins > losses and float(binomtest(wins, wins + losses).pvalue) < _CLEARLY


def _share(correct: torch.Tensor) -> float:
    return float(correct.float().mean())
