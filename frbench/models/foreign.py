"""Weights files of other projects: opened without running their code, and brought to our names."""

from __future__ import annotations

import functools
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from frbench.errors import InputError, first_line
from frbench.models.architectures import TIMM, architectures, build_model
from frbench.models.normalization import Normalization, Normalized
from frbench.names import UnknownName

# Where projects keep the network in a checkpoint, the first that is there wins. `rmodel` is MAIR's,
# `net` pytorch-cifar's, `last` that of checkpoints which hold their best and last state.
_STATE_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "rmodel", "net", "model", "network"),
    *("weights", "params", "last", "best"),
)
# Wrappers that leave their name before every tensor: DataParallel, torch.compile, RobustBench's and
# MAIR's models, Sequential(normalize, net).
_PREFIXES = ("module.", "_orig_mod.", "model.", "_model.", "net.", "network.", "basic_model.", "1.")
_CONSTANTS = (("mean", "std"), ("mu", "sigma"), ("_mean", "_std"), ("new_mean", "new_std"))
_HEADS = {"fc", "linear", "classifier", "head", "logits"}
_BOOKKEEPING = {"n_averaged", "n_classes"}
# Networks of larger images, looked at only when none of ours fits.
_TIMM_CANDIDATES = ("timm:resnet18", "timm:resnet34", "timm:resnet50")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ForeignWeights:
    """A network's tensors by bare names, the normalization beside them, and what was seen."""

    path: Path
    tensors: dict[str, torch.Tensor]
    normalization: Normalization | None
    seen: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Outputs of the last linear layer.

        Safetensors keeps tensors by name, so there it is the outermost one that is called a head.
        """
        matrices = [name for name, tensor in self.tensors.items() if tensor.dim() == 2]
        if not matrices:
            return 0
        last = matrices[-1]
        if self.path.suffix == ".safetensors":
            heads = [name for name in matrices if _HEADS.intersection(name.split(".")[-2:-1])]
            last = min(heads, key=lambda name: name.count("."), default=last)
        return self.tensors[last].shape[0]

    @property
    def channels(self) -> int:
        """Inputs of the convolution that sees the image.

        Its kernel may stand anywhere: safetensors keeps tensors by name. Depthwise ones have one.
        """
        inputs = {t.shape[1] for t in self.tensors.values() if t.dim() == 4}
        return 3 if 3 in inputs else min(inputs, default=0)


def read_checkpoint(path: Path) -> Any:
    """The content of a `.pt`, `.pth` or `.safetensors` file; no code of the file is run.

    Raises:
        InputError: no such file, damaged, or a pickle of more than plain values and tensors.
    """
    if not path.is_file():
        raise InputError(f"no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; the errors say enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch call its own parts with anything
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that could not be opened: what it is, rather than how opening failed."""
    if isinstance(error, OSError):
        return InputError(f"cannot read {path}: {error.strerror or first_line(error)}")
    unpickling = isinstance(error, pickle.UnpicklingError)
    code = re.search(r"GLOBAL ([\w.]+)", str(error)) if unpickling else None
    if code or _is_torchscript(path):
        what = f"it holds '{code[1]}'" if code else "it is a TorchScript archive"
        return InputError(
            f"refused {path}: {what}, which only running its code could load; "
            "save the state dict alone, in the project that made it"
        )
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return InputError(f"cannot read {path}: not a weights file, it is empty")
    if min(start) >= ord("\t"):  # what lies below is in every binary format, and in no text
        return InputError(f"cannot read {path}: not a weights file, it is text")
    if unpickling:  # torch explains its own options then
        return InputError(f"cannot read {path}: not a weights file, or damaged")
    return InputError(f"cannot read {path}: damaged or not a weights file ({first_line(error)})")


def _is_torchscript(path: Path) -> bool:
    """Whether torch.jit has saved the file; it alone writes the constants of the code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_foreign(path: Path) -> ForeignWeights:
    """Open a weights file, find its state dict, and bring it to a network's bare names."""
    state, seen = read_state(path)
    state, normalization = _split_normalization(state, seen)
    state = {n: t for n, t in state.items() if n.rpartition(".")[2] not in _BOOKKEEPING}
    state = _strip_prefixes(state, seen)
    if any(name.startswith("sub_block1.") for name in state):
        state = {n: t for n, t in state.items() if not n.startswith("sub_block1.")}
        seen.append("unused sub_block1 dropped")
    return ForeignWeights(path, state, normalization, tuple(seen))


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state dict in a weights file, and under which keys it was (none when at the top).

    Raises:
        InputError: as `read_checkpoint`, or the file holds no state dict.
    """
    content = read_checkpoint(path)
    seen: list[str] = []
    while isinstance(content, Mapping):
        if any(isinstance(v, torch.Tensor) and v.dim() > 0 for v in content.values()):
            return {str(n): v for n, v in content.items() if isinstance(v, torch.Tensor)}, seen
        key = next((k for k in _STATE_KEYS if isinstance(content.get(k), Mapping)), None)
        if key is None:
            keys = ", ".join(str(k) for k in list(content)[:8]) or "nothing"
            raise InputError(f"no state dict in {path}: it holds {keys}")
        seen.append(f"state dict under '{key}'")
        content = content[key]
    raise InputError(f"no state dict in {path}: it holds a {type(content).__name__}")


def _strip_prefixes(state: dict[str, torch.Tensor], seen: list[str]) -> dict[str, torch.Tensor]:
    """Drop the wrappers' names that stand before every tensor."""
    dropped = ""
    while state:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        dropped += prefix
    if dropped:
        seen.append(f"prefix '{dropped}' dropped")
    return state


