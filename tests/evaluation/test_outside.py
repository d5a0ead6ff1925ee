from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from frbench.data import Dataset, load_dataset
from frbench.data.types import make_split
from frbench.discovery import BrokenModule
from frbench.errors import FrbenchError, InputError
from frbench.evaluation import outside, resolve_target
from frbench.evaluation.outside import adapters, is_outside, load_outside
from frbench.models import Normalized, WeightsMeta, build_model, save_weights
from frbench.models.outside import OutsideModel


@pytest.fixture
def noise(monkeypatch):
    """128 images of noise under the name of every dataset."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = make_split(images, torch.arange(128) % 10)
    dataset = Dataset("cifar10", split, split, tuple("abcdefghij"))
    monkeypatch.setattr(outside, "load_dataset", lambda name: dataset)
    return dataset


def saved(path, change=lambda net: None):
    torch.manual_seed(0)
    net = build_model("quick", classes=10).net
    change(net)
    torch.save(net.state_dict(), path)
    return f"file:{path}"


def test_adapters_are_found_by_scheme():
    assert {"natural", "robustbench", "file", "timm"} <= set(adapters())
    assert is_outside("natural")
    assert is_outside("file:x.pt")
    assert not is_outside("runs/at_fr_swa-quick-s0")


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'robustbench'"):
        load_outside("robustbensch:X")


def test_a_broken_adapter_is_named_with_its_line(tmp_path, monkeypatch):
    path = tmp_path / "mymodel.py"
    path.write_text('SCHEME = "mine"\n\ndef load(:\n')
    broken = (BrokenModule(path, 3, "syntax error: invalid syntax"),)
    monkeypatch.setattr(outside, "discover", lambda package: ({}, broken))
    for text in ("mymodel:x", "mine:x", "mine"):
        with pytest.raises(InputError, match=rf"'{text}' cannot be used: .*mymodel\.py:3: syntax"):
            resolve_target(text, runs_dir=tmp_path)
    with pytest.raises(InputError, match="unknown target 'other:x'"):
        resolve_target("other:x", runs_dir=tmp_path)


def test_a_target_carries_all_that_a_cell_must_know(tmp_path, noise):
    target = load_outside(saved(tmp_path / "w.pt"))
    record = target.record
    assert (record.source, record.name, record.comparable) == ("outside", "file:w", True)
    assert (record.architecture, record.classes, record.dataset) == ("quick", 10, "cifar10")
    assert record.parameters == sum(p.numel() for p in target.model.parameters())
    assert record.extra_data == "unknown"
    assert "detected quick" in record.note
    assert "on 128 training images; warning: this is near chance" in record.note
    assert not target.model.training
    assert not any(p.requires_grad for p in target.model.parameters())


def test_training_data_that_nobody_knows_is_taken_from_the_user(tmp_path, noise):
    text = saved(tmp_path / "w.pt")
    silent, said = load_outside(text).record, load_outside(text, extra_data="synthetic").record
    assert (silent.extra_data, said.extra_data) == ("unknown", "synthetic")
    assert said.digest == silent.digest  # the same cells, finished ones too
    with pytest.raises(InputError, match="'natural' brings its own extra data: leave out 'extra'"):
        load_outside("natural", extra_data="extra")


def test_nan_weights_are_one_clear_line(tmp_path, noise):
    def poison(net):
        nn.init.constant_(net.linear.bias, float("nan"))

    text = saved(tmp_path / "w.pt", poison)
    with pytest.raises(InputError, match=r"w\.pt' returns NaN or infinite logits for 8 of 8"):
        load_outside(text)


def test_a_dataset_of_another_number_of_classes_is_refused(tmp_path, noise):
    path = tmp_path / "w.safetensors"
    net = build_model("quick", classes=7).net
    save_weights(path, net.state_dict(), WeightsMeta("quick", 7, "cifar10"))
    with pytest.raises(InputError, match=r"w\.safetensors' has 7 outputs, the data have 10"):
        load_outside(f"file:{path}")


def test_a_look_at_images_changes_no_statistics(noise, monkeypatch):
    module = Normalized(build_model("quick", classes=10).net, None)  # in training mode
    model = OutsideModel(module, "m", "mine", "quick", None, "cifar10", 10, "0" * 64, "declared")
    mine = types.SimpleNamespace(load=lambda *_, **__: model)
    monkeypatch.setattr(outside, "adapters", lambda: {"mine": mine})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    after = load_outside("mine").model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_dataset_out_of_reach_does_not_hide_the_model(tmp_path, monkeypatch):
    def offline(name):
        raise FrbenchError("no network")

    monkeypatch.setattr(outside, "load_dataset", offline)
    target = load_outside(saved(tmp_path / "w.pt"))
    assert "not confirmed on images (no network)" in target.record.note


def ours(path, **extra):
    meta = WeightsMeta("quick", 10, "cifar10", extra=extra)
    save_weights(path, build_model("quick", classes=10).net.state_dict(), meta)
    return load_outside(f"file:{path}").record


def test_weights_of_our_own_say_what_trained_them(tmp_path, noise):
    told = {"defense": "at_swa", "preset": "quick", "protocol": "common", "seed": 3, "epoch": 10}
    plain = ours(tmp_path / "w.safetensors", **told, view="best")
    averaged = ours(tmp_path / "w.safetensors", **told, view="swa-last")
    assert (plain.name, plain.defense, plain.weights) == ("file:pgd_at", "pgd_at", "best")
    assert (averaged.defense, averaged.weights) == ("at_swa", "last")
    assert (plain.source, plain.preset, plain.seed, plain.epoch) == ("outside", "quick", 3, 11)
    assert not plain.comparable and "2-step attack in training" in plain.note


def test_weights_of_our_own_are_comparable_as_their_run_is(tmp_path, noise):
    told = {"defense": "at_swa", "preset": "resnet18", "view": "best"}
    path = tmp_path / "w.safetensors"
    assert ours(path, **told).comparable
    assert ours(path, **told, changed=["swa.start_epoch=80"]).comparable
    changed = ours(path, **told, changed=["epochs=3"])
    assert not changed.comparable and "epochs=3" in changed.note
    assert not ours(path, **{**told, "preset": "gone"}).comparable
    assert ours(path, **{**told, "defense": "somebody_elses"}).defense == "somebody_elses"
    assert ours(path).comparable  # nobody says that frbench trained these
    with pytest.raises(InputError, match=r"damaged metadata .*seed=x"):
        ours(path, **told, seed="x")


def test_natural_is_ready_to_attack(noise):
    target = load_outside("natural")
    assert (target.record.name, target.record.parameters) == ("natural", 11_173_962)
    assert target.record.extra_data == "none"


@pytest.mark.slow
@pytest.mark.usefixtures("users_data")
def test_natural_has_its_known_clean_accuracy():
    target, test = load_outside("natural"), load_dataset("cifar10").test
    images, labels = test.images[:1000].float() / 255, test.labels[:1000]
    with torch.no_grad():
        predictions = torch.cat([target.model(x).argmax(1) for x in images.split(100)])
    assert int((predictions == labels).sum()) == 937
