"""How models are trained: one loop for every recipe.

Everything that a file in `defenses/` needs is importable from here.
"""

from frbench.engine.inner import InnerAttack
from frbench.engine.mechanisms import (
    MECHANISMS,
    AdversarialWeightPerturbation,
    ExponentialMovingAverage,
    FrequencyRegularization,
    StochasticWeightAveraging,
)
from frbench.engine.outputs import Outputs
from frbench.engine.recipe import Branch, Mechanism, Objective, Recipe, Regularizer

__all__ = [
    "MECHANISMS",
    "AdversarialWeightPerturbation",
    "Branch",
    "ExponentialMovingAverage",
    "FrequencyRegularization",
    "InnerAttack",
    "Mechanism",
    "Objective",
    "Outputs",
    "Recipe",
    "Regularizer",
    "StochasticWeightAveraging",
]
