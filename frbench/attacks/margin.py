"""The C&W column: projected gradient ascent on the margin of the best wrong class.

The literature that this harness compares with calls it C&W: the loss of Carlini and Wagner 2017
inside L-infinity PGD, without a confidence bound. torchattacks' CW is the original L2 attack.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack


class MarginPGD(Attack):  # type: ignore[misc]  # torchattacks has no types
    """L-infinity PGD on max_{j != y} z_j - z_y from a uniform start; returns the last iterate.

    Args:
        model: maps images in [0, 1] to logits.
        eps: radius of the ball, in [0, 1] pixel units.
        alpha: length of a step, same units.
        steps: gradient steps.
    """

    def __init__(
        self, model: nn.Module, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 30
    ) -> None:
        super().__init__("MarginPGD", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images for `images` (n, c, h, w) in [0, 1] of true classes `labels` (n,)."""
        images = images.detach().to(self.device)
        labels = labels.detach().to(self.device)
        start = torch.empty_like(images).uniform_(-self.eps, self.eps)
        adversarial = (images + start).clamp(0, 1)
        for _ in range(self.steps):
            adversarial.requires_grad_()
            with torch.enable_grad():
                # Images are independent, so the sum gives every image its own gradient.
                loss = margin(self.get_logits(adversarial), labels).sum()
            (gradient,) = torch.autograd.grad(loss, [adversarial])
            moved = adversarial.detach() + self.alpha * gradient.sign()
            offset = (moved - images).clamp(-self.eps, self.eps)
            adversarial = (images + offset).clamp(0, 1)
        return adversarial.detach()


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y for each row of `logits` (n, classes); above 0 means misclassified."""
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=1) - true
