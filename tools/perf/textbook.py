"""The loops to compare with: PGD adversarial training as it is usually written.

`textbook` lets `loss.backward()` run inside the attack, so every attack step also computes the
parameters' gradients, which pile up until they are zeroed; `careful` asks for the input's gradient
alone. Both: float32 as torch ships it, default memory layout, torchvision transforms on PIL images
in a DataLoader, unfused SGD, the loss read back to the host at every step for the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from frbench.data import Split
from frbench.engine import InnerAttack
from frbench.engine.settings import Frame

WORKERS = 2
Gradient = Callable[[Tensor, Tensor], Tensor]


def textbook(loss: Tensor, images: Tensor) -> Tensor:
    """Gradient to `images`; the parameters get theirs as well."""
    loss.backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    return images.grad


def careful(loss: Tensor, images: Tensor) -> Tensor:
    """Gradient to `images` alone."""
    return torch.autograd.grad(loss, images)[0]


class PlainStep:
    """One training step: PGD in eval mode, then cross-entropy on what it found.

    Args:
        model: in train mode, default layout.
        attack: for eps, step size and steps.
        frame: for the optimizer's settings.
        gradient: `textbook` or `careful`.
    """

    def __init__(
        self, model: nn.Module, attack: InnerAttack, frame: Frame, gradient: Gradient
    ) -> None:
        self.model, self.attack, self.gradient = model, attack, gradient
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=frame.lr,
            momentum=frame.momentum,
            weight_decay=frame.weight_decay,
        )

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor) -> float:
        """Train on one batch and return its loss; shapes as in `frbench.engine.step`."""
        adversarial = self.perturb(images, labels, noise)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(adversarial), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def perturb(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Adversarial images, found from the start `images + noise`."""
        eps, size = self.attack.eps, self.attack.step_size
        self.model.eval()
        adversarial = (images + noise).clamp(0, 1)
        for _ in range(self.attack.steps):
            adversarial.requires_grad_()
            loss = F.cross_entropy(self.model(adversarial), labels)
            gradient = self.gradient(loss, adversarial)
            adversarial = adversarial.detach() + size * gradient.sign()
            adversarial = torch.min(torch.max(adversarial, images - eps), images + eps).clamp(0, 1)
        self.model.train()
        return adversarial


class PilImages(TorchDataset[tuple[Any, int]]):
    """A split served as torchvision serves its own: a PIL image, transformed, and an int."""

    def __init__(self, split: Split) -> None:
        size = split.images.shape[-1]
        self.pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def loader(split: Split, batch: int, *, pin: bool) -> DataLoader[tuple[Any, int]]:
    """Shuffled, augmented batches of RGB images, prepared by worker processes."""
    return DataLoader(
        PilImages(split),
        batch_size=batch,
        shuffle=True,
        num_workers=WORKERS,
        pin_memory=pin,
    )


class PlainLoop:
    """Steps with the DataLoader's batches, epoch after epoch."""

    def __init__(self, step: PlainStep, split: Split, batch: int, device: torch.device) -> None:
        self.step, self.device = step, device
        self._loader = loader(split, batch, pin=device.type == "cuda")
        self._stream = self._endless()

    def run(self, steps: int) -> None:
        """Train so many steps."""
        eps = self.step.attack.eps
        torch.backends.cudnn.benchmark = False  # torch's own settings, whoever ran before
        torch.backends.cudnn.allow_tf32 = True
        for _ in range(steps):
            images, labels = next(self._stream)
            images, labels = images.to(self.device), labels.to(self.device)
            self.step(images, labels, torch.empty_like(images).uniform_(-eps, eps))

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._loader
