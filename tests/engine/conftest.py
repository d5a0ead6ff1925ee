from __future__ import annotations

import copy
import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frbench import discovery
from frbench.data import to_float
from frbench.engine.device import Device, find_device
from frbench.engine.plan import resolve
from frbench.engine.registry import defenses
from frbench.engine.step import TrainingStep
from frbench.models import build_model


class Pretender(Device):
    """A CPU that says it is CUDA."""

    @property
    def cuda(self):
        return True


@pytest.fixture
def pretender():
    """Make such a device, of a precision."""
    return lambda precision: Pretender(torch.device("cpu"), precision)


@pytest.fixture(scope="session")
def batch(small_digits):
    """32 real digits, float32 in [0, 1], and their labels."""
    images, labels = small_digits.train.images[:32], small_digits.train.labels[:32]
    return SimpleNamespace(
        images=to_float(images, memory_format=torch.channels_last), labels=labels
    )


@pytest.fixture(scope="session")
def _fresh(batch):
    """Half trained, so that logits differ and some images are still misclassified."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("tiny", classes=10, channels=1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(12):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    return model


@pytest.fixture
def model(_fresh):
    """A tiny half-trained network in train mode, with the same weights in every test."""
    return copy.deepcopy(_fresh)


@pytest.fixture
def make_step(_fresh):
    """Build a training step of a defense on the tiny network: (name, protocol, key=value...)."""

    def build(name, protocol="common", network=None, **overrides):
        text = {key.replace("__", "."): str(value) for key, value in overrides.items()}
        plan = resolve(name, preset="smoke", protocol=protocol, overrides=text)
        network = copy.deepcopy(_fresh) if network is None else network
        return TrainingStep(network, plan.recipe, plan.frame, find_device("cpu", "fp32"))

    return build


@pytest.fixture
def one_step(batch):
    """Take one step and give its loss; every mechanism has started by the default epoch."""

    def take(step, *, epoch=99, lr=0.1, seed=0, labels=None):
        generator = torch.Generator().manual_seed(seed)
        noise = step.recipe.attack.initial_noise(batch.images, generator)
        labels = batch.labels if labels is None else labels
        return step(batch.images, labels, noise, epoch=epoch, lr=lr)

    return take


@pytest.fixture
def own_defenses(tmp_path, monkeypatch):
    """Add files to a copy of `defenses/` that lives for one test: own_defenses(name=text)."""
    monkeypatch.setattr(discovery, "PROJECT_ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    here = Path(__file__).resolve().parents[2] / "defenses"
    shutil.copytree(here, tmp_path / "defenses", ignore=shutil.ignore_patterns("__pycache__"))
    before = {name: module for name, module in sys.modules.items() if _of_defenses(name)}

    def forget():
        for name in [n for n in sys.modules if _of_defenses(n)]:
            del sys.modules[name]
        importlib.invalidate_caches()
        discovery.discover.cache_clear()

    def add(**files):
        for name, text in files.items():
            (tmp_path / "defenses" / f"{name}.py").write_text(text)
        forget()
        return defenses()[0]

    yield add
    forget()
    sys.modules.update(before)


def _of_defenses(name):
    return name == "defenses" or name.startswith("defenses.")
