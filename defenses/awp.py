"""AWP: PGD-AT at adversarially perturbed weights (the paper's row; AT-AWP in its authors' words).

    min_w  max_{||v_l|| <= gamma ||w_l||}  mean_i max_{x'_i}  CE(f_{w+v}(x'_i), y_i)

Wu, Xia and Wang 2020, "Adversarial weight perturbation helps robust generalization", equation 7.
One ascent step for v, per tensor, on convolution and linear weights only, with the x' crafted at w;
gamma = 0.01 (TRADES-AWP uses 0.005). `frbench/engine/mechanisms/awp.py` has the mechanism, which
composes with any recipe: `trades+awp`.

The original protocol leaves one accident of the authors' loop out: it attacks the first batch of
each epoch but the first in eval mode, since the evaluation before left the model there. And its
forward pass that only moves BatchNorm statistics comes after the trained one, theirs before it.
"""

from defenses.pgd_at import recipe as pgd_at
from frbench.engine import AdversarialWeightPerturbation

recipe = pgd_at + AdversarialWeightPerturbation(gamma=0.01)
