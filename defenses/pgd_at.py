"""PGD-AT: adversarial training on PGD examples alone.

    min_w  mean_i  max_{|x'_i - x_i| <= eps}  CE(f_w(x'_i), y_i)

Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", equation 2.1;
early stopping by a held-out split after Rice, Wong and Kolter 2020. The common protocol attacks in
eval mode, as the paper's authors do; the original settings are those of Rice et al., who attack in
train mode and let two more forwards move the BatchNorm statistics.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from frbench.engine import Branch, InnerAttack, Objective, Outputs, Recipe


class AdversarialCrossEntropy(Objective):
    """Cross-entropy of the adversarial images at the true labels, averaged over the batch."""

    branches: ClassVar[tuple[Branch, ...]] = ("adversarial",)

    def loss(self, outputs: Outputs) -> Tensor:
        return F.cross_entropy(outputs.adversarial_logits, outputs.labels)


recipe = Recipe(
    base="pgd_at",
    objective=AdversarialCrossEntropy(),
    attack=InnerAttack(maximize="ce", start="uniform"),
    original={
        "attack.batchnorm": "train",
        "statistics_before": ("adversarial",),
        "statistics_after": ("clean",),
        "padding": "reflect",
        "normalization": "cifar10",
        "schedule": "milestones_by_step",
        "epochs": 200,
        "milestones": (100, 150),
    },
)
