"""What the device could do at most, and what a model asks of it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frbench.engine.device import Device
from tools.perf.timing import Candidate


def forward_flops(model: nn.Module, images: Tensor) -> float:
    """Floating-point operations of one forward pass an image (a multiply-add counts as two)."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(images)
    return counter.get_total_flops() / len(images)


def activations(model: nn.Module, images: Tensor) -> float:
    """Numbers an image that convolutions and linear layers write in one forward pass."""
    written = 0

    def count(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal written
        written += output.numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return written / len(images)


MATMUL = "matmul"


def matmul(device: Device, size: int) -> Candidate:
    """Products of two square matrices in the precision of training: the rate that a device can do.

    Args:
        device: where.
        size: of a side; one unit is `matmul_flops(size)`.
    """
    kind = torch.bfloat16 if device.precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device.device, dtype=kind) for _ in range(2))
    out = torch.empty_like(a)

    def run(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return Candidate(MATMUL, run)


def matmul_flops(size: int) -> float:
    """Floating-point operations of one unit of `matmul`."""
    return 2.0 * size**3


COPY = "copy"


def copy(device: Device, megabytes: int) -> Candidate:
    """Copies of one large tensor to another: how fast a device moves bytes.

    Args:
        device: where.
        megabytes: of the tensor; one unit is `copy_bytes(megabytes)`.
    """
    source, target = (
        torch.zeros(megabytes * 10**6, dtype=torch.uint8, device=device.device) for _ in range(2)
    )

    def run(times: int) -> None:
        for _ in range(times):
            target.copy_(source)

    return Candidate(COPY, run)


def copy_bytes(megabytes: int) -> float:
    """Bytes that one unit of `copy` reads and writes."""
    return 2e6 * megabytes


def peak_memory(device: Device, work: Callable[[], object]) -> float:
    """MiB that `work` needs at its peak beyond what was there before.

    CUDA counts what torch allocates. Elsewhere it is the whole process's resident set afterwards.
    """
    if not device.cuda:
        work()
        return psutil.Process().memory_info().rss / 2**20
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device.device)
    torch.cuda.reset_peak_memory_stats(device.device)
    work()
    return (torch.cuda.max_memory_allocated(device.device) - before) / 2**20
