"""Where a run computes, and in which precision and memory layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from frbench.errors import InputError
from frbench.provenance import hardware_name

Precision = Literal["fp32", "bf16"]
Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Device:
    """A device and how training uses it; parameters and perturbations are always float32."""

    device: torch.device
    precision: Precision
    compile: Compile = "auto"
    """On CUDA: compile the network (auto: for long runs), or (off) capture nothing either."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype | None:
        """What autocast casts to, if it casts at all."""
        return torch.bfloat16 if self.precision == "bf16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Precision of training forwards and of every search for adversarial images.

        The cache of cast weights is off: AWP changes weights between two forwards of one step.
        """
        return torch.autocast(
            self.device.type,
            dtype=self.half,
            enabled=self.half is not None,
            cache_enabled=False,
        )

    @contextlib.contextmanager
    def tf32(self) -> Iterator[None]:
        """Within the block, float32 convolutions on CUDA may use TF32 if training is in bf16.

        That has ten bits of mantissa where bf16 has seven, and runs on the tensor cores.
        """
        saved = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = self.cuda and self.precision == "bf16"
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = saved

    def prepare(self) -> None:
        """Let cuDNN search for the fastest kernels, and keep float32 convolutions float32."""
        if self.cuda:
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = False

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this device in channels-last layout, which is faster on both kinds."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def describe(self) -> str:
        """Name of the hardware, for people and provenance."""
        name = hardware_name(self.device)
        return name if self.cuda else f"{name}, {torch.get_num_threads()} threads"


def compile_anew(*networks: nn.Module, dynamic: bool | None = None) -> list[nn.Module]:
    """`networks`, each compiled when it is called first.

    What was compiled before is forgotten, because torch counts by function: after eight networks
    of a class it would run the next ones as they are, and say so in its log alone.

    Args:
        networks: share their tensors with the results; one that comes twice is compiled once.
        dynamic: whether shapes may vary; None: once one has varied.
    """
    torch.compiler.reset()
    compiled = {network: torch.compile(network, dynamic=dynamic) for network in networks}
    return [compiled[network] for network in networks]  # type: ignore[misc]


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies in bf16; one that has to emulate it is slower than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def find_device(name: str = "auto", precision: str = "auto", compile_: Compile = "auto") -> Device:
    """The device called `name` (`auto`: CUDA where there is one), checked to exist.

    A GPU that is named by its number becomes torch's current one.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: of training forwards; `auto` is bf16 where the hardware has it, else fp32.
        compile_: see `Device.compile`.

    Raises:
        InputError: no such device here.
    """
    cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device '{name}'; use auto, cpu or cuda") from None
    if device.type == "cpu" and device.index is not None:
        raise InputError(f"device '{name}' is not possible: cpu has no index; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not supported; use auto, cpu or cuda")
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device '{name}' is not on this machine; 'frbench doctor' tells what is")
    if device.index is not None:  # streams and graphs belong to the current device
        torch.cuda.set_device(device)
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return Device(device, precision, compile_)  # type: ignore[arg-type]
