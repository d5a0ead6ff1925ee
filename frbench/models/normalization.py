"""Input normalization as a part of the model, so that attacks and tables see [0, 1] images only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from frbench.errors import InputError

PREFIX = "net."


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation a channel, in units of [0, 1] images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(f"normalization needs one mean and one std a channel: {self}")
        if min(self.std) <= 0:
            raise InputError(f"normalization needs a positive std: {self.std}")

    def __str__(self) -> str:
        return f"mean {_list(self.mean)}, std {_list(self.std)}"


NORMALIZATIONS: Mapping[str, Normalization | None] = {
    "none": None,
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
}


class Normalized(nn.Module):
    """A network behind its normalization; the identity when `normalization` is None.

    The two constants are not in the state dict: the metadata of the weights file holds them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, normalization: Normalization | None) -> None:
        super().__init__()
        self.net = net
        self.normalization = normalization
        if normalization is not None:
            shape = (1, len(normalization.mean), 1, 1)
            mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
            self.register_buffer("mean", mean.view(shape), persistent=False)
            self.register_buffer("std", std.view(shape), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) for float images in [0, 1], shape (n, channels, h, w)."""
        if self.normalization is not None:
            images = (images - _laid_out(self.mean, images)) / _laid_out(self.std, images)
        return cast(torch.Tensor, self.net(images))


def _laid_out(constants: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """One number a channel as an image of the same layout.

    A CPU takes four times as long to broadcast over channels_last images, three values at a time.
    """
    return torch.zeros_like(images[:1]) + constants


def network_state(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's own tensors by the network's own names, whether or not it was `Normalized`."""
    if state_dict and all(name.startswith(PREFIX) for name in state_dict):
        return {name.removeprefix(PREFIX): tensor for name, tensor in state_dict.items()}
    return dict(state_dict)


def _list(values: tuple[float, ...]) -> str:
    return "/".join(f"{v:.4g}" for v in values)
