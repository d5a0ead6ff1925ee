"""`robustbench:ID`: a model of RobustBench's zoo; `robustbench:[DATASET/][NORM/]ID` in full.

The zoo's builders make the network; the weights file is opened by us, without running its code.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from frbench import storage
from frbench.compat import robustbench_zoo, shadowed_robustbench_files
from frbench.data import cache_root
from frbench.errors import FrbenchError, InputError
from frbench.models import weights_digest
from frbench.models.foreign import read_checkpoint, read_state
from frbench.models.outside import OutsideModel, refuse_options
from frbench.names import unknown
from frbench.published import RobustBenchEntry, robustbench

SCHEME = "robustbench"
_CLASSES = {"cifar10": 10, "cifar100": 100}
_NORMS = ("Linf", "L2")
# Constants that builders register and some files lack; the builder's own values are right.
_OPTIONAL = {"mu", "sigma", "mean", "std", "normalize.mean", "normalize.std"}
# Leftovers of training that the zoo's own loader ignores where its network has no place for them.
_LEFTOVERS = ("model_preact_hl1.", "sub_block1.")
_WRAPPERS = ("module.", "model.", "_orig_mod.", "net.")


def load(reference: str, *, architecture: str | None, normalization: str | None) -> OutsideModel:
    """The zoo's network with its weights, from disk or, where the network allows, from the zoo."""
    refuse_options(
        f"robustbench:{reference}", architecture=architecture, normalization=normalization
    )
    dataset, norm, model_id = _parse(reference)
    zoo_entry = _zoo_entry(dataset, norm, model_id)
    path = weights_path(dataset, norm, model_id)
    if not path.is_file():
        _download(cast(str, zoo_entry["gdrive_id"]), path)
    module = cast(nn.Module, zoo_entry["model"]())
    load_state(module, path)
    published = _published(dataset, norm, model_id)
    place = "/".join(
        [*([] if dataset == "cifar10" else [dataset]), *([] if norm == "Linf" else [norm])]
    )
    name = f"robustbench:{place}/{model_id}" if place else f"robustbench:{model_id}"
    return OutsideModel(
        module=module.eval(),
        name=name,
        target=name,
        architecture=published.architecture if published else type(module).__name__,
        normalization=None,
        dataset=dataset,
        classes=_CLASSES[dataset],
        digest=weights_digest(
            module.state_dict(), f"robustbench:{dataset}/{norm}/{model_id}", None
        ),
        certainty="declared",
        extra_data=published.data_class if published else "unknown",
        note=f"{path.name} in the zoo's {type(module).__name__}, normalization in its code",
    )


def weights_path(dataset: str, norm: str, model_id: str) -> Path:
    """Where the weights file is, or should be put: the first folder that has it, else the first.

    The folders: FRBENCH_MODELS or the cache's `models/`, then `./models`, as robustbench names it.
    """
    own = os.environ.get("FRBENCH_MODELS")
    folders = (Path(own) if own else cache_root() / "models", Path("models"))
    paths = [folder / dataset / norm / f"{model_id}.pt" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def load_state(module: nn.Module, path: Path) -> None:
    """Load a zoo's weights file into the network that its builder made.

    Raises:
        InputError: names the first tensor that is missing, left over or of another shape.
    """
    state, _ = read_state(path)
    expected = module.state_dict()
    aligned = {_aligned(name, expected): tensor for name, tensor in state.items()}
    aligned = {n: t for n, t in aligned.items() if n in expected or not n.startswith(_LEFTOVERS)}
    for name, tensor in expected.items():
        optional = name in _OPTIONAL or name.endswith("num_batches_tracked")
        if name not in aligned and not optional:
            raise InputError(f"{path} is not this model: it has no '{name}'")
        if name in aligned and aligned[name].shape != tensor.shape:
            got, want = tuple(aligned[name].shape), tuple(tensor.shape)
            raise InputError(f"{path} is not this model: '{name}' is {got}, not {want}")
    extra = next((name for name in aligned if name not in expected), None)
    if extra is not None:
        raise InputError(f"{path} is not this model: it has '{extra}' besides")
    module.load_state_dict(aligned, strict=False)


def _aligned(name: str, expected: Mapping[str, torch.Tensor]) -> str:
    """A tensor's name as the network knows it: wrappers' prefixes dropped, or one put before."""
    bare = name
    while bare not in expected:
        prefix = next((p for p in _WRAPPERS if bare.startswith(p)), None)
        if prefix is None:
            return f"model.{bare}" if f"model.{bare}" in expected else bare
        bare = bare.removeprefix(prefix)
    return bare


def _parse(reference: str) -> tuple[str, str, str]:
    *place, model_id = reference.split("/")
    datasets = [p for p in place if p in _CLASSES]
    norms = [p for p in place if p in _NORMS]
    if not model_id or len(datasets) > 1 or len(norms) > 1 or len(place) > len(datasets + norms):
        raise InputError(
            f"'robustbench:{reference}' is not 'robustbench:[DATASET/][NORM/]ID' "
            f"(datasets {', '.join(_CLASSES)}; norms {', '.join(_NORMS)})"
        )
    return (datasets or ["cifar10"])[0], (norms or ["Linf"])[0], model_id


def _zoo_entry(dataset: str, norm: str, model_id: str) -> Mapping[str, Any]:
    zoo = robustbench_zoo(dataset, norm)
    if model_id not in zoo:
        error = unknown(f"robustbench model of {dataset} {norm}", model_id, zoo)
        if shadowed_robustbench_files():
            raise InputError(f"{error} (this zoo is an old copy: 'frbench doctor' mends that)")
        raise error
    entry = zoo[model_id]
    if not isinstance(entry["gdrive_id"], str):
        raise InputError(
            f"robustbench:{model_id} has no single weights file (an ensemble, or on a hub); "
            "load it with robustbench itself"
        )
    return entry


def _download(address: str, path: Path) -> None:
    import gdown  # slow to import, and most calls find the file on disk

    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        try:
            gdown.download(id=address, output=str(part), quiet=True, timeout=30.0)
            read_checkpoint(part)  # the server answers with a web page when it refuses
        except Exception as error:  # network, quota and file errors of many kinds, one remedy
            raise FrbenchError(
                f"cannot download the weights of {path.stem}: put the file that RobustBench links "
                f"(Google Drive id {address}) at {path}"
            ) from error
        storage.write_bytes(path, part.read_bytes())


def _published(dataset: str, norm: str, model_id: str) -> RobustBenchEntry | None:
    wanted = (dataset, norm, model_id)
    entries = robustbench().entries
    return next((e for e in entries if (e.dataset, e.threat_model, e.model_id) == wanted), None)
