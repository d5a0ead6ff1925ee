"""How many images a chunk has: the preset's number, or the fastest one, found once."""

from __future__ import annotations

import json

import pytest
import torch

from frbench.evaluation import batch
from frbench.evaluation.batch import SIZES, fastest_batch, preset_batch

CPU = torch.device("cpu")
DIGIT = (1, 8, 8)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FRBENCH_CACHE", str(tmp_path))
    return tmp_path / "batches"


@pytest.fixture
def rates(monkeypatch):
    """Images a second that a device is said to reach, by batch, and the batches tried."""
    known, tried = dict.fromkeys(SIZES, 100.0), []

    def rate(model, n, *_):
        tried.append(n)
        if known[n] is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return known[n]

    monkeypatch.setattr(batch, "_rate", rate)
    return known, tried


@pytest.mark.parametrize(
    ("preset", "images"), [("resnet18", 1000), ("quick", 256), (None, 256), ("gone", 256)]
)
def test_a_run_has_the_number_of_its_preset(target, preset, images):
    assert preset_batch(target.record.model_copy(update={"preset": preset})) == images


@pytest.mark.parametrize(
    ("faster", "best"),
    [
        ({}, 64),
        ({128: 110.0}, 128),
        ({128: 104.0, 256: 1000.0}, 64),
        ({128: 200.0, 256: 400.0, 512: None}, 256),
        ({n: float(n) for n in SIZES}, SIZES[-1]),
    ],
)
def test_larger_chunks_must_earn_their_memory(target, cache, rates, faster, best):
    rates[0].update(faster)
    assert fastest_batch(target, DIGIT, CPU, "exact", lambda _: None) == best


def test_what_was_found_is_remembered_for_this_device_model_and_search(target, cache, rates):
    known, tried = rates
    known[128] = 200.0
    said = []
    assert fastest_batch(target, DIGIT, CPU, "exact", said.append) == 128
    assert "--batch 128 is the fastest" in said[-1]
    (path,) = cache.iterdir()
    assert json.loads(path.read_text())["architecture"] == target.record.architecture
    tried.clear()
    known[128] = 1.0
    assert fastest_batch(target, DIGIT, CPU, "exact", said.append) == 128 and not tried
    assert fastest_batch(target, DIGIT, CPU, "fast", said.append) == 64 and tried
    for damage in ("{", "[]", "{}"):
        path.write_text(damage)
        assert fastest_batch(target, DIGIT, CPU, "exact", said.append) == 64


@pytest.mark.parametrize("search", ["exact", "fast"])
def test_trying_leaves_the_model_as_it_was(target, cache, search):
    before = {name: t.clone() for name, t in target.model.state_dict().items()}
    frozen = [p.requires_grad for p in target.model.parameters()]
    assert fastest_batch(target, DIGIT, CPU, search, lambda _: None) in SIZES
    assert all(torch.equal(t, before[name]) for name, t in target.model.state_dict().items())
    assert [p.requires_grad for p in target.model.parameters()] == frozen
    assert not any(p.grad is not None for p in target.model.parameters())