def detect_architecture(weights: ForeignWeights) -> str:
    """The architecture whose tensors these are, by names and shapes.

    Raises:
        InputError: none fits; names the nearest, if any is near, and the first tensor that differs.
    """
    ours = [*architectures(), *_wide_resnet_name(weights.tensors)]
    for candidates in (ours, _TIMM_CANDIDATES):
        for name in candidates:
            if _difference(weights, name) is None:
                return name
    nearest = max(ours, key=lambda name: _similarity(weights, name))
    share = f"{_similarity(weights, nearest):.0%}"
    if share == "0%":
        raise InputError(
            f"cannot tell the architecture of {weights.path}: none of ours has such tensors; "
            "name one of timm's with '--arch timm:NAME'; docs/own-models.md says how to bring "
            "a network of your own"
        )
    raise InputError(
        f"cannot tell the architecture of {weights.path}; nearest is '{nearest}' "
        f"({share} of the tensors), but {_difference(weights, nearest)}"
    )


def fit(weights: ForeignWeights, architecture: str) -> Normalized:
    """Build the architecture, without normalization, and load the tensors; in eval mode.

    Raises:
        InputError: names the first tensor that differs, and the architecture that would fit.
    """
    difference = _difference(weights, architecture)
    if difference is not None:
        try:
            hint = f"they fit '{detect_architecture(weights)}'"
        except InputError as error:
            hint = str(error)
        raise InputError(f"{weights.path} does not fit '{architecture}': {difference}; {hint}")
    model = build_model(architecture, classes=weights.classes, channels=weights.channels)
    tensors = _renamed(weights, _shapes(architecture, weights.classes, weights.channels)).tensors
    model.net.load_state_dict(tensors)
    return model.eval()


def _split_normalization(
    state: dict[str, torch.Tensor], seen: list[str]
) -> tuple[dict[str, torch.Tensor], Normalization | None]:
    """Take the pair of constants (mean, std) out of a state dict."""
    for mean_name, std_name in _CONSTANTS:
        for name in [n for n in state if n.rpartition(".")[2] == mean_name]:
            partner = name.removesuffix(mean_name) + std_name
            if partner not in state or state[name].numel() not in (1, 3):
                continue
            mean, std = state[name].flatten().tolist(), state[partner].flatten().tolist()
            rest = {n: t for n, t in state.items() if n not in (name, partner)}
            # MAIR writes both beside `n_classes` and does not apply them; it applies a layer's.
            if name == mean_name and "n_classes" in state:
                seen.append("constants of MAIR that it does not apply")
                return rest, None
            seen.append("normalization in the file")
            return rest, Normalization(tuple(mean), tuple(std))
    return state, None


def _renamed(weights: ForeignWeights, expected: Shapes) -> ForeignWeights:
    """torchvision's names for a residual network in place of robustbench's, where that helps."""
    if "linear.weight" not in expected or "linear.weight" in weights.tensors:
        return weights
    tensors = {
        re.sub(r"^fc\.", "linear.", n.replace(".downsample.", ".shortcut.")): t
        for n, t in weights.tensors.items()
    }
    return replace(weights, tensors=tensors)


def _difference(weights: ForeignWeights, architecture: str) -> str | None:
    """The first tensor in which the weights are not this architecture's; None when they fit."""
    try:
        expected = _shapes(architecture, weights.classes, weights.channels)
    except UnknownName:
        raise  # the user's mistake; that the network takes another number of channels is not
    except InputError as error:
        return str(error)
    tensors = _renamed(weights, expected).tensors
    for name, shape in expected.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):
                continue  # files older than PyTorch 0.4.1 lack it, and inference does not need it
            return f"it has no '{name}'"
        if tuple(tensors[name].shape) != shape:
            return f"'{name}' is {tuple(tensors[name].shape)}, not {shape}"
    extra = next((name for name in tensors if name not in expected), None)
    return None if extra is None else f"it has '{extra}' besides"


def _similarity(weights: ForeignWeights, architecture: str) -> float:
    """Share of tensors with the same name and shape among all of both, in [0, 1]."""
    try:
        expected = _shapes(architecture, weights.classes, weights.channels)
    except InputError:
        return 0.0
    tensors = _renamed(weights, expected).tensors
    same = sum(n in expected and tuple(t.shape) == expected[n] for n, t in tensors.items())
    return same / len(expected.keys() | tensors.keys())


@functools.lru_cache(maxsize=64)
def _shapes(architecture: str, classes: int, channels: int) -> Shapes:
    """Shape of every tensor of a network, without allocating it where that is possible."""
    with torch.device("cpu" if architecture.startswith(TIMM) else "meta"):
        model = build_model(architecture, classes=max(classes, 1), channels=channels)
    return {name: tuple(t.shape) for name, t in model.net.state_dict().items()}


def _wide_resnet_name(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """`wrn-D-W` as the blocks' number and width tell, if these are a wide residual network's."""
    blocks = {n.split(".")[2] for n in tensors if n.startswith("block1.layer.")}
    first = tensors.get("block1.layer.0.conv1.weight")
    if first is None:
        return []
    return [f"wrn-{6 * len(blocks) + 4}-{first.shape[0] // 16}"]
