"""A faster search may round as it likes: the model itself judges, in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyautoattack import fab_base
from pyautoattack.fab_projections import projection_linf
from torch import Tensor, fx, nn

from frbench.attacks import AttackSpec, autoattack, pgd, specs
from frbench.attacks.projection import project_linf
from frbench.data import Dataset, load_dataset, to_float
from frbench.errors import FrbenchError
from frbench.evaluation import CellStore, Target, evaluate, matrix, search
from frbench.models import folding

CPU = torch.device("cpu")
EPS = 0.1
PGD = pgd(eps=EPS, steps=5)
PGD_L2 = pgd(norm="L2", eps=0.4, steps=5)
AA = autoattack(eps=EPS, stages=["apgd-ce"])
AA_TWO = autoattack(eps=EPS, stages=["apgd-ce", "square"])


def verdicts(
    target: Target, spec: AttackSpec, folder: Path, mode: search.Search, device: str = "cpu"
) -> str:
    store, data = CellStore(folder / mode), load_dataset("digits")
    (cell,) = evaluate(target, [spec], data, store=store, device=device, n=64, search=mode)
    assert not any(module.training for module in target.model.modules()), "it is the judge"
    return cell.final_verdicts()


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Every precision that some device searches in, here on the CPU."""
    monkeypatch.setattr(search, "precision", lambda device, spec: request.param)
    return request.param  # type: ignore[no-any-return]


def in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "precision", lambda device, spec: torch.float16)


@pytest.mark.parametrize("spec", [PGD, PGD_L2, AA], ids=["pgd", "pgd-l2", "aa"])
def test_fast_search_finds_what_an_exact_one_finds(
    convolutional: Target, tmp_path: Path, precision: torch.dtype, spec: AttackSpec
) -> None:
    exact, fast = (verdicts(convolutional, spec, tmp_path, mode) for mode in ("exact", "fast"))
    assert 10 < exact.count("1") < 60, "the comparison needs both kinds of images"
    apart = sum(a != b for a, b in zip(exact, fast, strict=True))
    assert apart <= (2 if precision is torch.bfloat16 else 1)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["fast", "compiled"])
@pytest.mark.parametrize("spec", [PGD, PGD_L2, AA_TWO], ids=["pgd", "pgd-l2", "aa"])
def test_fast_search_on_cuda_finds_what_an_exact_one_finds(
    convolutional: Target, tmp_path: Path, spec: AttackSpec, mode: search.Search
) -> None:
    target = Target(copy.deepcopy(convolutional.model).cuda(), convolutional.record)
    exact, found = (verdicts(target, spec, tmp_path, m, "cuda") for m in ("exact", mode))
    assert 10 < exact.count("1") < 60, "the comparison needs both kinds of images"
    assert sum(a != b for a, b in zip(exact, found, strict=True)) <= 1


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
        search.Searcher(convolutional.model, "compiled").network(torch.rand(4, 1, 8, 8))
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

        def multiply_in(self, precision: torch.dtype) -> None: ...

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * 0

    monkeypatch.setattr("frbench.evaluation.search._Twin", lambda model, compiled: Misled())
    with torch.no_grad():
        data = load_dataset("digits").test
        right = convolutional.model(to_float(data.images[:64])).argmax(1) == data.labels[:64]
    assert verdicts(convolutional, AA, tmp_path, "fast").count("1") == int(right.sum()) > 50


@pytest.mark.parametrize("instructions", [False, True])
def test_cpu_searches_in_bf16_where_it_can_and_the_attack_judges_nothing(
    monkeypatch: pytest.MonkeyPatch, instructions: bool
) -> None:
    monkeypatch.setattr(search, "has_bf16", lambda _: instructions)
    columns = specs().values()
    precisions = {spec.name: search.precision(CPU, spec) for spec in columns}
    assert precisions.pop("aa") is torch.float32
    assert {*precisions.values()} == {torch.bfloat16 if instructions else torch.float32}


@pytest.mark.parametrize("spec", [PGD, AA], ids=["pgd", "aa"])
def test_gpu_searches_in_float16(spec: AttackSpec) -> None:
    assert search.precision(torch.device("cuda"), spec) is torch.float16


