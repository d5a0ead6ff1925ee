"""Which device, in which precision: of training, and of the search on held-out images."""

from __future__ import annotations

import pytest
import torch

from frbench.engine import device
from frbench.engine.device import find_device
from frbench.engine.plan import resolve
from frbench.engine.run import RunFolder
from frbench.engine.trainer import Trainer


def test_a_gpu_named_by_number_becomes_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    found = find_device("cuda:1")
    assert found.device == torch.device("cuda:1") and current == [found.device]
    find_device("cuda")
    assert len(current) == 1


@pytest.mark.parametrize("instructions", [False, True])
def test_cpu_trains_in_float32_and_searches_in_bf16_where_it_can(monkeypatch, instructions):
    monkeypatch.setattr(device, "has_bf16", lambda _: instructions)
    found = find_device("cpu")
    assert (found.precision, found.search) == ("fp32", "bf16" if instructions else "fp32")


def test_a_precision_that_was_typed_holds_for_the_search_too(monkeypatch, small_digits, tmp_path):
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    plan = resolve("pgd_at", preset="smoke", overrides={"precision": "fp32"})
    trainer = Trainer(plan, small_digits, find_device("cpu"), RunFolder(tmp_path / "run"))
    assert trainer.judge.device.search == "fp32"
    assert trainer._info(finished=False)["held_out_search"] == "fp32"
