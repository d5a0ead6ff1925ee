from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from frbench.engine.scaffold import ADVERSARIAL, CLEAN, LABELS


@pytest.fixture
def table() -> SimpleNamespace:
    """Outputs with the fixed logits of three images, float64, ready for gradients."""
    return SimpleNamespace(
        clean_logits=torch.tensor(CLEAN, dtype=torch.float64, requires_grad=True),
        adversarial_logits=torch.tensor(ADVERSARIAL, dtype=torch.float64, requires_grad=True),
        labels=torch.tensor(LABELS),
    )
