"""Frequency regularization (FR), the paper's equation 2.

    L = L_CE + weight * Dis(F(f(x')), F(f(x)))

The paper names neither the axes of the transform F nor the reduction. The authors' released code
transforms the whole logit matrix over batch and class, un-normalized, and takes the mean absolute
value over all real and imaginary parts; that is the default. The literal reading of equation 2, a
transform over the classes of each sample, summed over coefficients and averaged over samples, is
`axes="class"`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from frbench.engine.outputs import Outputs
from frbench.engine.recipe import Branch, Regularizer

Axes = Literal["batch_class", "class"]


class FrequencyRegularization(Regularizer):
    """Align the spectra of clean and adversarial logits (Huang et al. 2023).

    With `batch_class` the penalty grows like the square root of the batch, so `weight` belongs to
    a batch of 128.
    """

    kind: ClassVar[str] = "fr"
    branches: ClassVar[tuple[Branch, ...]] = ("adversarial", "clean")

    weight: Annotated[float, Field(ge=0, description="lambda of equation 2")] = 0.1
    axes: Annotated[Axes, Field(description="axes of the Fourier transform")] = "batch_class"

    def penalty(self, outputs: Outputs) -> Tensor:
        """Weighted distance; the adversarial forward comes before the clean one, as released."""
        adversarial, clean = outputs.adversarial_logits, outputs.clean_logits
        return self.weight * spectral_distance(adversarial, clean, self.axes)


def spectral_distance(a: Tensor, b: Tensor, axes: Axes) -> Tensor:
    """L1 distance between the un-normalized spectra of two logit matrices, a scalar.

    Args:
        a: float32 or float64, shape (batch, classes).
        b: the same shape; gradients flow through both.
        axes: `batch_class`: 2-D transform, mean over coefficients and their two parts;
            `class`: 1-D transform, sum over coefficients and parts, mean over samples.
    """
    difference = a - b  # the transform is linear, so one is enough
    if axes == "batch_class":
        return torch.view_as_real(torch.fft.fft2(difference)).abs().mean()
    return torch.view_as_real(torch.fft.fft(difference, dim=1)).abs().sum(dim=(1, 2)).mean()
