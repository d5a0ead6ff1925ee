"""From a spec to something that attacks: the one place where the attack libraries are called.

What the libraries do behind the caller's back is undone here: both use torch's global generators,
torchattacks switches the model's mode and prints, pyautoattack seeds from the clock by default.
They are imported where they are called: a command that finds its cells finished needs neither, and
torchattacks takes longer to import than such a command to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from frbench.attacks.spec import AttackSpec
from frbench.errors import InputError

Attacker = Callable[[Tensor, Tensor], Tensor]
# The targeted DLR loss divides by a difference that involves the third and fourth largest logit.
_FEWEST_CLASSES = {"apgd-t": 4, "fab-t": 2}


def build_attack(
    spec: AttackSpec,
    stage: str,
    model: nn.Module,
    *,
    device: torch.device | str,
    seed: int,
    classes: int,
) -> Attacker:
    """One stage of an attack as a function of images and labels.

    Args:
        spec: the column.
        stage: one of `spec.stages`.
        model: in eval mode on `device`; maps images in [0, 1] to logits of shape (n, classes).
        device: where images, labels and model are.
        seed: of the random numbers; the same images, batch and seed give the same result. It is
            what a plain library call after `torch.manual_seed(seed)`, or with `seed=seed` for
            AutoAttack, would draw.
        classes: number of classes of the model.

    Returns:
        A function of float32 images (n, c, h, w) in [0, 1] and int64 labels (n,) that returns
        adversarial images of the same shape, contiguous. The caller's random state, the model's
        mode and its parameters are as before after each call.
    """
    if stage not in spec.stages:
        raise ValueError(f"attack '{spec.name}' has no stage '{stage}'")
    target = torch.device(device)
    if classes < _FEWEST_CLASSES.get(stage, 0):
        raise InputError(
            f"AutoAttack's {stage} needs at least {_FEWEST_CLASSES[stage]} classes, the data have "
            f"{classes}: leave it out with --stages"
        )
    if spec.is_autoattack:
        raw = _autoattack_stage(spec, stage, model, target, seed, classes)
    else:
        raw = _gradient_attack(spec, model, target)

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        # pyautoattack's targeted stages cannot view channels_last images.
        with seeded(seed), _mode_kept(model), _contiguous_gradients(model):
            return raw(images.contiguous(), labels).detach().contiguous()

    return attack


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generators start from `seed` inside and are as they were afterwards."""
    # manual_seed reaches every GPU, so every one that is in use has to be put back.
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count()) if in_use else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


def _gradient_attack(spec: AttackSpec, model: nn.Module, device: torch.device) -> Attacker:
    """FGSM, PGD or the margin attack; the column `clean` leaves images as they are."""
    if spec.name == "clean":
        return lambda images, labels: images
    import torchattacks

    from frbench.attacks.margin import MarginPGD

    with contextlib.redirect_stdout(None):  # it prints when a model has no parameters
        if spec.name == "fgsm":
            attack = torchattacks.FGSM(model, eps=spec.eps)
        elif spec.name == "cw":
            assert spec.step_size is not None and spec.steps is not None
            attack = MarginPGD(model, spec.eps, spec.step_size, spec.steps)
        elif spec.name.startswith("pgd"):
            kind = torchattacks.PGD if spec.norm == "Linf" else torchattacks.PGDL2
            attack = kind(
                model,
                eps=spec.eps,
                alpha=spec.step_size,
                steps=spec.steps,
                random_start=spec.random_start,
            )
        else:
            raise InputError(f"no attack is built for the column '{spec.name}'")
    attack.set_device(device)
    call: Attacker = attack
    return call


def _autoattack_stage(
    spec: AttackSpec, stage: str, model: nn.Module, device: torch.device, seed: int, classes: int
) -> Attacker:
    """One stage with the settings of the standard version, as its own run would call it."""
    from pyautoattack import AutoAttack

    suite = AutoAttack(model, device=device, eps=spec.eps, norm=spec.norm, seed=seed)
    suite.apgd.loss = "ce"
    suite.fab.targeted = True
    for targeted in (suite.apgd_targeted, suite.fab):
        targeted.n_target_classes = min(9, classes - 1)
    part = {
        "apgd-ce": suite.apgd,
        "apgd-t": suite.apgd_targeted,
        "fab-t": suite.fab,
        "square": suite.square,
    }[stage]
    part.seed = seed

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():  # the stages switch gradients on where they need them
            adversarial: Tensor = part.perturb(images, labels)
        return adversarial

    return attack


@contextlib.contextmanager
def _contiguous_gradients(model: nn.Module) -> Iterator[None]:
    """torchattacks' PGDL2 views an image's gradient as a row, whatever layout the network left."""

    def contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        (images,) = inputs
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return images

    hook = model.register_forward_pre_hook(contiguous)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _mode_kept(model: nn.Module) -> Iterator[None]:
    """torchattacks sets whole models to eval and back to train, submodules included."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