def test_a_fast_cell_goes_on_in_the_arithmetic_that_began_it(
    convolutional: Target, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "has_bf16", lambda _: True)

    def keys(spec: AttackSpec, mode: search.Search) -> set[str]:
        data = matrix.data_range(digits, 0, 8)
        places = [CPU, torch.device("cuda")]
        return {
            matrix.blank_cell(convolutional.record, spec, data, 0, 8, mode, where).key
            for where in places
        }

    for spec in (PGD, AA):
        assert len(keys(spec, "fast")) == len(keys(spec, "compiled")) == 2
        assert len(keys(spec, "exact")) == 1
    assert len(keys(specs()["clean"], "fast")) == 1


def test_only_a_fast_search_replaces_the_projection_of_fab() -> None:
    model = nn.Flatten()
    with search.Searcher(model, "fast").arithmetic(AA, CPU):
        assert fab_base.projection_linf is project_linf
    with search.Searcher(model, "exact").arithmetic(AA, CPU):
        assert fab_base.projection_linf is projection_linf


def test_twin_gives_float32_logits_near_the_models(
    convolutional: Target, precision: torch.dtype
) -> None:
    images = to_float(load_dataset("digits").test.images[:32])
    searcher = search.Searcher(convolutional.model, "fast")
    with torch.no_grad(), searcher.arithmetic(PGD, CPU):
        found = searcher.network(images)
    with torch.no_grad():
        expected = convolutional.model(images)
    assert found.dtype is torch.float32
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < {torch.bfloat16: 0.05, torch.float16: 5e-3, torch.float32: 1e-5}[precision]
    rounded = precision is not torch.float32
    assert (error > 1e-5) == rounded, "half precision was really used, or really not"


def gradient(network: nn.Module, images: Tensor, sizes: Tensor) -> Tensor:
    """Of the sum of logit 0 less logit 1, each image's times its size."""
    images = images.clone().requires_grad_()
    logits = network(images)
    return torch.autograd.grad((sizes * (logits[:, 0] - logits[:, 1])).sum(), images)[0]


def test_models_of_others_are_searched_in_half_precision_and_left_as_they_are(
    target: Target, precision: torch.dtype
) -> None:
    before = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
    seen: list[torch.dtype] = []
    target.model[1].register_forward_hook(lambda module, images, out: seen.append(out.dtype))  # type: ignore[operator, index]
    images = to_float(load_dataset("digits").test.images[:32])
    searcher = search.Searcher(target.model, "fast")
    with torch.no_grad(), searcher.arithmetic(PGD, CPU):
        assert searcher.network(images).dtype is torch.float32
    assert seen[0] is precision
    for name, tensor in target.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_far_beyond_float16_keep_their_size_and_direction(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_float16(monkeypatch)
    images = to_float(load_dataset("digits").test.images[:6])
    sizes = torch.tensor([1e-30, 1e-9, 1.0, 1e9, 1e30, 0.0])
    expected = gradient(convolutional.model, images, sizes)
    searcher = search.Searcher(convolutional.model, "fast")
    with searcher.arithmetic(AA, CPU):
        found = gradient(searcher.network, images, sizes)
    assert found.dtype is torch.float32
    assert not found[-1].any()
    for size, one, other in zip(sizes[:-1], found, expected, strict=False):
        # Rounding may carry a unit over the kink of its ReLU, on some processors.
        assert (one / size - other / size).norm() < 0.1 * (other / size).norm()


def test_logits_beyond_float16_are_computed_in_float32(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_float16(monkeypatch)
    images = to_float(load_dataset("digits").test.images[:6])
    model = copy.deepcopy(convolutional.model)
    with torch.no_grad():
        [*model.parameters()][-1].mul_(1e7)
        expected = model(images)
    assert float(expected.abs().max()) > 65504
    searcher = search.Searcher(model, "fast")
    with searcher.arithmetic(AA, CPU):
        torch.testing.assert_close(searcher.network(images), expected)
        found = gradient(searcher.network, images, torch.ones(6))
    torch.testing.assert_close(found, gradient(model, images, torch.ones(6)))


def test_gradient_that_does_not_fit_into_float16_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_float16(monkeypatch)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    with torch.no_grad():  # large weights that cancel on a grey image
        weight = 6e4 * torch.tensor([1.0, -1.0]).repeat(32)
        model[1].weight.copy_(torch.stack([weight, -weight]))  # type: ignore[operator]
    images = torch.full((6, 1, 8, 8), 0.5)
    searcher = search.Searcher(model, "fast")
    with searcher.arithmetic(AA, CPU), pytest.raises(FrbenchError, match=r"--search exact$"):
        gradient(searcher.network, images, torch.ones(6))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["square", "fab-t"])
def test_attacks_that_stop_at_the_first_success_do_not_stop_at_rounding(
    convolutional: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    in_float16(monkeypatch)
    spec = autoattack(eps=EPS, stages=[stage])
    exact, fast = (verdicts(convolutional, spec, tmp_path, mode) for mode in ("exact", "fast"))
    assert 10 < exact.count("1") < 60, "the comparison needs both kinds of images"
    assert sum(a != b for a, b in zip(exact, fast, strict=True)) <= 2


def undecided(model: nn.Module) -> nn.Module:
    """A copy whose class 1 is its class 0 but for less than float16 can tell."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        weight, bias = [*model.parameters()][-2:]
        weight[1], bias[1] = weight[0] * (1 + 1e-5), bias[0]
    return model


@pytest.mark.parametrize("missing", [0, 3])
def test_close_calls_of_float16_are_those_of_the_model(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Also where black images fill up a batch, as on a GPU."""
    in_float16(monkeypatch)
    monkeypatch.setattr(
        search, "_filled_up", lambda images, _=0: F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing))
    )
    model = undecided(convolutional.model)
    images = to_float(load_dataset("digits").test.images[:256])
    with torch.no_grad():
        expected = model(images)
        zeros = expected.argmax(dim=1) < 2
    assert zeros.sum() > 10
    searcher = search.Searcher(model, "fast")
    with searcher.arithmetic(AA, CPU):
        found = searcher.network(images.clone().requires_grad_())
        gradients = [gradient(n, images[:6], torch.ones(6)) for n in (model, searcher.network)]
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    assert torch.equal(found[zeros], expected[zeros]) and not torch.equal(found, expected)
    torch.testing.assert_close(*gradients, rtol=0.01, atol=0.01)


