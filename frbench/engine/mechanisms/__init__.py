"""Parts that compose with any recipe, one file each, found by `kind`."""

from frbench.engine.mechanisms.awp import AdversarialWeightPerturbation
from frbench.engine.mechanisms.ema import ExponentialMovingAverage
from frbench.engine.mechanisms.fr import FrequencyRegularization
from frbench.engine.mechanisms.swa import StochasticWeightAveraging
from frbench.engine.recipe import Mechanism

MECHANISMS: dict[str, type[Mechanism]] = {
    part.kind: part
    for part in (
        AdversarialWeightPerturbation,
        ExponentialMovingAverage,
        FrequencyRegularization,
        StochasticWeightAveraging,
    )
}

__all__ = [
    "MECHANISMS",
    "AdversarialWeightPerturbation",
    "ExponentialMovingAverage",
    "FrequencyRegularization",
    "StochasticWeightAveraging",
]
