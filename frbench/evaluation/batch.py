"""How many images a chunk of an attack has.

The number decides which random numbers an image gets, so it is part of a cell's identity: a preset
fixes it for all who use it. `fastest_batch` is for whoever has a long evaluation and one device.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frbench import storage
from frbench.attacks import specs
from frbench.data.cache import cache_root
from frbench.engine.presets import EVALUATION_BATCH, PRESETS
from frbench.evaluation import numerics
from frbench.evaluation.cells import ModelRecord
from frbench.evaluation.search import Search, Searcher
from frbench.evaluation.target import Target
from frbench.provenance import hardware_name

SIZES = (64, 128, 256, 512, 1024, 2048)
GAIN = 1.05
"""How much faster than the next smaller size one must be to be worth its memory."""
_ENOUGH_SECONDS = 0.2
_REPEATS = 5


def preset_batch(record: ModelRecord) -> int:
    """The number that the preset of a run fixes, else that of all others."""
    preset = PRESETS.get(record.preset or "")
    return preset.evaluation_batch if preset else EVALUATION_BATCH


def fastest_batch(
    target: Target,
    shape: Sequence[int],
    device: torch.device,
    search: Search,
    say: Callable[[str], None],
) -> int:
    """The number whose gradients are the fastest, of `SIZES`; measured once, then remembered.

    Remembered in the cache folder for this hardware, architecture, image shape and search, so that
    an interrupted evaluation goes on with the same chunks.

    Args:
        target: the model, on `device`.
        shape: (channels, height, width) of an image.
        device: where the attacks will run.
        search: of the attacks.
        say: told what was found, and how to get the same elsewhere.
    """
    known = {
        "hardware": hardware_name(device),
        "architecture": target.record.architecture,
        "shape": list(shape),
        "search": search,
    }
    path = cache_root() / "batches" / f"{storage.canonical_digest(known)}.json"
    try:
        batch = int(json.loads(path.read_text())["batch"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not what we wrote
        say(f"trying batches of {SIZES[0]} to {SIZES[-1]} images ...")
        batch = _climb(lambda n: _rate(target.model, n, shape, device, search))
        storage.write_json(path, {**known, "batch": batch})
    say(f"--batch {batch} is the fastest for {target.record.architecture} on {known['hardware']}")
    return batch


def _climb(rate: Callable[[int], float]) -> int:
    """The last of `SIZES` up to which each gains enough over the one before."""
    best, fastest = SIZES[0], 0.0
    for size in SIZES:
        try:
            images_per_second = rate(size)
        except torch.OutOfMemoryError:
            break
        if images_per_second < GAIN * fastest:
            break
        best, fastest = size, images_per_second
    return best


def _rate(
    model: nn.Module, n: int, shape: Sequence[int], device: torch.device, search: Search
) -> float:
    """Images a second of gradients, in the arithmetic of AutoAttack, which costs most."""
    searcher = Searcher(model, search)
    images = torch.rand(n, *shape, device=device)
    labels = torch.zeros(n, dtype=torch.int64, device=device)
    arithmetic = searcher.arithmetic(specs()["aa"], device)
    with numerics.full_precision(device), numerics.frozen(model), arithmetic:
        _gradient(searcher.network, images, labels)  # the first one also pays for start-up
        samples = [_gradient(searcher.network, images, labels)]
        while len(samples) < _REPEATS and sum(samples) < _ENOUGH_SECONDS * _REPEATS:
            samples.append(_gradient(searcher.network, images, labels))
    return n / statistics.median(samples)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Seconds of one gradient; reading it back waits for the device."""
    begin = time.perf_counter()
    images = images.requires_grad_()
    loss = functional.cross_entropy(model(images), labels)
    float(torch.autograd.grad(loss, [images])[0].sum())
    return time.perf_counter() - begin
