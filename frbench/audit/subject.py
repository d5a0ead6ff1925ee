"""What every check looks at: one model, its images, and the attacks that several checks need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from frbench.attacks import seeded
from frbench.attacks.margin import margin
from frbench.audit.ascent import Ascent

# Random starts of the white-box attack that weaker attacks must not beat.
RESTARTS = 5
Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """A model under audit, and those of the sampled images that it classifies correctly.

    Attributes:
        model: in eval mode, parameters frozen, on the images' device.
        sample: all sampled images, float32 (n, c, h, w) in [0, 1].
        sample_labels: int64 (n,).
        images: the correctly classified ones; attacks see only these.
        labels: int64.
        eps: L-infinity radius of the number that is audited.
        seed: of everything random.
        batch: most images at once.
        sources: other models of the same images, to transfer from, by name.
    """

    model: nn.Module
    sample: Tensor
    sample_labels: Tensor
    images: Tensor
    labels: Tensor
    eps: float
    seed: int = 0
    batch: int = 128
    sources: Mapping[str, nn.Module] = field(default_factory=dict)
    _known: dict[str, list[Tensor]] = field(default_factory=dict)

    def share(self, verdicts: Tensor) -> float:
        """True entries as a share of all sampled images: an accuracy, if they mean correct."""
        return int(verdicts.sum()) / len(self.sample)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of one pass over `images`, without gradient."""
        with torch.no_grad():
            return torch.cat([self.model(part) for part in self._parts(images)])

    def right(self, images: Tensor) -> Tensor:
        """Which of the subject's images are still classified correctly as `images`: bool (n,)."""
        with seeded(self.seed + 1):
            return self.logits(images).argmax(dim=1) == self.labels

    def survivors(
        self, perturb: Perturb, *, seed: int | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Which images are still classified correctly once perturbed, batch by batch: bool (n,).

        Args:
            perturb: gives adversarial images for (model, images, labels).
            seed: of its random numbers; by default the subject's.
            model: attacked instead of the subject's.
        """
        attacked = self.model if model is None else model
        with seeded(self.seed if seed is None else seed):
            pairs = zip(self._parts(self.images), self._parts(self.labels), strict=True)
            parts = [perturb(attacked, images, labels).detach() for images, labels in pairs]
        return self.right(torch.cat(parts))

    def restarts(self) -> list[Tensor]:
        """Survivors of PGD-20 on cross-entropy after 1, 2, ... random starts; computed once."""
        if "restarts" not in self._known:
            found = []
            alive = torch.ones_like(self.labels, dtype=torch.bool)
            for restart in range(RESTARTS):
                alive = alive.clone()
                if alive.any():
                    rest = self._only(self.images[alive], self.labels[alive])
                    seed = self.seed + 100 * restart
                    alive[alive.clone()] = rest.survivors(Ascent(self.eps).perturb, seed=seed)
                found.append(alive)
            self._known["restarts"] = found
        return self._known["restarts"]

    def cross_entropy(self) -> Tensor:
        """Survivors of PGD-20 on cross-entropy with one random start."""
        return self.restarts()[0]

    def margin(self) -> Tensor:
        """Survivors of PGD-20 on the margin with the same random start; computed once."""
        if "margin" not in self._known:
            self._known["margin"] = [self.survivors(Ascent(self.eps, loss=margin).perturb)]
        return self._known["margin"][0]

    def white_box(self) -> Tensor:
        """Survivors of both: cross-entropy with all random starts, and the margin.

        With both losses, what a black-box attack wins is due to gradients and not to a loss.
        """
        return self.restarts()[-1] & self.margin()

    def chunks(self) -> list[Subject]:
        """The subject in parts of at most `batch` images; shares still refer to all."""
        pairs = zip(self._parts(self.images), self._parts(self.labels), strict=True)
        return [self._only(images, labels) for images, labels in pairs]

    def _only(self, images: Tensor, labels: Tensor) -> Subject:
        return replace(self, images=images, labels=labels, _known={})

    def _parts(self, values: Tensor) -> tuple[Tensor, ...]:
        """Even parts of at most `batch` images: BatchNorm in train mode takes no single image."""
        return values.chunk(-(-len(values) // self.batch))
