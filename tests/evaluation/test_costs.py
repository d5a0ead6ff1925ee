"""Forecasts of an evaluation come from a fair timing of the model."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from frbench.errors import FrbenchError
from frbench.evaluation import Cell, ModelRecord, costs

IMAGES, LABELS = torch.rand(128, 1, 2, 2), torch.zeros(128, dtype=torch.int64)


class Clocked(nn.Module):
    """A linear model whose first pass takes a minute and every later one a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now, self.sizes = 0.0, list[int]()
        monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def forward(self, images: Tensor) -> Tensor:
        self.now += 1.0 if self.sizes else 60.0
        self.sizes.append(len(images))
        return images.flatten(1)


def test_start_up_is_no_part_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Clocked(monkeypatch)
    speed = costs.measure(model, IMAGES, LABELS, eps=0.1)
    assert speed.forward == pytest.approx(1 / len(IMAGES))
    assert speed.backward == pytest.approx(0)
    assert set(model.sizes) == {len(IMAGES)}


def test_the_clock_is_read_once_a_gpu_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    costs._now(SimpleNamespace(is_cuda=True, device="cuda:1"))  # type: ignore[arg-type]
    costs._now(IMAGES)
    assert done == ["cuda:1"]


def test_a_gpu_is_timed_with_whole_chunks_and_a_cpu_with_few_images() -> None:
    assert costs.probe_images(torch.device("cuda", 1), 1000) == 1000
    assert costs.probe_images(torch.device("cpu"), 1000) == costs.PROBE_IMAGES


def test_what_is_left_of_autoattack_counts_the_images_that_will_reach_each_stage(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    """A model that takes a second a forward pass, and that half of the images should resist."""
    speed = costs.Speed(1.0, 0.0, surviving=0.5)
    first, later = 103, (2 + 9 * 102) + (2 + 9 * 203) + 5004

    def left(clean: str, apgd: str) -> float:
        waiting = dict.fromkeys(("apgd-t", "fab-t", "square"), "." * 10)
        verdicts = {"clean": clean, "apgd-ce": apgd, **waiting}
        return speed.remaining(make_cell(model_record("at_fr"), "aa", verdicts))

    assert left("." * 10, "." * 10) == 10 + 10 * first + 5 * later
    assert left("1" * 8 + "00", "." * 8 + "00") == 8 * first + 5 * later
    assert left("1" * 4 + "0" * 6, "." * 4 + "0" * 6) == 4 * first + 4 * later
    assert left("1" * 8 + "00", "1" * 7 + "000") == 7 * (2 + 9 * 102) + 5 * (later - (2 + 9 * 102))


@pytest.mark.parametrize("most", [100, 32, 31])
def test_a_chunk_that_memory_cannot_hold_is_halved(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    class Small(Clocked):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            if len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return logits

    model = Small(monkeypatch)
    if most < costs.PROBE_IMAGES:
        with pytest.raises(FrbenchError, match="while trying the model on 32 images"):
            costs.measure(model, IMAGES, LABELS, eps=0.1)
    else:
        fits = 64 if most == 100 else 32
        assert costs.measure(model, IMAGES, LABELS, eps=0.1).forward == pytest.approx(1 / fits)


def test_processes_share_whole_chunks_of_what_is_left(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    """PGD-20 costs 21 forward passes of a second; three chunks for two processes are two rounds."""
    cell = make_cell(model_record("at_fr"), "pgd20", "10" + "." * 6, batch=2)
    times = [costs.Speed(1.0, 0.0, surviving=0.5, jobs=jobs).remaining(cell) for jobs in (1, 2, 9)]
    assert times == [21.0 * 6, 21.0 * 4, 21.0 * 2]
