"""What SWA and EMA share: a second set of weights that follows the trained ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def empty_state(model: nn.Module) -> State:
    """A state of zero updates, with the model's tensors as starting values."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {**state, "count": torch.zeros((), dtype=torch.int64)}


def updates(state: State) -> int:
    """How many times the average was updated."""
    return int(state["count"])


def averaged_tensors(state: State) -> State:
    """The model state of an average, without its bookkeeping."""
    return {name: tensor for name, tensor in state.items() if name != "count"}


def is_averaged(name: str, tensor: Tensor, *, statistics: bool) -> bool:
    """Whether a tensor of a model enters the average: floats do, BatchNorm's if `statistics`."""
    return tensor.is_floating_point() and (statistics or "running_" not in name)


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics by sample-weighted means over `batches`.

    Means of the batch means and of the unbiased batch variances, weighted by batch size: what one
    pass with momentum b / (n + b) gives after a reset. Momentum and mode are put back;
    `num_batches_tracked` counts the batches of this pass.

    Args:
        model: its BatchNorm layers are changed in place.
        batches: float32 images in [0, 1]; the training distribution.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
    model.train()
    seen = 0
    for images in batches:
        for norm in norms:
            norm.momentum = len(images) / (seen + len(images))
        model(images)
        seen += len(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
