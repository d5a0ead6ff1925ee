"""AT-FR-SWA: the paper's method, PGD-AT with frequency regularization and weight averaging.

    train as AT-FR, report w_swa = mean of w at the ends of the epochs since the first lr drop

Huang et al. 2023, whose Table 2 has it first under PGD-20, C&W and AutoAttack (AWP under FGSM). The
training is AT-FR's, so one run serves both rows. See `at_fr` for what the paper leaves open.
BatchNorm's statistics of the average are those of clean images, as in the authors' code;
`swa.batchnorm=average` keeps the training's own.
"""

from defenses.at_fr import recipe as at_fr
from frbench.engine import StochasticWeightAveraging

recipe = at_fr + StochasticWeightAveraging()