def test_a_few_close_calls_make_a_small_batch(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 64 images can take a GPU longer than the whole pass that they come from."""
    in_float16(monkeypatch)
    filled: list[tuple[int, int]] = []

    def filled_up(images: Tensor, multiple: int = search._MULTIPLE) -> Tensor:
        filled.append((len(images), multiple))
        return images

    monkeypatch.setattr(search, "_filled_up", filled_up)
    model = undecided(convolutional.model)
    images = to_float(load_dataset("digits").test.images)
    with torch.no_grad():
        logits = model(images)
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    sure = first - second > 0.1 * logits.abs().amax(dim=1)
    close, others = images[logits.argmax(dim=1) < 2], images[sure][:20]
    searcher = search.Searcher(model, "fast")
    with torch.no_grad(), searcher.arithmetic(AA, CPU):
        for batch in (torch.cat([close[:3], others]), close[:1].expand(70, -1, -1, -1)):
            searcher.network(batch)
    assert filled == [(23, 64), (3, 16), (70, 64), (70, 64)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_ties_and_logits_that_are_not_finite_are_never_clear(bad: float) -> None:
    logits = torch.tensor([[9.0, 1, 0], [9, bad, 0], [5, 5, 0], [0, 0, 0], [-9, -1, bad]])
    assert search._unclear(logits).tolist() == [1, 2, 3, 4]


def test_arithmetic_is_as_before_after_a_fast_search() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    with search.Searcher(nn.Flatten(), "fast").arithmetic(PGD, CPU):
        assert cudnn.benchmark
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_weights_cast_once_give_the_same_bits_as_those_cast_at_every_pass(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch, half: torch.dtype
) -> None:
    monkeypatch.setattr(search, "precision", lambda device, spec: half)
    images = to_float(load_dataset("digits").test.images[:16])

    def found() -> tuple[Tensor, Tensor]:
        searcher = search.Searcher(convolutional.model, "fast")
        with searcher.arithmetic(PGD, CPU):
            return searcher.network(images), gradient(searcher.network, images, torch.ones(16))

    once = found()
    monkeypatch.setattr(folding, "cast_layers", lambda network, dtype: None)
    for one, other in zip(once, found(), strict=True):
        assert one.any() and torch.equal(one, other)


def test_a_twin_goes_from_one_precision_to_another(
    convolutional: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CPU does between PGD and AutoAttack; weights that were rounded do not stay so."""
    images = to_float(load_dataset("digits").test.images[:16])
    searcher, answers = search.Searcher(convolutional.model, "fast"), []
    for chosen in (torch.float32, torch.bfloat16, torch.float32):
        monkeypatch.setattr(search, "precision", lambda device, spec, chosen=chosen: chosen)
        with torch.no_grad(), searcher.arithmetic(PGD, CPU):
            answers.append(searcher.network(images))
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])
