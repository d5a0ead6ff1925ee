"""SCORE: TRADES with squared errors of probabilities, and a floor under the loss of each image.

    mean_i max(0, |p(x_i) - e_y|^2 + beta * |p(x'_i) - p(x_i)|^2 - clip^2 * C / (C - 1))

Pang et al. 2022, "Robustness and accuracy could be reconcilable by (proper) definition", section
5.2, TRADES with squared errors. x' maximizes |p(x') - p(x)|^2, a distance, which KL is not. The
floor is the squared error of a prediction that is `clip` short of certain. From the authors' code:
beta = 6, clip = 0.3, lr 0.05, the adversarial forward first. They clip the 0.001 * N(0, 1) start to
[0, 1]; here only the steps are clipped. Left out: their runs on a million generated images.
"""

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from frbench.engine import Branch, InnerAttack, Objective, Outputs, Recipe

Squared = Annotated[
    Literal["squared_error"], Field(description="squared distance from the clean prediction")
]


class SquaredErrorAttack(InnerAttack):
    """Drives the probabilities away from the clean ones in Euclidean distance."""

    maximize: Squared = "squared_error"  # type: ignore[assignment]

    def ascended(self, logits: Tensor, labels: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None  # the clean probabilities
        return (logits.softmax(dim=1) - target).square().sum()


class Score(Objective):
    """Squared errors, clean to label and adversarial to clean, above a floor an image."""

    branches: ClassVar[tuple[Branch, ...]] = ("adversarial", "clean")

    beta: Annotated[float, Field(ge=0, description="weight of the robust term")] = 6.0
    clip: Annotated[float, Field(ge=0, lt=1, description="doubt that costs nothing")] = 0.3

    def loss(self, outputs: Outputs) -> Tensor:
        adversarial = outputs.adversarial_logits.softmax(dim=1)
        clean = outputs.clean_logits.softmax(dim=1)
        classes = clean.shape[1]
        wrong = (clean - F.one_hot(outputs.labels, classes)).square().sum(dim=1)
        moved = (adversarial - clean).square().sum(dim=1)
        floor = self.clip**2 * classes / (classes - 1)
        return (wrong + self.beta * moved - floor).relu().mean()


recipe = Recipe(
    base="score",
    objective=Score(),
    attack=SquaredErrorAttack(start="gaussian"),
    original={
        "lr": 0.05,
        "normalization": "cifar10",
        "schedule": "milestones_by_step",
        "epochs": 110,
        "milestones": (100, 105),
    },
)
