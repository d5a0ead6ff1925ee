"""AT-SWA: PGD-AT, evaluated at the average of its weights over the last epochs.

    w_swa = mean of w at the ends of the epochs since the learning rate first dropped

Izmailov et al. 2018 for the average, Chen et al. 2021 for its use against robust overfitting, the
paper for this combination. The training is PGD-AT's, so one run serves both rows.
"""

from defenses.pgd_at import recipe as pgd_at
from frbench.engine import StochasticWeightAveraging

recipe = (pgd_at + StochasticWeightAveraging()).rebuilt(original={})
