"""AT-SWA: PGD-AT, evaluated at the average of its weights over the last epochs.

    w_swa = mean of w at the ends of the epochs since the learning rate first dropped

Izmailov et al. 2018 for the average, Chen et al. 2021 for its use against robust overfitting, the
paper for this combination. The training is PGD-AT's, so one run serves both rows. The paper's
authors train it in the common frame, so both protocols are the same; Chen et al. train 200 epochs
with drops at 50 and 150, average from epoch 55 on and attack in training mode.
"""

from defenses.pgd_at import recipe as pgd_at
from frbench.engine import StochasticWeightAveraging

recipe = (pgd_at + StochasticWeightAveraging()).rebuilt(original={})
