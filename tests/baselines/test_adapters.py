from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from baselines import natural, robustbench_zoo, timm_models, weights_file
from frbench.compat import robustbench_zoo as zoo
from frbench.errors import FrbenchError, InputError
from frbench.models import NORMALIZATIONS, WeightsMeta, build_model, save_weights

CIFAR = NORMALIZATIONS["cifar10"]


def load(adapter, reference, architecture=None, normalization=None):
    return adapter.load(reference, architecture=architecture, normalization=normalization)


def state_of(architecture, **options):
    torch.manual_seed(0)
    return build_model(architecture, classes=10, **options).net.state_dict()


def test_natural_is_the_undefended_resnet18_of_the_wheel():
    model = load(natural, "")
    assert sum(p.numel() for p in model.module.parameters()) == 11_173_962
    assert (model.target, model.architecture, model.normalization) == ("natural", "resnet18", None)
    assert (model.extra_data, model.certainty) == ("none", "verified")
    assert not model.module.training


def test_natural_takes_no_options():
    with pytest.raises(InputError, match="brings its own architecture"):
        load(natural, "", architecture="wrn-34-10")


def test_file_says_what_it_detected(tmp_path):
    torch.save({"state_dict": state_of("wrn-10-1")}, tmp_path / "mine.pt")
    model = load(weights_file, str(tmp_path / "mine.pt"))
    assert (model.name, model.architecture, model.dataset) == ("file:mine", "wrn-10-1", "cifar10")
    assert model.certainty == "guessed"
    assert model.note == "detected wrn-10-1; state dict under 'state_dict'"


def test_file_normalization_may_be_given(tmp_path):
    torch.save(state_of("quick"), tmp_path / "w.pt")
    model = load(weights_file, str(tmp_path / "w.pt"), "quick", "cifar10")
    assert (model.normalization, model.certainty) == (CIFAR, "declared")
    bare = load(weights_file, str(tmp_path / "w.pt"), "quick", "none")
    assert bare.digest != model.digest
    with pytest.raises(InputError, match=r"unknown normalization 'cifar1'.*cifar10"):
        load(weights_file, str(tmp_path / "w.pt"), "quick", "cifar1")


def test_file_refuses_a_second_normalization(tmp_path):
    inside = {"mean": torch.zeros(3), "std": torch.ones(3)}
    torch.save(state_of("quick") | inside, tmp_path / "w.pt")
    with pytest.raises(InputError, match="has its own normalization"):
        load(weights_file, str(tmp_path / "w.pt"), normalization="cifar10")


def test_file_saved_by_frbench_is_the_same_model_as_in_its_run(tmp_path):
    path = tmp_path / "best.safetensors"
    meta = save_weights(path, state_of("quick"), WeightsMeta("quick", 10, "cifar10", CIFAR))
    model = load(weights_file, str(path))
    assert (model.digest, model.normalization) == (meta.digest, CIFAR)
    assert model.certainty == "verified"


def test_a_run_and_its_plain_state_dict_share_one_digest(tmp_path):
    state = state_of("quick")
    meta = save_weights(tmp_path / "w.safetensors", state, WeightsMeta("quick", 10, "cifar10"))
    torch.save(state, tmp_path / "w.pt")
    assert load(weights_file, str(tmp_path / "w.pt")).digest == meta.digest


def test_file_of_another_number_of_classes_is_refused(tmp_path):
    torch.save(build_model("quick", classes=7).net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="7 classes"):
        load(weights_file, str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match="needs a path"):
        load(weights_file, "")


@pytest.fixture
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FRBENCH_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def wong(folder, change=lambda state: state):
    """A weights file for a small zoo model, as its authors saved it: without the constants."""
    torch.manual_seed(0)
    state = zoo("cifar10", "Linf")["Wong2020Fast"]["model"]().state_dict()
    state = {f"module.{n}": t for n, t in state.items() if n not in ("mu", "sigma")}
    path = folder / "cifar10" / "Linf" / "Wong2020Fast.pt"
    path.parent.mkdir(parents=True)
    torch.save(change(state), path)
    return {n.removeprefix("module."): t for n, t in state.items()}


def test_robustbench_weights_on_disk_need_no_network(models_folder, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    state = wong(models_folder)
    model = load(robustbench_zoo, "Wong2020Fast")
    loaded = model.module.state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in state.items())
    assert loaded["mu"].flatten().tolist() == pytest.approx(CIFAR.mean)
    assert (model.target, model.dataset) == ("robustbench:Wong2020Fast", "cifar10")
    assert (model.architecture, model.extra_data) == ("PreActResNet-18", "none")


def test_robustbench_leftovers_are_loaded_where_the_network_has_them(tmp_path):
    state = {"fc.weight": torch.ones(2, 3), "sub_block1.weight": torch.ones(1, 1)}
    torch.save(state, tmp_path / "w.pt")
    plain = nn.Module()
    plain.fc = nn.Linear(3, 2, bias=False)
    robustbench_zoo.load_state(plain, tmp_path / "w.pt")
    assert torch.equal(plain.fc.weight, state["fc.weight"])
    plain.sub_block1 = nn.Linear(1, 1, bias=False)  # as TRADES' networks have, and never call
    robustbench_zoo.load_state(plain, tmp_path / "w.pt")
    assert torch.equal(plain.sub_block1.weight, state["sub_block1.weight"])


