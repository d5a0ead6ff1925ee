"""AT-FR: PGD-AT with the paper's frequency regularization.

    CE(f(x'), y) + weight * mean(|Re D|, |Im D|)      D = DFT2(f(x')) - DFT2(f(x)), weight = 0.1

The mean goes over the real and the imaginary parts of all coefficients, not over their moduli.

Huang et al. 2023, "Frequency Regularization for Improving Adversarial Robustness", equation 2. The
paper leaves the axes of the transform, its reduction and the first epoch open. Axes and reduction
follow the authors' released code. The first epoch is 0, which is what the paper's Figure 3 shows;
the released code's default, the first learning-rate drop, is the original protocol.
"""

from defenses.pgd_at import recipe as pgd_at
from frbench.engine import FrequencyRegularization

recipe = (pgd_at + FrequencyRegularization(weight=0.1)).rebuilt(original={"fr.start_epoch": 75})
