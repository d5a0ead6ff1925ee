"""Fold BatchNorm into the convolution before it: the same function in eval mode, fewer passes.

Attacks run the network in eval mode, where BatchNorm is an affine map that a convolution can carry.
Equal up to the rounding of float32; on a CPU a gradient takes about three quarters of the time.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from frbench.models.casting import cast_layers
from frbench.models.normalization import Normalized
from frbench.models.quick import PatchConv

_CONVOLUTIONS = (nn.Conv2d.forward, PatchConv.forward)
"""Forwards that are linear in `weight`, so that the weights can carry the norm's scale."""


class Folded(nn.Module):
    """An eval-mode twin of `model` whose foldable BatchNorm layers are gone.

    The twin follows the model: `refresh` copies the weights that the model has now. Convolutions
    without a BatchNorm behind them, pairs that compute something else than theirs (`_foldable`),
    and networks that cannot be traced, stay as they are.

    Args:
        model: kept by reference; it is never changed.
        dtype: of autocast, if it runs under one; its layers keep their weights in it.
    """

    def __init__(self, model: Normalized, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        # A list hides the original from this module's parameters.
        self._model = [model]
        self.normalize = Normalized(nn.Identity(), model.normalization)
        self.net, self._pairs = _without_batchnorm(model.net)
        self.to(next(model.parameters()).device)
        if dtype is not None:
            cast_layers(self.net, dtype)
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
            originals = _tensors(modules[name])
            for key, own in _tensors(module).items():
                if key in originals:  # tracing keeps constants of the graph as buffers
                    own.copy_(originals[key])

    def forward(self, images: Tensor) -> Tensor:
        """Logits for images in [0, 1], as the model gives in eval mode."""
        logits: Tensor = self.net(self.normalize(images))
        return logits


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of this module alone, by name."""
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }


def _without_batchnorm(net: nn.Module) -> tuple[nn.Module, list[tuple[str, str]]]:
    """A traced copy of `net` in which each conv-BatchNorm pair is one convolution with bias."""
    copied = copy.deepcopy(net).eval()
    if _hooked(copied):
        return copied, []  # a trace goes past the hooks of the outermost module
    try:
        graph = fx.GraphModule(copied, _Tracer().trace(copied))
    except Exception:  # networks assert and raise whatever they like where they meet a proxy
        return copied, []  # control flow that depends on the input: attack the network as it is
    modules = dict(graph.named_modules())
    reads = _reads(graph)
    pairs = []
    for node in list(graph.graph.nodes):
        pair = _pair(node, modules, reads)
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


def _reads(graph: fx.GraphModule) -> Counter[int]:
    """How often the graph calls each module and holds each parameter, by identity.

    A parameter that is read beside its module's call counts again, as does one of two modules.
    """
    counts: Counter[int] = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            counts[id(graph.get_submodule(node.target))] += 1
        elif node.op == "get_attr":
            value = graph
            for part in node.target.split("."):
                value = getattr(value, part)
            counts[id(value)] += 1
    for module in graph.modules():
        counts.update(id(tensor) for tensor in _tensors(module).values())
    return counts


def _pair(
    node: fx.Node, modules: dict[str, nn.Module], reads: Counter[int]
) -> tuple[str, str] | None:
    """Names of (convolution, BatchNorm) if `node` is a BatchNorm that alone reads a convolution."""
    if node.op != "call_module" or len(node.args) != 1:
        return None
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    conv, norm = modules.get(str(source.target)), modules.get(str(node.target))
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return None
    if not _foldable(conv, norm):
        return None
    # What is used a second time must not carry the scale of the first.
    held = [conv, norm, *_tensors(conv).values(), *_tensors(norm).values()]
    if any(reads[id(thing)] != 1 for thing in held):
        return None
    return str(source.target), str(node.target)


def _foldable(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether both compute what torch's own do from weights and running statistics of theirs."""
    plain = (
        getattr(conv.forward, "__func__", None) in _CONVOLUTIONS
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
        and getattr(norm.forward, "__func__", None) is nn.BatchNorm2d.forward
        and not any(is_parametrized(module) or _hooked(module) for module in (conv, norm))
    )
    return (
        plain
        and conv._parameters.get("weight") is not None
        and None not in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )


def _hooked(module: nn.Module) -> bool:
    """Whether something runs before or after its forward, as spectral and weight norm do."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _widen(graph: fx.GraphModule, conv_name: str) -> None:
    """Give the convolution a bias to hold the shift."""
    conv = graph.get_submodule(conv_name)
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