def test_robustbench_own_folder_is_looked_at_too(models_folder, tmp_path):
    wong(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "models2")
    path = robustbench_zoo.weights_path("cifar10", "Linf", "Wong2020Fast")
    assert path.is_relative_to(models_folder)
    own = tmp_path / "models" / "cifar10"
    own.parent.mkdir()
    (tmp_path / "models2" / "cifar10").rename(own)
    assert robustbench_zoo.weights_path("cifar10", "Linf", "Wong2020Fast").is_file()


def test_robustbench_full_names_choose_dataset_and_norm():
    assert robustbench_zoo._parse("L2/Rice2020Overfitting") == (
        "cifar10",
        "L2",
        "Rice2020Overfitting",
    )
    assert robustbench_zoo._parse("cifar100/Linf/X") == ("cifar100", "Linf", "X")
    for wrong in ("", "L2/", "L7/X", "imagenet/X", "L2/L2/X"):
        with pytest.raises(InputError, match="DATASET"):
            robustbench_zoo._parse(wrong)


def test_robustbench_file_of_another_model_names_the_tensor(models_folder):
    def another(state):
        return state | {"module.layer1.0.conv1.weight": torch.zeros(1)}

    wong(models_folder, another)
    with pytest.raises(InputError, match=r"Wong2020Fast\.pt is not this model: 'layer1\.0\.conv1"):
        load(robustbench_zoo, "Wong2020Fast")


def test_robustbench_unknown_id_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'Wong2020Fast'"):
        load(robustbench_zoo, "Wong2020Fst")
    with pytest.raises(InputError, match="no single weights file"):
        load(robustbench_zoo, "Chen2020Adversarial")


@pytest.mark.parametrize("answer", ["no network", "a web page"])
def test_robustbench_without_a_download_says_where_to_put_the_file(
    models_folder, monkeypatch, answer
):
    def download(*, output, **_):
        if answer == "no network":
            raise OSError("Name or service not known")
        with open(output, "w") as file:
            file.write("<!DOCTYPE html>")

    gdown = importlib.import_module("gdown")
    monkeypatch.setattr(gdown, "download", download)
    with pytest.raises(FrbenchError, match=r"put the file .* at .*Linf/Wong2020Fast\.pt") as caught:
        load(robustbench_zoo, "Wong2020Fast")
    assert "\n" not in str(caught.value)
    assert not list(models_folder.rglob("*.pt"))


def test_robustbench_download_is_kept_for_the_next_time(models_folder, monkeypatch, tmp_path):
    wong(tmp_path / "server")
    content = (tmp_path / "server/cifar10/Linf/Wong2020Fast.pt").read_bytes()
    calls = []

    def download(*, output, **_):
        calls.append(output)
        with open(output, "wb") as file:
            file.write(content)

    monkeypatch.setattr(importlib.import_module("gdown"), "download", download)
    digests = {load(robustbench_zoo, "Wong2020Fast").digest for _ in range(2)}
    assert (len(calls), len(digests)) == (1, 1)


def test_timm_models_need_weights_for_our_datasets():
    with pytest.raises(InputError, match=r"1000 classes.*file:PATH --arch timm:resnet18,"):
        load(timm_models, "resnet18")
    with pytest.raises(InputError, match="unknown timm model 'resnet1'"):
        load(timm_models, "resnet1")
    with pytest.raises(InputError, match="'timm:' needs the name"):
        load(timm_models, "")


@pytest.fixture
def timm_folder(tmp_path):
    """Write a small network as others publish theirs, with so many classes; returns it."""
    timm = importlib.import_module("timm")

    def write(classes: int):
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", num_classes=classes).eval()
        net.pretrained_cfg |= {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
        timm.models.save_for_hf(net, tmp_path / "published", safe_serialization=True)
        return net

    return write


def test_a_folder_of_timm_is_loaded_with_its_own_normalization(timm_folder, tmp_path):
    net = timm_folder(10)
    model = load(timm_models, f"local-dir:{tmp_path}/published")
    assert model.normalization.mean == (0.5, 0.5, 0.5)
    assert (model.architecture, model.dataset) == ("timm:resnet10t", "cifar10")
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model.module(images), net((images - 0.5) / 0.2), atol=1e-5)
    (tmp_path / "published").rename(tmp_path / "moved")
    moved = load(timm_models, f"local-dir:{tmp_path}/moved")
    assert moved.digest == model.digest, "where the weights lie is no part of what they are"


def test_a_folder_of_timm_that_does_not_fit_is_one_line(timm_folder, tmp_path):
    timm_folder(7)
    with pytest.raises(InputError, match="published' have 7 classes, the datasets here have 10"):
        load(timm_models, f"local-dir:{tmp_path}/published")
    with pytest.raises(FrbenchError, match="cannot get the weights of 'timm:local-dir:/no/such'"):
        load(timm_models, "local-dir:/no/such")


def test_timm_without_a_network_is_one_line(monkeypatch):
    def offline(name, pretrained):
        raise OSError("cannot reach the hub\nand more")

    monkeypatch.setattr(importlib.import_module("timm"), "create_model", offline)
    with pytest.raises(FrbenchError, match="cannot reach the hub; for weights of your own write"):
        load(timm_models, "hf-hub:someone/resnet18_cifar10")
