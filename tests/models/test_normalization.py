"""Normalization inside the model: the formula to the last bit, in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frbench.models import NORMALIZATIONS, Normalized


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n", [1, 5])
def test_each_channel_has_its_own_mean_and_deviation(layout, n):
    known = NORMALIZATIONS["cifar10"]
    images = torch.rand(n, 3, 6, 4).contiguous(memory_format=layout).requires_grad_()
    normalized = Normalized(nn.Identity(), known)(images)
    (gradient,) = torch.autograd.grad(normalized.sum(), images)
    for channel, (mean, std) in enumerate(zip(known.mean, known.std, strict=True)):
        assert torch.equal(normalized[:, channel], (images[:, channel] - mean) / std)
        assert torch.equal(gradient[:, channel], torch.ones(n, 6, 4) / std)
    assert normalized.is_contiguous(memory_format=layout)
