"""One training step: attack, loss, gradients, update. The whole of every recipe's loop body."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from frbench.engine.device import Device
from frbench.engine.mechanisms.awp import AdversarialWeightPerturbation
from frbench.engine.outputs import Outputs
from frbench.engine.recipe import Recipe
from frbench.engine.returned import perturbed_images, untouched
from frbench.engine.settings import Frame
from frbench.models.casting import Precast
from frbench.models.folding import Folded


class TrainingStep:
    """Changes `model` by one batch at a time.

    Args:
        model: in train mode, on the device, float32.
        recipe: what to train on, which loss, which mechanisms.
        frame: optimizer settings and statistics-only forwards.
        device: where, and in which precision forwards run.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, frame: Frame, device: Device) -> None:
        self.model = model
        self.network = model
        """What forwards of the loss run through; shares the model's tensors."""
        self.recipe = recipe
        self.frame = frame
        self.device = device
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=torch.zeros((), device=device.device) if device.cuda else 0.0,
            momentum=frame.momentum,
            weight_decay=frame.weight_decay,
            fused=True,
        )
        # Momentum from zero equals SGD's own first step, and gives checkpoints one shape.
        for parameter in model.parameters():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.twin = _twin(model, recipe, device)
        """A faster copy to attack in the model's place, if there is one."""
        self.victim: nn.Module = self.twin or model
        """What the attack runs through."""

    @property
    def momentum(self) -> dict[str, Tensor]:
        """Momentum buffers by parameter name; writing into them changes the optimizer."""
        state = self.optimizer.state
        return {name: state[p]["momentum_buffer"] for name, p in self.model.named_parameters()}

    def __call__(
        self, images: Tensor, labels: Tensor, noise: Tensor, *, epoch: int, lr: float
    ) -> Tensor:
        """Train on one batch; returns its loss as a tensor on the device, without waiting for it.

        Args:
            images: float32 in [0, 1], shape (batch, channels, height, width).
            labels: int64, shape (batch,).
            noise: the attack's random start, as large as `images`.
            epoch: from 0; decides which mechanisms are active.
            lr: learning rate of this step.
        """
        self.set_lr(lr)
        return self.update(images, labels, noise, epoch)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; on CUDA in place, so that a captured step sees it."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def update(self, images: Tensor, labels: Tensor, noise: Tensor, epoch: int) -> Tensor:
        """The step at the learning rate set before."""
        adversarial = self.attack(images, labels, noise)
        branches = {"clean": images, "adversarial": adversarial}

        def loss() -> Tensor:
            with self.device.autocast():
                return self.recipe.loss(Outputs(self.network, images, adversarial, labels), epoch)

        self.optimizer.zero_grad(set_to_none=True)
        with self._perturbed_weights(loss, epoch):
            value = loss()
            value.backward()  # type: ignore[no-untyped-call]
        self._move_statistics(branches[name] for name in self.frame.statistics_before)
        self.optimizer.step()
        self._move_statistics(branches[name] for name in self.frame.statistics_after)
        return value.detach()

    def attack(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """The recipe's adversarial images for the present weights."""
        if self.twin is not None:
            self.twin.refresh()
        attack = self.recipe.attack
        with self.device.autocast(), untouched(attack, "perturb", images=images, labels=labels):
            adversarial = attack.perturb(self.victim, images, labels, noise)
        return perturbed_images(attack, adversarial, images)

    def _perturbed_weights(self, loss: object, epoch: int) -> AbstractContextManager[None]:
        awp = self.recipe.mechanism("awp")
        if not isinstance(awp, AdversarialWeightPerturbation) or not awp.active(epoch):
            return contextlib.nullcontext()
        return awp.perturbed(self.model, loss, self.frame.weight_decay)  # type: ignore[arg-type]

    @torch.no_grad()
    def _move_statistics(self, batches: Iterable[Tensor]) -> None:
        for images in batches:
            with self.device.autocast():
                self.network(images)


def _twin(model: nn.Module, recipe: Recipe, device: Device) -> Folded | Precast | None:
    """What makes attacks in eval mode faster: BatchNorm folded away, weights cast once for all.

    On CUDA compiling fuses BatchNorm with its neighbours anyway. An attack in train mode moves the
    model's own statistics, so it has no twin.
    """
    if recipe.attack.batchnorm != "eval":
        return None
    if not device.cuda:
        return Folded(model, device.half)  # type: ignore[arg-type]
    return Precast(model, device.half) if device.half else None
