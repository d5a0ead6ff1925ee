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
