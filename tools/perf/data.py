"""Suite `data`: the path from pixels in memory to a batch on the device, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from frbench.data import Batches
from tools.perf.options import Options
from tools.perf.report import Result, Table
from tools.perf.subjects import random_split
from tools.perf.textbook import WORKERS, loader
from tools.perf.timing import Candidate


def run(options: Options) -> Result:
    """Batches a second of both paths, each batch left on the device."""
    split, where = random_split(100 * options.batch), options.device.device
    usual = loader(split, options.batch, pin=options.device.cuda)
    batches = Batches(split, where, options.batch, 0, memory_format=torch.channels_last)

    def from_loader() -> Iterator[object]:
        while True:
            for images, labels in usual:
                yield images.to(where), labels.to(where)

    def from_batches() -> Iterator[object]:
        epoch = 0
        while True:
            yield from batches.epoch(epoch)
            epoch += 1

    name = f"DataLoader and torchvision, {WORKERS} workers"
    timings = options.timed(
        [Candidate(name, _taking(from_loader())), Candidate("Batches", _taking(from_batches()))]
    )
    rows = [
        {
            **timing.row(),
            "images_per_second": options.batch / timing.median,
            "speedup": timings[name].median / timing.median,
        }
        for timing in timings.values()
    ]
    settings = {"batch": options.batch, "repeats": options.repeats, "workers": WORKERS}
    note = "seconds a batch: random crop, flip, to float32 in [0, 1] on the device"
    return Result("data", settings, [Table("Data path", rows, note)])


def _taking(stream: Iterator[object]) -> Callable[[int], None]:
    def run(batches: int) -> None:
        for _ in range(batches):
            next(stream)

    return run
