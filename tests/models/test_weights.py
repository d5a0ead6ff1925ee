from __future__ import annotations

import pytest
import safetensors.torch
import torch

from frbench.errors import InputError
from frbench.models import (
    NORMALIZATIONS,
    WeightsMeta,
    build_model,
    load_weights,
    save_weights,
    weights_digest,
)

CIFAR = NORMALIZATIONS["cifar10"]


def saved(path, **changes):
    torch.manual_seed(0)
    model = build_model("quick", classes=10, normalization=CIFAR)
    model(torch.rand(8, 3, 32, 32))  # so that BatchNorm statistics are not all zero and one
    meta = WeightsMeta("quick", 10, "cifar10", CIFAR, extra={"epoch": 3}, **changes)
    return model.eval(), save_weights(path, model.state_dict(), meta)


def test_round_trip_is_bit_equal(tmp_path):
    model, meta = saved(tmp_path / "w.safetensors")
    loaded, read = load_weights(tmp_path / "w.safetensors")
    assert read == meta
    assert read.extra == {"epoch": 3}
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), loaded(x))


def test_the_file_holds_the_bare_networks_names(tmp_path):
    saved(tmp_path / "w.safetensors")
    names = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert "stem.weight" in names


def test_channels_last_weights_are_the_same_weights(tmp_path):
    model, meta = saved(tmp_path / "w.safetensors")
    state = model.to(memory_format=torch.channels_last).state_dict()
    again = save_weights(tmp_path / "again.safetensors", state, meta)
    assert again.digest == meta.digest


def test_digest_changes_with_any_tensor_and_with_what_builds_the_model():
    state = build_model("tiny", classes=10, channels=1).state_dict()
    digest = weights_digest(state, "tiny", None)
    for name, tensor in state.items():
        changed = {**state, name: tensor + 1}
        assert weights_digest(changed, "tiny", None) != digest, name
    assert weights_digest(state, "quick", None) != digest
    assert weights_digest(state, "tiny", CIFAR) != digest
    weight = next(name for name, tensor in state.items() if tensor.dim() == 2)
    turned = {**state, weight: state[weight].reshape(state[weight].shape[::-1])}  # the same bytes
    assert weights_digest(turned, "tiny", None) != digest
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    assert weights_digest(half, "tiny", None) != digest


def test_digest_does_not_depend_on_order_or_wrapper():
    model = build_model("tiny", classes=10, channels=1)
    digest = weights_digest(model.state_dict(), "tiny", None)
    assert weights_digest(dict(reversed(model.state_dict().items())), "tiny", None) == digest
    assert weights_digest(model.net.state_dict(), "tiny", None) == digest


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    saved(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"w\.safetensors: damaged"):
        load_weights(path)


def test_one_altered_byte_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    saved(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"w\.safetensors were altered"):
        load_weights(path)


def test_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="cannot read weights"):
        load_weights(tmp_path)


def test_foreign_safetensors_point_to_the_file_adapter(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="--arch NAME"):
        load_weights(path)


def test_weights_that_do_not_fit_their_architecture_are_explained(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(1)}, WeightsMeta("tiny", 10, "digits"))
    with pytest.raises(InputError, match="do not fit their architecture tiny"):
        load_weights(path)
