"""What every attack keeps to, and that the libraries' numbers are passed on unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from frbench.attacks import AA_STAGES, AttackSpec, autoattack, build_attack, pgd, seeded, specs
from frbench.attacks.margin import MarginPGD, margin
from frbench.errors import InputError
from frbench.models import build_model

CLASSES = 10
_STAGES = [
    (spec, stage)
    for norm in ("Linf", "L2")
    for spec in specs(norm).values()
    for stage in spec.stages
    if stage not in ("square", "fab-t")  # thousands of passes; see the tests of parity
]


def network(seed: int = 0) -> nn.Module:
    """A small untrained network with BatchNorm and dropout, in eval mode."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8 * 36, CLASSES),
    )
    return model.eval()


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    """Images that touch 0 and 1, with the network's own predictions as labels."""
    images = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images[images < 0.1], images[images > 0.9] = 0.0, 1.0
    with torch.no_grad():
        return images, network()(images).argmax(dim=1)


def linear(weight: Tensor) -> nn.Module:
    """A linear classifier on flattened images, in float64 or float32 as `weight` is."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize(("spec", "stage"), _STAGES, ids=lambda v: getattr(v, "threat_model", v))
def test_attack_stays_in_ball_and_box_and_leaves_the_model_alone(
    spec: AttackSpec, stage: str
) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = batch()
    kept = images.clone()
    attack = build_attack(spec, stage, model, device="cpu", seed=3, classes=CLASSES)
    random_state = torch.get_rng_state()
    adversarial = attack(images, labels)
    assert torch.equal(torch.get_rng_state(), random_state), "the caller's random numbers moved"
    assert torch.equal(images, kept), "the clean images were written to"
    assert adversarial.dtype is torch.float32 and adversarial.is_contiguous()
    assert bool(((adversarial >= 0) & (adversarial <= 1)).all())
    delta = (adversarial.double() - images.double()).flatten(1)
    length = delta.abs().amax(1) if spec.norm == "Linf" else delta.norm(dim=1)
    assert float(length.max()) <= spec.eps + 1e-6
    assert spec.eps == 0 or float(length.max()) > spec.eps / 2, "the attack did nothing"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed"
    assert all(p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(attack(images, labels), adversarial), "the same seed gave other images"


@pytest.mark.parametrize("stage", ["pgd20", "apgd-ce", "apgd-t"])
def test_l2_attacks_take_gradients_of_any_layout(stage: str) -> None:
    torch.manual_seed(0)
    model = build_model("quick", classes=CLASSES).eval()  # its gradients are not contiguous
    images = torch.rand(2, 3, 32, 32)
    labels = model(images).argmax(dim=1)
    spec = specs("L2")["pgd20" if stage == "pgd20" else "aa"]
    attack = build_attack(spec, stage, model, device="cpu", seed=0, classes=CLASSES)
    assert bool((attack(images, labels) != images).any())
    assert not model._forward_pre_hooks


def test_random_numbers_of_every_gpu_in_use_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeding reaches all of them."""
    kept: list[list[int]] = []

    def fork_rng(devices: Iterable[int]) -> contextlib.nullcontext[None]:
        kept.append(list(devices))
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    for in_use in (True, False):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda in_use=in_use: in_use)
        with seeded(3):
            pass
    assert kept == [[0, 1], []]


def test_mode_of_every_module_survives_the_attack() -> None:
    model = network()
    model[1].train()  # only one part, as an audit of BatchNorm might
    attack = build_attack(pgd(2), "pgd2", model, device="cpu", seed=0, classes=CLASSES)
    attack(*batch())
    assert [module.training for module in model] == [False, True, False, False, False, False]


@pytest.mark.parametrize("name", ["fgsm", "pgd20"])
def test_equal_to_a_plain_torchattacks_call_of_the_same_seed(name: str) -> None:
    images, labels = batch()
    spec = specs()[name]
    ours = build_attack(spec, name, network(), device="cpu", seed=5, classes=CLASSES)
    adversarial = ours(images, labels)
    plain = {"fgsm": torchattacks.FGSM(network()), "pgd20": torchattacks.PGD(network(), steps=20)}
    torch.manual_seed(5)
    assert torch.equal(adversarial, plain[name](images, labels))


def test_margin_is_that_of_the_reference_values() -> None:
    logits = torch.tensor([[1, 1.5, -0.5], [1, 0.5, 0.5], [2, 0.5, 0]], dtype=torch.float64)
    expected = torch.tensor([0.5, 0.5, -1.5], dtype=torch.float64)
    assert torch.equal(margin(logits, torch.tensor([0, 2, 0])), expected)


def test_margin_pgd_equals_an_independent_loop_on_a_linear_model() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 12, generator=generator, dtype=torch.float64)
    images = torch.rand(5, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    eps, alpha, steps = 0.1, 0.03, 7
    attack = MarginPGD(linear(weight), eps, alpha, steps)
    torch.manual_seed(11)
    ours = attack(images, labels)
    torch.manual_seed(11)
    noise = torch.empty_like(images).uniform_(-eps, eps)
    for i in range(len(images)):  # one image and one coordinate at a time, gradients by hand
        clean, true = images[i].flatten().tolist(), int(labels[i])
        x = [min(max(c + n, 0), 1) for c, n in zip(clean, noise[i].flatten().tolist(), strict=True)]
        for _ in range(steps):
            scores = [sum(w * v for w, v in zip(row, x, strict=True)) for row in weight.tolist()]
            rival = max((s, j) for j, s in enumerate(scores) if j != true)[1]
            for k, c in enumerate(clean):
                slope = float(weight[rival, k] - weight[true, k])
                moved = x[k] + alpha * (1 if slope > 0 else -1)
                x[k] = min(max(min(max(moved, c - eps), c + eps), 0), 1)
        assert torch.allclose(ours[i].flatten(), torch.tensor(x, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pgd_on_two_linear_classes_ends_in_fgsms_vertex(seed: int) -> None:
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(0))
    model = linear(weight)
    eps = 8 / 255
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    images = images * (1 - 2 * eps) + eps
    labels = torch.arange(8) % 2
    options = {"device": "cpu", "seed": seed, "classes": 2}
    vertex = build_attack(specs()["fgsm"], "fgsm", model, **options)(images, labels)
    for name in ("pgd20", "cw"):
        reached = build_attack(specs()[name], name, model, **options)(images, labels)
        assert float((reached - vertex).abs().max()) <= 6e-8, f"{name} missed the vertex"


def test_too_few_classes_for_a_stage_are_refused() -> None:
    for stage in AA_STAGES:
        spec = autoattack(stages=[stage])
        if stage == "apgd-t":
            with pytest.raises(InputError, match="at least 4 classes"):
                build_attack(spec, stage, network(), device="cpu", seed=0, classes=3)
        else:
            build_attack(spec, stage, network(), device="cpu", seed=0, classes=3)


def test_a_column_that_nobody_built_is_no_other_attack() -> None:
    """It must never run PGD under another name."""
    spec = specs()["pgd20"].model_copy(update={"name": "jitter"})
    assert spec.label == "jitter"
    with pytest.raises(InputError, match="no attack is built for the column 'jitter'"):
        build_attack(spec, "pgd20", network(), device="cpu", seed=0, classes=CLASSES)
