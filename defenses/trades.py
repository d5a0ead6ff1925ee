"""TRADES: clean cross-entropy plus the divergence of adversarial from clean predictions.

    CE(f(x), y) + beta * mean_i KL(p(x_i) || p(x'_i)),      x' maximizes the KL term

Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", equation 5.
Gradient flows through both branches of the KL. The attack starts from x + 0.001 * N(0, 1), not
clipped, because the KL gradient vanishes at x itself. The authors' code forwards the clean batch
twice in train mode; the second pass only moves BatchNorm statistics, so it belongs to the original
protocol alone.
"""

from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from frbench.engine import Branch, InnerAttack, Objective, Outputs, Recipe


class Trades(Objective):
    """Clean cross-entropy and a Kullback-Leibler term, both averaged over the batch."""

    branches: ClassVar[tuple[Branch, ...]] = ("clean", "adversarial")

    beta: Annotated[float, Field(ge=0, description="weight of the KL term")] = 6.0

    def loss(self, outputs: Outputs) -> Tensor:
        clean, adversarial = outputs.clean_logits, outputs.adversarial_logits
        divergence = F.kl_div(
            adversarial.log_softmax(dim=1), clean.softmax(dim=1), reduction="batchmean"
        )
        return F.cross_entropy(clean, outputs.labels) + self.beta * divergence


recipe = Recipe(
    base="trades",
    objective=Trades(),
    attack=InnerAttack(maximize="kl", start="gaussian"),
    original={
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "weight_decay": 2e-4,
        "epochs": 76,
        "milestones": (74,),
        "statistics_before": ("clean",),
    },
    # TRADES-AWP of Wu, Xia and Wang 2020; their epochs count from 1. Their second clean forward,
    # for BatchNorm statistics only, runs at the perturbed weights; ours at the restored ones.
    original_with={
        "awp": {
            "attack.eps": 8 / 255,
            "attack.step_size": 2 / 255,
            "weight_decay": 5e-4,
            "epochs": 200,
            "milestones": (99, 149),
            "awp.gamma": 0.005,
            "awp.start_epoch": 9,
        },
    },
)
