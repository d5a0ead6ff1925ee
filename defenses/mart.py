"""MART: adversarial training that weighs the images which are hard to classify when clean.

    BCE(p(x'), y) + beta * mean_i (1 - p_y(x_i)) * KL(p(x_i) || p(x'_i))
    BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x'))

Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples",
equation 11. The small constants are those of the authors' code: without the 1.0001 the margin term
is unbounded. No clean cross-entropy and no detach: the weight 1 - p_y and the KL target carry
gradient. beta is 6 in the function's default and for WideResNet, 5 for ResNet-18.
"""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from frbench.engine import Branch, InnerAttack, Objective, Outputs, Recipe

TINY = 1e-12


class Mart(Objective):
    """Boosted cross-entropy and a KL term weighted by clean uncertainty."""

    branches: ClassVar[tuple[Branch, ...]] = ("clean", "adversarial")

    beta: Annotated[float, Field(ge=0, description="weight of the weighted KL term")] = 6.0

    def loss(self, outputs: Outputs) -> Tensor:
        clean = outputs.clean_logits.softmax(dim=1)
        adversarial = outputs.adversarial_logits.softmax(dim=1)
        label = outputs.labels[:, None]
        wrong = adversarial.scatter(1, label, -1.0).amax(dim=1)
        margin = -torch.log(1.0001 - wrong + TINY).mean()
        boosted = F.cross_entropy(outputs.adversarial_logits, outputs.labels) + margin
        divergence = F.kl_div(torch.log(adversarial + TINY), clean, reduction="none").sum(dim=1)
        uncertainty = 1.0000001 - clean.gather(1, label)[:, 0]
        return boosted + self.beta * (uncertainty * divergence).mean()


recipe = Recipe(
    base="mart",
    objective=Mart(),
    attack=InnerAttack(maximize="ce", start="gaussian"),
    original={
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "weight_decay": 7e-4,
        "epochs": 90,
        "milestones": (74, 89),
    },
    original_for={
        "resnet18": {
            "beta": 5.0,
            "lr": 0.01,
            "weight_decay": 3.5e-3,
            "epochs": 120,
            "milestones": (74, 89, 99),
        }
    },
)
