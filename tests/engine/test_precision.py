"""bf16 on a CPU only where its weight gradients are defined."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frbench.data import to_float
from frbench.engine.device import find_device
from frbench.engine.plan import resolve
from frbench.engine.precision import blind_convolutions
from frbench.engine.run import RunFolder
from frbench.engine.step import TrainingStep
from frbench.engine.trainer import Trainer
from frbench.errors import InputError
from frbench.models import build_model


@pytest.mark.parametrize(
    ("layer", "size", "blind"),
    [
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), 1, True),
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), 2, True),
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), 4, False),
        (nn.Conv2d(1, 1, 3, padding=1), 1, True),
        (nn.Conv2d(1, 1, 3, padding="same"), 2, False),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), 1, False),
        (nn.Conv2d(1, 1, 1, stride=2), 1, False),
    ],
)
def test_a_tap_that_sees_only_padding_is_found(layer, size, blind):
    model = nn.Sequential(layer).train()
    assert blind_convolutions(model, (1, size, size)) == (["0"] if blind else [])
    assert model.training and not layer._forward_pre_hooks


@pytest.mark.parametrize("architecture", ["quick", "resnet18"])
def test_the_presets_networks_have_none(architecture):
    model = build_model(architecture, classes=10, channels=3)
    assert blind_convolutions(model, (3, 32, 32)) == []


@pytest.fixture
def strided(monkeypatch):
    """Plans of a network that ends in 1x1 maps, on a CPU with bf16."""
    monkeypatch.setattr("frbench.engine.device.has_bf16", lambda _: True)

    def make(**typed):
        return resolve("pgd_at", preset="smoke", overrides={"architecture": "quick", **typed})

    return make


def test_such_a_network_trains_in_float32_and_says_so(strided, small_digits, tmp_path):
    said = []
    folder = RunFolder(tmp_path / "run")
    trainer = Trainer(strided(), small_digits, find_device("cpu"), folder, said.append)
    assert trainer.step.device.precision == trainer.judge.device.precision == "fp32"
    (line,) = said
    assert line.startswith("training in float32: weights of net.stages.1.conv1 see only padding")


def test_typing_bf16_for_it_is_refused(strided, small_digits, tmp_path):
    with pytest.raises(InputError, match="precision=bf16 is not possible here"):
        Trainer(
            strided(precision="bf16"), small_digits, find_device("cpu"), RunFolder(tmp_path / "run")
        )


def test_a_step_in_bf16_descends_along_float32s_gradient(small_digits):
    """The network of the smoke preset; torch emulates bf16 where the CPU has none."""
    plan = resolve("at_fr", preset="smoke", overrides={"fr.start_epoch": "0"})
    images, labels = to_float(small_digits.train.images[:32]), small_digits.train.labels[:32]
    gradients = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = build_model("tiny", classes=10, channels=1).train()
        step = TrainingStep(model, plan.recipe, plan.frame, find_device("cpu", precision))
        step(images, labels, torch.zeros_like(images), epoch=0, lr=0.1)
        gradients[precision] = torch.cat([p.grad.flatten() for p in model.parameters()])
    cosine = torch.nn.functional.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0)
    assert cosine > 0.98
