from __future__ import annotations

import pytest
import torch

from frbench.engine.outputs import Outputs
from frbench.engine.scaffold import ADVERSARIAL, CLEAN, LABELS


@pytest.fixture
def table() -> Outputs:
    """Outputs with the fixed logits of three images, float64, ready for gradients."""
    nothing = torch.zeros(1)
    outputs = Outputs(lambda images: images, nothing, nothing, torch.tensor(LABELS))
    outputs.clean_logits = torch.tensor(CLEAN, dtype=torch.float64, requires_grad=True)
    outputs.adversarial_logits = torch.tensor(ADVERSARIAL, dtype=torch.float64, requires_grad=True)
    return outputs
