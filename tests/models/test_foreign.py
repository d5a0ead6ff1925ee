from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from frbench.errors import InputError
from frbench.models import NORMALIZATIONS, build_model, foreign
from frbench.models.foreign import (
    ForeignWeights,
    detect_architecture,
    fit,
    read_foreign,
)

CIFAR = NORMALIZATIONS["cifar10"]
IMAGE = torch.zeros(1, 3, 8, 8)
WIDE = "wrn-10-1"  # a wide ResNet small enough for a test, with the names of all of them


def network_state(architecture=WIDE, classes=10, channels=3):
    torch.manual_seed(0)
    return build_model(architecture, classes=classes, channels=channels).net.state_dict()


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def constants(mean_name, std_name):
    shape = (1, 3, 1, 1)
    return {
        mean_name: torch.tensor(CIFAR.mean).view(shape),
        std_name: torch.tensor(CIFAR.std).view(shape),
    }


def assert_loads(path, state, architecture=WIDE):
    weights = read_foreign(path)
    model = fit(weights, architecture)
    assert not model.training
    for name, tensor in model.net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    return weights


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda s: s, id="TRADES, MART: the bare state dict"),
        pytest.param(lambda s: prefixed(s, "module."), id="AWP: DataParallel"),
        pytest.param(
            lambda s: {"state_dict": prefixed(s, "module."), "epoch": 3}, id="AWP: resume"
        ),
        pytest.param(lambda s: {"net": s, "acc": 0.5}, id="pytorch-cifar"),
        pytest.param(lambda s: {"model_state_dict": s, "optimizer": {"lr": 0.1}}, id="tutorial"),
        pytest.param(lambda s: {"rmodel": prefixed(s, "model.")}, id="MAIR"),
        pytest.param(lambda s: {"last": {"state_dict": s}, "best": {}}, id="last and best"),
        pytest.param(lambda s: prefixed(s, "_orig_mod.module."), id="compiled and parallel"),
        pytest.param(
            lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)}, id="AveragedModel"
        ),
    ],
)
def test_state_dicts_of_other_projects_are_found(tmp_path, wrap):
    state = network_state()
    torch.save(wrap(state), tmp_path / "w.pt")
    assert assert_loads(tmp_path / "w.pt", state).normalization is None


@pytest.mark.parametrize(
    ("mean", "std", "prefix"),
    [
        ("mean", "std", "model."),
        ("normalize.mean", "normalize.std", "model."),
        ("0.mean", "0.std", "1."),
        ("module.0.mean", "module.0.std", "module.1."),
        ("mu", "sigma", ""),
        ("normalizer.new_mean", "normalizer.new_std", "model."),
    ],
)
def test_normalization_inside_the_file_is_detected(tmp_path, mean, std, prefix):
    state = network_state()
    torch.save(prefixed(state, prefix) | constants(mean, std), tmp_path / "w.pt")
    found = assert_loads(tmp_path / "w.pt", state).normalization
    assert found.mean == pytest.approx(CIFAR.mean)
    assert found.std == pytest.approx(CIFAR.std)


def test_constants_that_mair_does_not_apply_are_not_a_normalization(tmp_path):
    state = network_state()
    content = prefixed(state, "model.") | constants("mean", "std")
    torch.save({"rmodel": content | {"n_classes": torch.tensor(10)}}, tmp_path / "w.pt")
    weights = assert_loads(tmp_path / "w.pt", state)
    assert weights.normalization is None
    assert any("MAIR" in remark for remark in weights.seen)


def test_the_block_that_trades_constructs_and_never_calls_is_dropped(tmp_path):
    state = network_state()
    unused = {n.replace("block1.", "sub_block1."): t for n, t in state.items() if "block1." in n}
    torch.save(prefixed(state | unused, "module."), tmp_path / "w.pt")
    weights = assert_loads(tmp_path / "w.pt", state)
    assert "unused sub_block1 dropped" in weights.seen


def test_torchvision_names_of_a_resnet_are_understood(tmp_path):
    state = network_state("resnet18")
    renamed = {
        n.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): t
        for n, t in state.items()
    }
    safetensors.torch.save_file(renamed, tmp_path / "w.safetensors")
    assert detect_architecture(read_foreign(tmp_path / "w.safetensors")) == "resnet18"
    assert_loads(tmp_path / "w.safetensors", state, "resnet18")


def test_files_without_batch_counters_load(tmp_path):
    state = network_state()
    old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pt")
    assert_loads(tmp_path / "w.pt", state)


@pytest.mark.parametrize("name", ["quick", "wrn-10-1", "wrn-16-2", "timm:resnet18"])
@pytest.mark.parametrize("classes", [10, 100])
def test_architecture_is_detected_from_the_shapes(tmp_path, name, classes):
    weights = ForeignWeights(tmp_path, network_state(name, classes), None, ())
    assert (detect_architecture(weights), weights.classes) == (name, classes)


@pytest.mark.parametrize(
    "name", ["wrn-28-10", "wrn-34-10", "preactresnet18", "preactresnet18-no-bn", "resnet18"]
)
def test_large_architectures_are_told_apart(tmp_path, name):
    with torch.device("meta"):
        state = build_model(name, classes=10).net.state_dict()
    assert detect_architecture(ForeignWeights(tmp_path, state, None, ())) == name


@pytest.mark.parametrize("name", ["wrn-10-1", "quick", "preactresnet18"])
def test_safetensors_without_our_metadata_load_whatever_order_they_keep(tmp_path, name):
    state = network_state(name)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    weights = assert_loads(tmp_path / "w.safetensors", state, name)
    assert detect_architecture(weights) == name


