"""Every network by name: robustbench's classes, timm's by `timm:NAME`, and our small ones."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import nn

from frbench.compat import robustbench_module
from frbench.errors import InputError
from frbench.models.normalization import Normalization, Normalized
from frbench.models.quick import quick, tiny
from frbench.names import lookup, unknown

TIMM = "timm:"
_WIDE_RESNET = re.compile(r"wrn-(\d+)-(\d+)")
Builder = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """A network that can be built: `builder(classes, channels)` gives it freshly initialized."""

    name: str
    summary: str
    builder: Builder


def architectures() -> dict[str, Architecture]:
    """Every architecture by name; any `wrn-DEPTH-WIDTH` and `timm:NAME` come on top."""
    return {a.name: a for a in _ARCHITECTURES}


def check_architecture(name: str) -> None:
    """Raise InputError for a name that `build_model` does not know; timm's are left to timm."""
    if not (name.startswith(TIMM) or _WIDE_RESNET.fullmatch(name)):
        lookup("architecture", name, architectures())


def build_model(
    architecture: str,
    *,
    classes: int,
    normalization: Normalization | None = None,
    channels: int = 3,
) -> Normalized:
    """A freshly initialized model in training mode.

    Args:
        architecture: a name of `architectures()`, `wrn-DEPTH-WIDTH` or `timm:NAME`.
        classes: length of the logits.
        normalization: put before the network; None leaves [0, 1] images as they are.
        channels: of the images.

    Raises:
        InputError: unknown architecture, or one that does not take so many channels.
    """
    if normalization is not None and len(normalization.mean) != channels:
        raise InputError(
            f"a normalization of {len(normalization.mean)} channels for images of {channels}: "
            "choose normalization=none, or other data"
        )
    wide = _WIDE_RESNET.fullmatch(architecture)
    if architecture.startswith(TIMM):
        net = _timm(architecture.removeprefix(TIMM), classes, channels)
    elif wide:
        net = _wide_resnet(classes, channels, depth=int(wide[1]), width=int(wide[2]))
    else:
        net = lookup("architecture", architecture, architectures()).builder(classes, channels)
    return Normalized(net, normalization)


def _resnet18(classes: int, channels: int) -> nn.Module:
    _three_channels("resnet18", channels)
    zoo = robustbench_module("model_zoo.architectures.resnet")
    return cast(nn.Module, zoo.ResNet(zoo.BasicBlock, [2, 2, 2, 2], num_classes=classes))


def _preactresnet18(classes: int, channels: int, *, final_bn: bool = True) -> nn.Module:
    _three_channels("preactresnet18", channels)
    zoo = robustbench_module("model_zoo.architectures.resnet")
    # Block V2 and the final BN make it the network of Rice et al.; the default lacks both.
    blocks = [2, 2, 2, 2]
    net = zoo.PreActResNet(zoo.PreActBlockV2, blocks, num_classes=classes, bn_before_fc=final_bn)
    return cast(nn.Module, net)


def _wide_resnet(classes: int, channels: int, *, depth: int, width: int = 10) -> nn.Module:
    name = f"wrn-{depth}-{width}"
    _three_channels(name, channels)
    if depth < 10 or depth % 6 != 4 or width < 1:
        raise InputError(f"{name}: the depth of a wide ResNet is 6n + 4, such as 28 or 34")
    zoo = robustbench_module("model_zoo.architectures.wide_resnet")
    # Its initialization is Kaiming's, fan out: N(0, 2 / (k^2 * outputs)) for convolutions.
    net = zoo.WideResNet(depth=depth, widen_factor=width, num_classes=classes, sub_block1=False)
    return cast(nn.Module, net)


def _timm(name: str, classes: int, channels: int) -> nn.Module:
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    try:
        net = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"timm cannot build '{name}' for {channels} channels: {error}") from error
    return cast(nn.Module, net)


def _three_channels(name: str, channels: int) -> None:
    if channels != 3:
        raise InputError(f"{name} takes images of 3 channels, not {channels}; 'quick' takes any")


_ARCHITECTURES = (
    Architecture("quick", "small residual network for CPUs, 309,322 parameters", quick),
    Architecture("tiny", "a few thousand parameters for 8x8 digits, for tests", tiny),
    Architecture("resnet18", "ResNet-18, 11.2 M parameters (robustbench)", _resnet18),
    Architecture(
        "preactresnet18",
        "PreActResNet-18 of Rice et al., 11.2 M parameters (robustbench)",
        _preactresnet18,
    ),
    Architecture(
        "preactresnet18-no-bn",
        "PreActResNet-18 without a final BN, as in MAIR, 11.2 M parameters (robustbench)",
        functools.partial(_preactresnet18, final_bn=False),
    ),
    Architecture(
        "wrn-34-10",
        "WideResNet-34-10, 46.2 M parameters (robustbench)",
        functools.partial(_wide_resnet, depth=34),
    ),
    Architecture(
        "wrn-28-10",
        "WideResNet-28-10, 36.5 M parameters (robustbench)",
        functools.partial(_wide_resnet, depth=28),
    ),
)
