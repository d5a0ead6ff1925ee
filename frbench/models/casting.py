"""Cast the weights of a network once for many passes, instead of in each of them.

Autocast casts float32 weights at every forward pass, since they might have changed. While an attack
runs they do not, and on a GPU the casts of a layer's weights cost as much as a small layer.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from frbench.models.quick import PatchConv

_LAYERS = (nn.Conv2d.forward, nn.Linear.forward, PatchConv.forward)
"""Forwards that read `weight` and `bias` for nothing but a product, which autocast casts."""


class Precast(nn.Module):
    """An eval-mode twin of `model` with the weights of its layers in `dtype`.

    Under autocast to `dtype` it gives the same logits and gradients, bit for bit. The twin follows
    the model: `refresh` copies the weights and statistics that the model has now.

    Args:
        model: kept by reference; it is never changed.
        dtype: that of autocast.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        # A list hides the original from this module's parameters.
        self._model = [model]
        self.twin = copy.deepcopy(model)
        cast_layers(self.twin, dtype)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights and statistics."""
        torch._foreach_copy_(_moving(self.twin), _moving(self._model[0]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits for images in [0, 1], as the model gives in eval mode under autocast."""
        logits: Tensor = self.twin(images)
        return logits


def cast_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights and biases of convolutions and linear layers in `dtype`, frozen.

    Under autocast to `dtype` the network computes the same as before, bit for bit.
    """
    for layer in network.modules():
        if getattr(layer.forward, "__func__", None) not in _LAYERS:
            continue
        for name in ("weight", "bias"):
            value = layer._parameters.get(name)  # None where a parametrization computes it
            if value is not None:
                cast = value.detach().to(dtype)
                layer._parameters[name] = nn.Parameter(cast, requires_grad=False)


def _moving(model: nn.Module) -> list[Tensor]:
    """What training moves and eval mode reads; both models give it in the same order."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
