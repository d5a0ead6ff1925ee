"""Fold BatchNorm into the convolution before it: the same function in eval mode, fewer passes.

Attacks run the network in eval mode, where BatchNorm is an affine map that a convolution can carry.
Equal up to the rounding of float32; on a CPU a gradient takes about three quarters of the time.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from frbench.models.normalization import Normalized


class Folded(nn.Module):
    """An eval-mode twin of `model` whose foldable BatchNorm layers are gone.

    The twin follows the model: `refresh` copies the weights that the model has now. Convolutions
    without a BatchNorm behind them, and networks that cannot be traced, stay as they are.

    Args:
        model: kept by reference; it is never changed.
    """

    def __init__(self, model: Normalized) -> None:
        super().__init__()
        # A list hides the original from this module's parameters.
        self._model = [model]
        self.normalize = Normalized(nn.Identity(), model.normalization)
        self.net, self._pairs = _without_batchnorm(model.net)
        self.to(next(model.parameters()).device)
        self.requires_grad_(False).eval()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights and statistics."""
        modules = dict(self._model[0].net.named_modules())
        for conv_name, norm_name in self._pairs:
            conv, norm = modules[conv_name], modules[norm_name]
            folded = self.net.get_submodule(conv_name)
            assert isinstance(conv, nn.Conv2d) and isinstance(folded, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
            torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=folded.weight)
            torch.addcmul(norm.bias, shift, scale, value=-1, out=folded.bias)
        folded_names = {name for pair in self._pairs for name in pair}
        for name, module in self.net.named_modules():
            if name in folded_names or name not in modules:
                continue
            for own, original in zip(
                [*module.parameters(recurse=False), *module.buffers(recurse=False)],
                [*modules[name].parameters(recurse=False), *modules[name].buffers(recurse=False)],
                strict=True,
            ):
                own.copy_(original)

    def forward(self, images: Tensor) -> Tensor:
        """Logits for images in [0, 1], as the model gives in eval mode."""
        logits: Tensor = self.net(self.normalize(images))
        return logits


def _without_batchnorm(net: nn.Module) -> tuple[nn.Module, list[tuple[str, str]]]:
    """A traced copy of `net` in which each conv-BatchNorm pair is one convolution with bias."""
    copied = copy.deepcopy(net).eval()
    try:
        graph = fx.GraphModule(copied, _Tracer().trace(copied))
    except (fx.proxy.TraceError, TypeError, RuntimeError):
        return copied, []  # control flow that depends on the input: attack the network as it is
    modules = dict(graph.named_modules())
    pairs = []
    for node in list(graph.graph.nodes):
        pair = _pair(node, modules)
        if pair is None:
            continue
        conv, norm = pair
        pairs.append((conv, norm))
        _widen(graph, conv)
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph, pairs


class _Tracer(fx.Tracer):
    """Sees a subclass of a convolution as one step, as torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def _pair(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, str] | None:
    """Names of (convolution, BatchNorm) if `node` is a BatchNorm that alone reads a convolution."""
    if node.op != "call_module" or not isinstance(modules.get(str(node.target)), nn.BatchNorm2d):
        return None
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    if not isinstance(modules.get(str(source.target)), nn.Conv2d):
        return None
    return str(source.target), str(node.target)


def _widen(graph: fx.GraphModule, conv_name: str) -> None:
    """Give the convolution a bias to hold the shift."""
    conv = graph.get_submodule(conv_name)
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
