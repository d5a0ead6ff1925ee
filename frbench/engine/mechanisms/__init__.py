"""Parts that compose with any recipe, one file each, found by `kind`."""

from frbench.engine.mechanisms.awp import AdversarialWeightPerturbation
from frbench.engine.mechanisms.ema import ExponentialMovingAverage
from frbench.engine.mechanisms.fr import FrequencyRegularization
from frbench.engine.mechanisms.swa import StochasticWeightAveraging
from frbench.engine.recipe import Mechanism, WeightAverage

MECHANISMS: dict[str, type[Mechanism]] = {
    part.kind: part
    for part in (
        AdversarialWeightPerturbation,
        ExponentialMovingAverage,
        FrequencyRegularization,
        StochasticWeightAveraging,
    )
}
AVERAGES = tuple(kind for kind, part in MECHANISMS.items() if issubclass(part, WeightAverage))

__all__ = [
    "AVERAGES",
    "MECHANISMS",
    "AdversarialWeightPerturbation",
    "ExponentialMovingAverage",
    "FrequencyRegularization",
    "StochasticWeightAveraging",
]
