"""A faster search may round as it likes: the model itself judges, in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack import fab_base
from pyautoattack.fab_projections import projection_linf
from torch import Tensor, fx, nn

from frbench.attacks import AttackSpec, autoattack, pgd, specs
from frbench.attacks.projection import project_linf
from frbench.data import load_dataset, to_float
from frbench.errors import FrbenchError
from frbench.evaluation import CellStore, Target, evaluate, search

CPU = torch.device("cpu")
EPS = 0.1
PGD = pgd(eps=EPS, steps=5)
PGD_L2 = pgd(norm="L2", eps=0.4, steps=5)
AA = autoattack(eps=EPS, stages=["apgd-ce"])


def verdicts(target: Target, spec: AttackSpec, folder: Path, mode: search.Search) -> str:
    store, data = CellStore(folder / mode), load_dataset("digits")
    (cell,) = evaluate(target, [spec], data, store=store, device="cpu", n=64, search=mode)
    return cell.final_verdicts()


@pytest.fixture(params=[False, True], ids=["float32", "bf16"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(search, "has_bf16", lambda _: request.param)
    return bool(request.param)


@pytest.mark.parametrize("spec", [PGD, PGD_L2, AA], ids=["pgd", "pgd-l2", "aa"])
def test_fast_search_finds_what_an_exact_one_finds(
    convolutional: Target, tmp_path: Path, instructions: bool, spec: AttackSpec
) -> None:
    exact, fast = (verdicts(convolutional, spec, tmp_path, mode) for mode in ("exact", "fast"))
    assert 10 < exact.count("1") < 60, "the comparison needs both kinds of images"
    assert sum(a != b for a, b in zip(exact, fast, strict=True)) <= (2 if instructions else 1)


def test_compiled_twin_finds_what_the_plain_one_finds(
    convolutional: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        shapes.append(tuple(inputs[-1].shape))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for spec in (PGD, AA):
        fast, compiled = (verdicts(convolutional, spec, tmp_path, m) for m in ("fast", "compiled"))
        assert fast == compiled
    assert shapes


def test_every_twin_is_compiled_however_many_there_were(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for number in range(1, 11):
        search.searcher(convolutional.model, "compiled")(torch.rand(4, 1, 8, 8))
        assert len(compiled) == number


def test_twin_that_cannot_be_compiled_is_one_line(
    convolutional: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise OSError("no compiler\nmany more lines")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    said = r"^torch cannot compile 'tiny' here: .*no compiler; use --search fast$"
    with pytest.raises(FrbenchError, match=said):
        verdicts(convolutional, PGD, tmp_path, "compiled")


def test_success_that_the_model_does_not_confirm_counts_as_robust(
    convolutional: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Misled(nn.Module):
        """Tells the attack that every image is misclassified already."""

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * 0

    monkeypatch.setattr("frbench.evaluation.matrix.searcher", lambda model, mode: Misled())
    with torch.no_grad():
        data = load_dataset("digits").test
        right = convolutional.model(to_float(data.images[:64])).argmax(1) == data.labels[:64]
    assert verdicts(convolutional, AA, tmp_path, "fast").count("1") == int(right.sum()) > 50


def test_only_attacks_that_judge_nothing_round_to_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "has_bf16", lambda _: True)
    rounded = set()
    for name, spec in specs().items():
        with search.searching("fast", spec, CPU):
            if torch.is_autocast_enabled("cpu"):
                rounded.add(name)
        with search.searching("exact", spec, CPU):
            assert not torch.is_autocast_enabled("cpu")
    assert rounded == {"clean", "fgsm", "pgd20", "cw"}


def test_only_a_fast_search_replaces_the_projection_of_fab() -> None:
    with search.searching("fast", AA, CPU):
        assert fab_base.projection_linf is project_linf
    with search.searching("exact", AA, CPU):
        assert fab_base.projection_linf is projection_linf


def test_cpu_without_bf16_instructions_searches_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "has_bf16", lambda _: False)
    with search.searching("fast", PGD, CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_twin_gives_float32_logits_near_the_models(
    convolutional: Target, instructions: bool
) -> None:
    images = to_float(load_dataset("digits").test.images[:32])
    twin = search.searcher(convolutional.model, "fast")
    with torch.no_grad(), search.searching("fast", PGD, CPU):
        found = twin(images)
    with torch.no_grad():
        expected = convolutional.model(images)
    assert found.dtype is torch.float32
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < (0.05 if instructions else 1e-5)
    assert (error > 1e-5) == instructions, "bf16 was really used, or really not"


def test_arithmetic_is_as_before_after_a_fast_search() -> None:
    before = torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    with search.searching("fast", PGD, CPU):
        assert torch.get_float32_matmul_precision() == "high"
    assert (torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()) == before
    assert not torch.is_autocast_enabled("cpu")