def test_digits_network_is_detected_by_its_channel(tmp_path):
    weights = ForeignWeights(tmp_path, network_state("tiny", channels=1), None, ())
    assert (detect_architecture(weights), weights.channels) == ("tiny", 1)


@pytest.mark.parametrize(
    ("shapes", "classes"),
    [
        ({"head.fc.weight": (10, 768), "layers.0.attn.qkv.weight": (768, 256)}, 10),
        ({"fc.weight": (10, 64), "layer1.0.se.fc.weight": (64, 4)}, 10),
        ({"classifier.weight": (7, 64), "proj.weight": (64, 4)}, 7),
        ({"out.weight": (10, 64), "stem.weight": (64, 4)}, 64),  # no name that tells
    ],
)
def test_classes_are_those_of_the_head_where_tensors_are_in_order_of_their_names(shapes, classes):
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    weights = ForeignWeights(Path("w.safetensors"), tensors, None, ())
    assert weights.classes == classes
    ordered = ForeignWeights(Path("w.pt"), dict(reversed(tensors.items())), None, ())
    assert ordered.classes == next(iter(shapes.values()))[0], "the last, as the network has them"


def test_wrong_architecture_names_the_tensor_and_the_one_that_fits(tmp_path):
    torch.save(network_state(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt does not fit 'wrn-16-1'.*'wrn-10-1'"):
        fit(read_foreign(tmp_path / "w.pt"), "wrn-16-1")


def test_wrong_shape_names_the_first_tensor_that_differs(tmp_path):
    state = network_state() | {"block2.layer.0.conv1.weight": torch.zeros(5, 16, 3, 3)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"block2\.layer\.0\.conv1\.weight' is \(5, 16, 3, 3\)"):
        fit(read_foreign(tmp_path / "w.pt"), WIDE)


def test_an_architecture_that_nobody_knows_is_a_near_miss_with_its_guess(tmp_path):
    state = network_state() | {"attention.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"nearest is 'wrn-10-1' \(9\d%.*attention\.weight"):
        detect_architecture(read_foreign(tmp_path / "w.pt"))


def test_an_architecture_that_refuses_the_images_is_a_difference_whatever_it_says(
    tmp_path, monkeypatch
):
    torch.save(network_state("tiny", channels=1), tmp_path / "weights.pt")
    weights = read_foreign(tmp_path / "weights.pt")

    def build_model(architecture, **options):
        if architecture == "timm:odd":
            raise InputError("timm cannot build 'odd' for 1 channels: an unknown stem")
        return foreign_build_model(architecture, **options)

    foreign_build_model = foreign.build_model
    monkeypatch.setattr(foreign, "build_model", build_model)
    with pytest.raises(InputError, match=r"does not fit 'timm:odd': .* they fit 'tiny'"):
        fit(weights, "timm:odd")
    with pytest.raises(InputError, match=r"^unknown timm model"):
        fit(weights, "timm:no_such_network")


def test_a_network_that_is_like_none_of_ours_is_compared_with_none(tmp_path):
    torch.save({"0.weight": torch.zeros(8, 3, 3, 3), "0.bias": torch.zeros(8)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"none of ours has such tensors; .*--arch") as caught:
        detect_architecture(read_foreign(tmp_path / "w.pt"))
    assert "0%" not in str(caught.value) and "nearest" not in str(caught.value)


def test_unknown_architecture_names_the_nearest_name(tmp_path):
    torch.save(network_state(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        fit(read_foreign(tmp_path / "w.pt"), "resnet81")


@pytest.mark.parametrize("place", ["top", "beside the weights"])
@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, place, save):
    made = tmp_path / "made-by-the-pickle"
    bomb = Malicious(made)
    path = tmp_path / "w.pt"
    save(bomb if place == "top" else {"state_dict": network_state(), "x": bomb}, path)
    with pytest.raises(InputError) as caught:
        read_foreign(path)
    assert not made.exists()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_refusal_names_what_the_pickle_holds(tmp_path):
    torch.save({"recordmanager": Malicious(tmp_path / "x")}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"refused .*mkdir.*save the state dict alone"):
        read_foreign(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit itself
@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, IMAGE)])
def test_a_torchscript_archive_is_refused_as_other_code_is(tmp_path, make):
    make(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))).save(tmp_path / "w.pt")
    said = r"^refused .*w\.pt: it is a TorchScript archive, .*; save the state dict alone, in"
    with pytest.raises(InputError, match=said):
        read_foreign(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "empty"), (b"epoch,loss\n0,2.3\n", "text"), ('{"é": 1}'.encode(), "text")],
)
def test_files_without_tensors_are_called_what_they_are(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read .*: not a weights file, it is {what}$"):
        read_foreign(tmp_path / name)


def test_a_file_that_may_not_be_opened_keeps_the_systems_reason(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InputError, match=r"cannot read .*w\.pt: Permission denied$"):
        read_foreign(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>quota exceeded</html>", b"PK\x03"])
def test_files_that_are_no_weights_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*not a weights file"):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_named_wherever_they_are(tmp_path, zipped):
    path = tmp_path / "w.pt"
    torch.save({"conv.weight": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    sound, random = path.read_bytes(), torch.Generator().manual_seed(0)
    said = []
    for place in torch.randint(len(sound), (300,), generator=random).tolist():
        path.write_bytes(sound[:place] + b"(" + sound[place + 1 :])  # a pickle's mark
        try:
            read_foreign(path)  # some bytes are of no consequence
        except InputError as error:
            said.append(str(error))
    assert said and all(str(path) in line and "\n" not in line for line in said)


def test_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(network_state(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cannot read .*w\.pt"):
        read_foreign(path)


def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="it holds epoch, optimizer"):
        read_foreign(tmp_path / "w.pt")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no weights file .*none\.pt"):
        read_foreign(tmp_path / "none.pt")
