"""Weights on disk: safetensors with all that is needed to build the model again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from frbench import storage
from frbench.errors import InputError
from frbench.models.architectures import build_model
from frbench.models.normalization import Normalization, Normalized, network_state


@dataclass(frozen=True)
class WeightsMeta:
    """What a weights file says of itself.

    Attributes:
        digest: of tensors, architecture and normalization, from `weights_digest`; filled in by
            `save_weights`, verified by `load_weights`.
        extra: anything that JSON can hold; not part of the digest.
    """

    architecture: str
    classes: int
    dataset: str
    normalization: Normalization | None = None
    channels: int = 3
    extra: dict[str, Any] = field(default_factory=dict)
    digest: str = ""


def weights_digest(
    state_dict: Mapping[str, torch.Tensor],
    architecture: str,
    normalization: Normalization | None,
) -> str:
    """SHA-256 of a model: names, types, shapes and bytes of its tensors, and what builds it.

    A network has the same digest with and without its `Normalized` wrapper, on every device and in
    every memory format.
    """
    digest = hashlib.sha256(f"{architecture}\n{_encode(normalization)}\n".encode())
    for name, tensor in sorted(network_state(state_dict).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(
    path: Path, state_dict: Mapping[str, torch.Tensor], meta: WeightsMeta
) -> WeightsMeta:
    """Write a weights file atomically.

    Args:
        path: of the file, usually `*.safetensors`.
        state_dict: of the network or of its `Normalized` wrapper; the file has the network's names.
        meta: what builds it; its digest is computed here.

    Returns:
        `meta` with the digest.
    """
    meta = dataclasses.replace(
        meta, digest=weights_digest(state_dict, meta.architecture, meta.normalization)
    )
    tensors = {n: t.detach().cpu().contiguous() for n, t in network_state(state_dict).items()}
    strings = {
        "format": "pt",
        "architecture": meta.architecture,
        "classes": str(meta.classes),
        "channels": str(meta.channels),
        "dataset": meta.dataset,
        "normalization": _encode(meta.normalization),
        "digest": meta.digest,
        "extra": json.dumps(meta.extra, sort_keys=True),
    }
    storage.write_bytes(path, safetensors.torch.save(tensors, strings))
    return meta


def is_ours(path: Path) -> bool:
    """Whether a file is safetensors with frbench's metadata; False for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            return {"architecture", "digest"} <= (file.metadata() or {}).keys()
    except (SafetensorError, OSError):
        return False


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], WeightsMeta]:
    """The network's tensors (on the CPU) and their metadata, verified against the digest.

    Raises:
        InputError: no such file, not one of ours, truncated or altered.
    """
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        why = "no such file" if not path.is_file() else f"damaged or not safetensors: {error}"
        raise InputError(f"cannot read weights {path}: {why}") from None
    meta = _decode(path, strings)
    if meta.digest != weights_digest(tensors, meta.architecture, meta.normalization):
        raise InputError(f"weights {path} were altered: their digest does not match")
    return tensors, meta


def blank_model(meta: WeightsMeta) -> Normalized:
    """The model that weights of this kind fit, freshly initialized, in training mode.

    Raises:
        InputError: as `build_model`.
    """
    return build_model(
        meta.architecture,
        classes=meta.classes,
        normalization=meta.normalization,
        channels=meta.channels,
    )


def load_weights(path: Path) -> tuple[Normalized, WeightsMeta]:
    """The model of a weights file, in eval mode on the CPU, and the file's metadata.

    Raises:
        InputError: as `read_weights`, or the tensors do not fit the architecture.
    """
    tensors, meta = read_weights(path)
    model = blank_model(meta)
    try:
        model.net.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).split("\n")[1:2] or [str(error)]
        raise InputError(
            f"weights {path} do not fit their architecture {meta.architecture}: {first[0].strip()}"
        ) from None
    return model.eval(), meta


def _encode(normalization: Normalization | None) -> str:
    return json.dumps(None if normalization is None else dataclasses.asdict(normalization))


def _decode(path: Path, strings: Mapping[str, str]) -> WeightsMeta:
    try:
        constants = json.loads(strings["normalization"])
        normalization = None
        if constants is not None:
            normalization = Normalization(tuple(constants["mean"]), tuple(constants["std"]))
        return WeightsMeta(
            architecture=strings["architecture"],
            classes=int(strings["classes"]),
            dataset=strings["dataset"],
            normalization=normalization,
            channels=int(strings["channels"]),
            extra=json.loads(strings["extra"]),
            digest=strings["digest"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"weights {path} have no frbench metadata ({error}); "
            "use 'file:PATH --arch NAME' for weights from outside"
        ) from None
