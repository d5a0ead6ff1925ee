"""Which device, and in which precision it trains."""

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


@pytest.mark.parametrize(("instructions", "precision"), [(False, "fp32"), (True, "bf16")])
def test_bf16_is_for_hardware_that_has_it(monkeypatch, instructions, precision):
    monkeypatch.setattr(device, "has_bf16", lambda _: instructions)
    assert find_device("cpu").precision == precision
    assert find_device("cpu", "fp32").precision == "fp32"


def test_a_gpu_that_only_emulates_bf16_has_none(monkeypatch):
    def supported(including_emulation=True):
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not device.has_bf16(torch.device("cuda"))


def test_float32_convolutions_stay_float32_on_a_gpu(monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    monkeypatch.setattr(cudnn, "benchmark", False)
    device.Device(torch.device("cuda"), "fp32").prepare()
    assert (cudnn.allow_tf32, cudnn.benchmark) == (False, True)


def test_a_weight_that_changes_between_two_forwards_is_cast_anew():
    """As AWP changes them within one step."""
    layer, images = torch.nn.Linear(4, 4, bias=False), torch.rand(2, 4)
    with find_device("cpu", "bf16").autocast():
        before = layer(images)
        with torch.no_grad():
            layer.weight.mul_(2)
        assert torch.equal(layer(images), 2 * before) and before.dtype is torch.bfloat16


def test_a_typed_precision_holds_wherever_a_run_looks(monkeypatch, small_digits, tmp_path):
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    plan = resolve("pgd_at", preset="smoke", overrides={"precision": "fp32"})
    trainer = Trainer(plan, small_digits, find_device("cpu"), RunFolder(tmp_path / "run"))
    assert trainer.step.device.precision == trainer.judge.device.precision == "fp32"


def test_a_run_goes_on_in_the_precision_it_began_with(monkeypatch, small_digits, tmp_path):
    plan = resolve("pgd_at", preset="smoke")
    for has_bf16, folder, seen in (
        (True, "new", "bf16"),
        (False, "new", "bf16"),
        (False, "other", "fp32"),
        (True, "other", "fp32"),
    ):
        monkeypatch.setattr(device, "has_bf16", lambda _, found=has_bf16: found)
        trainer = Trainer(plan, small_digits, find_device("cpu"), RunFolder(tmp_path / folder))
        assert trainer.step.device.precision == seen
        trainer.folder.write_info(trainer._info(finished=False))


def test_statistics_of_averages_may_use_tf32_where_training_is_in_bf16(pretender, monkeypatch):
    cudnn = torch.backends.cudnn
    devices = {"gpu": pretender("bf16"), "exact": pretender("fp32"), "cpu": find_device("cpu")}
    for before in (False, True):
        monkeypatch.setattr(cudnn, "allow_tf32", before)
        allowed = {}
        for name, chosen in devices.items():
            with chosen.tf32():
                allowed[name] = cudnn.allow_tf32
            assert cudnn.allow_tf32 is before
        assert allowed == {"gpu": True, "exact": False, "cpu": False}
