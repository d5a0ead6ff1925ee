"""Batches: augmentation against a slow reference, and everything from (seed, epoch, step)."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from frbench.data import Batches, Split, augment, derive_seed, to_float
from frbench.data.batches import Padding, _draw
from frbench.data.types import make_split
from frbench.errors import InputError


def random_split(n: int = 50, channels: int = 3, size: int = 8) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, size, size), generator=generator)
    return make_split(images.to(torch.uint8), torch.arange(n))  # the label tells the image


def reference(
    images: torch.Tensor, seed: int, padding: Padding, pad: int, flip: bool
) -> torch.Tensor:
    """Pad, crop and mirror one image at a time, with numpy's own padding."""
    generator = torch.Generator().manual_seed(seed)
    down, right, mirrored = _draw(len(images), generator, pad, flip)
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    height, width = images.shape[2:]
    results = []
    for i, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode=mode)
        top, left = pad + int(down[i]), pad + int(right[i])
        crop = padded[:, top : top + height, left : left + width]
        results.append(crop[:, :, ::-1] if mirrored[i] else crop)
    return torch.from_numpy(np.stack(results).astype(np.float32)) / 255


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 6, 9)])
def test_augment_equals_the_slow_reference(
    padding: Padding, flip: bool, shape: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (200, *shape), generator=generator).to(torch.uint8)
    result = augment(images, torch.Generator().manual_seed(7), padding=padding, flip=flip)
    assert result.dtype == torch.float32 and result.is_contiguous()
    assert torch.equal(result, reference(images, 7, padding, 4, flip))


def test_draws_cover_every_shift_and_flip_about_half() -> None:
    down, right, mirrored = _draw(20000, torch.Generator().manual_seed(0), 4, True)
    for shift in (down, right):
        counts = torch.bincount(shift + 4)
        assert len(counts) == 9 and counts.min() > 2000
    assert 0.48 < mirrored.float().mean() < 0.52
    assert not _draw(100, torch.Generator().manual_seed(0), 4, False)[2].any()


def test_no_padding_and_no_flip_is_the_plain_image() -> None:
    images = random_split().images
    plain = augment(images, torch.Generator(), pad=0, flip=False)
    assert torch.equal(plain, images.float() / 255) and torch.equal(plain, to_float(images))


def test_channels_last_has_the_same_values() -> None:
    images = random_split().images
    last = augment(images, torch.Generator().manual_seed(1), memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, augment(images, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("padding", "pad"), [("reflect", 8), ("zero", -1), ("refelct", 4)])
def test_impossible_padding_is_refused(padding: str, pad: int) -> None:
    with pytest.raises(InputError, match="pad"):
        Batches(random_split(), "cpu", 10, 0, padding=padding, pad=pad)  # type: ignore[arg-type]


def test_every_image_comes_exactly_once_an_epoch() -> None:
    batches = Batches(random_split(50), "cpu", 16, 0)
    served = list(batches.epoch(0))
    assert [len(b.labels) for b in served] == [16, 16, 16, 2] and len(batches) == 4
    assert [b.index for b in served] == [0, 1, 2, 3]
    labels = torch.cat([b.labels for b in served])
    assert torch.equal(labels.sort().values, torch.arange(50))
    assert not torch.equal(labels, torch.arange(50))


def test_images_stay_with_their_labels() -> None:
    split = random_split(50)
    for batch in Batches(split, "cpu", 16, 0, pad=0, flip=False).epoch(2):
        assert torch.equal(batch.images, to_float(split.images[batch.labels]))


def test_an_epoch_does_not_depend_on_the_ones_before_it() -> None:
    first = Batches(random_split(), "cpu", 16, 5)
    for _ in first.epoch(0):
        torch.rand(3)  # the global generator plays no part
    resumed = Batches(random_split(), "cpu", 16, 5)
    for a, b in zip(first.epoch(1), resumed.epoch(1), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_seed_and_epoch_change_order_and_crops() -> None:
    def labels(seed: int, epoch: int) -> list[int]:
        batches = Batches(random_split(), "cpu", 50, seed)
        return next(batches.epoch(epoch)).labels.tolist()

    assert len({tuple(labels(s, e)) for s in (0, 1) for e in (0, 1)}) == 4
    same = make_split(random_split(1).images.repeat(32, 1, 1, 1), torch.zeros(32))
    steps = list(Batches(same, "cpu", 16, 0).epoch(0))
    assert not torch.equal(steps[0].images, steps[1].images)


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_batch_sizes_are_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"batch size {size}"):
        Batches(random_split(50), "cpu", size, 0)


def test_derived_seeds_depend_on_every_part_and_its_place() -> None:
    parts = [(1, 2), (2, 1), (12,), ("1", "2"), (1, "2"), (1, 2, "crop"), ()]
    seeds = [derive_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(42, 3, 7, "shuffle") == 8738589690549529421


@pytest.mark.slow
def test_augment_makes_40000_images_a_second_on_one_core() -> None:
    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator()
    threads, best = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)  # a busy second core would only be waited for
    try:
        for _ in range(20):
            start = time.perf_counter()
            augment(images, generator)
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert len(images) / best > 40_000


@pytest.mark.gpu
def test_an_epoch_on_cuda_never_waits_for_the_device() -> None:
    batches = Batches(random_split(), "cuda", 16, 0, memory_format=torch.channels_last)
    list(batches.epoch(0))  # the first use of a kernel may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        served = list(batches.epoch(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = [b.labels for b in Batches(random_split(), "cpu", 16, 0).epoch(1)]
    assert torch.equal(torch.cat([b.labels for b in served]).cpu(), torch.cat(expected))
