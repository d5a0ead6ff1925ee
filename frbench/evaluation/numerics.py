"""What makes a verdict trustworthy: full precision, sound inputs, sound logits, a checked ball."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from frbench.attacks import AttackSpec, seeded
from frbench.data import to_float
from frbench.errors import FrbenchError, InputError

# x + delta is rounded to float32 near 1 (half a unit in the last place is 3e-8), so an honest
# attack may exceed eps by about 1e-7 a pixel, and by up to sqrt(3072) of these in L2. Both
# tolerances are below three thousandths of one grey level.
TOLERANCE = {"Linf": 1e-6, "L2": 1e-5}


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """IEEE float32 without TF32, bf16 or autocast, and the same kernels at every call."""
    cudnn = torch.backends.cudnn
    matmul = torch.get_float32_matmul_precision()
    saved = (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = saved


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters take no gradient inside: attacks need that of the input alone, a third cheaper."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def check_ready(model: nn.Module, name: str) -> None:
    """Raise InputError unless the model is in eval mode, all of it, and has float32 weights."""
    for part, module in model.named_modules():
        if module.training:  # a BatchNorm would judge by its batch, and learn from it
            where = f"{part} of model '{name}'" if part else f"model '{name}'"
            raise InputError(f"{where} is in training mode: call eval() before evaluating it")
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.dtype is not torch.float32:
            raise InputError(f"model '{name}': {key} is {value.dtype}, verdicts need float32")


def as_images(pixels: Tensor, device: torch.device) -> Tensor:
    """Float32 images in [0, 1] on `device`, from uint8 pixels or from floats in [0, 1]."""
    if pixels.dtype is torch.uint8:
        return to_float(pixels.to(device))
    images = pixels.to(device, torch.float32).contiguous()
    if not bool(((images >= 0) & (images <= 1)).all()):  # false for NaN as well
        low, high = float(images.min()), float(images.max())
        raise InputError(
            f"images range from {low:.3g} to {high:.3g}, not in [0, 1]: give raw pixels, the "
            "model normalizes them itself"
        )
    return images


def check_logits(logits: object, images: int, classes: int, name: str) -> None:
    """Raise InputError unless `logits` is a finite (images, classes) tensor of full precision."""
    if not isinstance(logits, Tensor):  # some networks return features beside them
        raise InputError(f"model '{name}' returns a {type(logits).__name__}: expected logits alone")
    if logits.dtype not in (torch.float32, torch.float64):
        raise InputError(f"model '{name}' returns {logits.dtype}: verdicts need float32 logits")
    if logits.ndim != 2 or logits.shape[0] != images:
        raise InputError(
            f"model '{name}' maps {images} images to shape {tuple(logits.shape)}: expected logits "
            f"of shape ({images}, {classes})"
        )
    if logits.shape[1] != classes:
        raise InputError(
            f"model '{name}' has {logits.shape[1]} outputs, the data have {classes} classes: "
            "choose the data set that it was trained on"
        )
    bad = ~torch.isfinite(logits).all(dim=1)
    if bool(bad.any()):
        raise InputError(
            f"model '{name}' returns NaN or infinite logits for {int(bad.sum())} of {images} "
            "images: its weights are damaged, or it expects inputs other than [0, 1]"
        )


def correct(
    model: nn.Module, images: Tensor, labels: Tensor, *, classes: int, name: str, seed: int
) -> Tensor:
    """Which images (n, c, h, w) the model assigns to their `labels`: bool (n,), one forward pass.

    A model that draws random numbers draws the same ones each time, but not the attack's.
    """
    with torch.no_grad(), seeded(seed + 1):
        logits = model(images)
    check_logits(logits, len(images), classes, name)
    predictions: Tensor = logits.argmax(dim=1)
    return predictions == labels


def check_ball(
    adversarial: Tensor, images: Tensor, spec: AttackSpec, stage: str, indices: list[int]
) -> None:
    """Raise FrbenchError unless every adversarial image is in the eps ball and in [0, 1].

    Args:
        adversarial: float images (n, c, h, w) that an attack returned.
        images: the clean ones.
        spec: whose norm and eps count.
        stage: of the attack, for the message.
        indices: number of each image in its split, for the message.
    """
    if adversarial.shape != images.shape:
        raise FrbenchError(f"attack {spec.name} ({stage}) returned shape {adversarial.shape}")
    delta = (adversarial.double() - images.double()).flatten(1)
    if spec.eps == 0 or spec.norm == "Linf":
        length = delta.abs().amax(dim=1)
    else:
        length = torch.linalg.vector_norm(delta, dim=1)
    inside = ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(dim=1)
    wrong = ~(inside & (length <= spec.eps + TOLERANCE[spec.norm]))  # true for NaN as well
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise FrbenchError(
            f"attack {spec.name} ({stage}) left its limits on image {indices[first]}: distance "
            f"{float(length[first]):.6g} (eps {spec.eps:.6g}), pixels from "
            f"{float(adversarial[first].min()):.6g} to {float(adversarial[first].max()):.6g}; "
            "no verdict was stored for this chunk"
        )
