"""Cells: computed once, resumed anywhere, shared by processes, equal to plain library calls."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchattacks
from pyautoattack import AutoAttack, checks
from rich.console import Console
from torch import Tensor, nn

from frbench import storage
from frbench.attacks import AttackSpec, autoattack, pgd, specs
from frbench.data import Dataset, Split, to_float
from frbench.data.types import make_split
from frbench.errors import FrbenchError, InputError
from frbench.evaluation import (
    Cell,
    CellStore,
    Target,
    costs,
    evaluate,
    matrix,
    numerics,
    runner,
    search,
)
from frbench.evaluation.cells import UNSEEN
from frbench.models import build_model

EPS = 0.1
TWO_STAGES = autoattack(eps=EPS, stages=["apgd-ce", "apgd-t"])
ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for a signal in the middle of an evaluation."""


def one(
    target: Target, spec: AttackSpec, data: Dataset, store: CellStore, **options: object
) -> Cell:
    chosen = {"device": "cpu", "n": 40, "batch": 16, **options}
    (cell,) = evaluate(target, [spec], data, store=store, **chosen)  # type: ignore[arg-type]
    return cell


def robust(verdicts: str) -> Tensor:
    return torch.tensor([v == "1" for v in verdicts])


@pytest.mark.parametrize("stages", [["apgd-ce", "apgd-t"], ["fab-t"], ["square"]])
def test_autoattack_equals_a_plain_call_of_the_library(
    target: Target, digits: Dataset, store: CellStore, stages: list[str]
) -> None:
    n, batch, seed = 24, 10, 7  # three chunks, which later stages gather anew
    spec = autoattack(eps=EPS, stages=stages)
    cell = one(target, spec, digits, store, n=n, batch=batch, seed=seed)
    images, labels = to_float(digits.test.images[:n]), digits.test.labels[:n]
    plain = AutoAttack(target.model, device="cpu", eps=EPS, seed=seed)
    plain.attacks_to_run = stages
    with torch.random.fork_rng():
        _, predicted = plain.run_standard_evaluation(images, labels, batch_size=batch)
    assert torch.equal(robust(cell.final_verdicts()), predicted == labels)
    assert 0 < cell.correct() < n, "the comparison needs both kinds of images"


@pytest.mark.slow
def test_whole_autoattack_equals_a_plain_call(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    n, batch = 48, 20
    cell = one(target, autoattack(eps=EPS), digits, store, n=n, batch=batch, seed=1)
    images, labels = to_float(digits.test.images[:n]), digits.test.labels[:n]
    plain = AutoAttack(target.model, device="cpu", eps=EPS, seed=1)
    with torch.random.fork_rng():
        _, predicted = plain.run_standard_evaluation(images, labels, batch_size=batch)
    assert torch.equal(robust(cell.final_verdicts()), predicted == labels)


@pytest.mark.parametrize("name", ["fgsm", "pgd20"])
def test_gradient_attacks_equal_plain_torchattacks_calls(
    target: Target, digits: Dataset, store: CellStore, name: str
) -> None:
    cell = one(target, specs(eps=EPS)[name], digits, store, seed=3)
    kind = {"fgsm": torchattacks.FGSM, "pgd20": torchattacks.PGD}[name]
    options = {"alpha": EPS / 4, "steps": 20} if name == "pgd20" else {}
    expected = []
    with torch.random.fork_rng():
        for start in range(0, 40, 16):
            images = to_float(digits.test.images[start : min(start + 16, 40)])
            labels = digits.test.labels[start : min(start + 16, 40)]
            torch.manual_seed(3)
            adversarial = kind(target.model, eps=EPS, **options)(images, labels)
            expected.append(target.model(adversarial).argmax(1) == labels)
    assert torch.equal(robust(cell.verdicts[name]), torch.cat(expected))
    assert 0 < cell.correct() < 40


def test_the_seed_makes_another_cell_only_of_attacks_that_draw(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    columns = [specs(eps=EPS)[name] for name in ("clean", "fgsm", "pgd20")]
    for seed in (0, 1):
        evaluate(target, columns, digits, store=store, device="cpu", n=8, batch=8, seed=seed)
    seeds = sorted((cell.attack.name, cell.seed) for cell in store.all())
    assert seeds == [("clean", 0), ("fgsm", 0), ("pgd20", 0), ("pgd20", 1)]


def test_columns_judge_by_their_own_definitions(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    wrong = digits.test.labels.clone()
    wrong[:4] = (wrong[:4] + 1) % 10  # the model is "wrong" on these
    mislabelled = Split(digits.test.images, wrong, "other")
    data = Dataset("digits", digits.train, mislabelled, digits.classes)
    seen: list[int] = []
    target.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    one(target, specs()["fgsm"], data, store, n=8)
    assert seen[-2:] == [8, 8], "FGSM attacks and judges misclassified images too"
    cell = one(target, TWO_STAGES, data, store, n=8)
    assert cell.verdicts["clean"].startswith("0000")
    assert seen[-1] <= 4, "AutoAttack leaves them out"


def test_every_interruption_ends_in_the_same_verdicts(
    target: Target, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = one(target, TWO_STAGES, digits, CellStore(tmp_path / "whole"))
    save, saves = CellStore.save, 0

    def dying(self: CellStore, cell: Cell) -> Path:
        nonlocal saves
        if saves == 0:
            raise Killed  # before the chunk reaches the disk: its work is lost
        saves -= 1
        return save(self, cell)

    interruptions = 0
    results = CellStore(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(CellStore, "save", dying)
        for _ in range(100):
            saves = 1  # one chunk of progress a life
            try:
                resumed = one(target, TWO_STAGES, digits, results)
                break
            except Killed:
                interruptions += 1
    assert interruptions >= 6, "chunks of three stages"
    assert resumed.verdicts == reference.verdicts
    assert resumed.key == reference.key


def test_a_kill_after_the_last_chunk_loses_no_warning(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished cell is never opened again, so it has all of its flags from the start."""
    save, checked = CellStore.save, []

    def warned(cell: Cell) -> None:
        checked.append(cell.stages_done())
        cell.flags.append("square-wins: as Square would have it")

    def dying(self: CellStore, cell: Cell) -> Path:
        path = save(self, cell)
        if cell.complete:
            raise Killed
        return path

    monkeypatch.setattr(runner.flags, "check_square", warned)
    monkeypatch.setattr(CellStore, "save", dying)
    with pytest.raises(Killed):
        one(target, TWO_STAGES, digits, store)
    (cell,) = store.all()
    assert cell.complete and cell.flags == ["square-wins: as Square would have it"]
    assert checked == [TWO_STAGES.stages], "once, on all stages"


@pytest.mark.parametrize("last", ["clean", "apgd-ce"])
def test_an_interrupted_cell_reports_an_upper_bound(
    target: Target,
    digits: Dataset,
    store: CellStore,
    monkeypatch: pytest.MonkeyPatch,
    last: str,
) -> None:
    stage_done = matrix.Reporter.stage_done

    def die_after_first_bound(self: matrix.Reporter, cell: Cell, stage: str) -> None:
        stage_done(self, cell, stage)
        if stage == last:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(matrix.Reporter, "stage_done", die_after_first_bound)
        with pytest.raises(Killed):
            one(target, TWO_STAGES, digits, store)
    (partial,) = store.all()
    assert not partial.complete
    assert partial.correct() == partial.verdicts[last].count("1") < partial.data.n
    assert partial.seconds_left is not None and partial.seconds_left > 0
    finished = one(target, TWO_STAGES, digits, store)
    assert finished.seconds_left is None
    assert partial.accuracy >= finished.accuracy
    assert finished.verdicts[last] == partial.verdicts[last]


def test_finished_cells_are_read_and_not_computed(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    columns = [specs()["clean"], pgd(2)]
    first = evaluate(target, columns, digits, store=store, device="cpu", n=20)
    target.model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    again = evaluate(target, columns, digits, store=store, device="cpu", n=20)
    assert again == first
    assert [c.attack.name for c in again] == ["clean", "pgd2"]


def told(asked: Target, /, **changes: object) -> Target:
    """The same weights under another record."""
    return Target(asked.model, asked.record.model_copy(update=changes))


def test_a_run_takes_over_the_cells_of_its_weights_file(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = one(target, pgd(1), digits, store)
    monkeypatch.setattr(runner.Runner, "advance", lambda *_: pytest.fail("computed again"))
    run = told(target, name="at_fr", target="quick-at_fr-s0-x", source="run", weights="best")
    (path,) = store.folder.glob("*/*.json")
    cell = one(run, pgd(1), digits, store)
    assert cell.model == run.record
    assert cell.verdicts == outside.verdicts
    assert store.path(cell) == path and store.all() == [cell], "in the same file"
    again = one(target, pgd(1), digits, store)
    assert again.model == target.record, "what was asked for"
    assert store.all() == [cell], "a file knows less than the run"


def test_last_weights_that_are_the_best_stay_the_best(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    best = told(target, target="x", source="run", weights="best")
    last = told(target, target="x@last", source="run", weights="last")
    for asked in (last, best, last):
        assert one(asked, pgd(1), digits, store).model == asked.record
    assert [cell.model for cell in store.all()] == [best.record]


def test_a_run_that_went_on_is_told_anew(target: Target, digits: Dataset, store: CellStore) -> None:
    early = told(target, target="x", source="run", note="unfinished: 1 of 9 epochs")
    one(early, pgd(1), digits, store)
    one(told(early, note=""), pgd(1), digits, store)
    assert [cell.model.note for cell in store.all()] == [""]


@pytest.mark.parametrize("change", [{"n": 39}, {"seed": 1}, {"batch": 8}, {"start": 1}])
def test_another_range_seed_or_batch_is_another_cell(
    target: Target, digits: Dataset, store: CellStore, change: dict[str, int]
) -> None:
    first = one(target, pgd(1), digits, store)
    assert one(target, pgd(1), digits, store, **change).key != first.key
    assert len(store.all()) == 2


def test_a_damaged_cell_is_named_and_kept(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    path = store.path(one(target, pgd(1), digits, store))
    path.write_text(path.read_text()[:200])
    with pytest.raises(InputError, match=re.escape(str(path))):
        one(target, pgd(1), digits, store)
    assert path.exists()


def test_model_and_random_state_are_as_before(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    state = torch.get_rng_state()
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    evaluate(target, [*specs().values()][:4], digits, store=store, device="cpu", n=8)
    one(target, TWO_STAGES, digits, store, n=8)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in target.model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed"
    assert all(p.requires_grad and p.grad is None for p in target.model.parameters())
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert not target.model._forward_pre_hooks


@contextlib.contextmanager
def another_process(store: CellStore, cell: Cell, *chunks: int) -> Iterator[Callable[[], None]]:
    """Holds chunks of a cell's first stage, by their first image, until it is told to let go."""
    with contextlib.ExitStack() as held:
        for first in chunks:
            held.enter_context(
                storage.locked(runner.lock_path(store, cell), part=first, wait=False)
            )
        yield held.close


def blank(target: Target, spec: AttackSpec, dataset: Dataset, batch: int, n: int = 8) -> Cell:
    data = matrix.data_range(dataset, 0, n)
    return matrix.blank_cell(target.record, spec, data, 0, batch, "exact", torch.device("cpu"))


def test_chunks_of_another_process_are_left_to_it_until_it_ends(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pgd(1), pgd(2)
    order: list[tuple[str, int]] = []
    run = runner.Runner._run_chunk

    def noted(self: runner.Runner, cell: Cell, stage: str, chunk: list[int], attack: object):
        order.append((stage, chunk[0]))
        run(self, cell, stage, chunk, attack)  # type: ignore[arg-type]

    monkeypatch.setattr(runner.Runner, "_run_chunk", noted)
    console = Console(file=io.StringIO())
    options = {"store": store, "device": "cpu", "n": 8, "batch": 4, "console": console}
    with another_process(store, blank(target, first, digits, 4), 0) as let_go:
        naps: list[float] = []

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == matrix._PATIENCE:
                let_go()

        # The module's own name for it: other threads of this process may be asleep too.
        monkeypatch.setattr(matrix, "time", SimpleNamespace(sleep=sleep))
        cells = evaluate(target, [first, second], digits, **options)  # type: ignore[arg-type]
    assert order == [("pgd1", 4), ("pgd2", 0), ("pgd2", 4), ("pgd1", 0)], "what is free comes first"
    assert all(cell.complete for cell in cells)
    assert "another process is computing PGD-1: waiting" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_stage_waits_for_the_chunks_of_the_one_before(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = one(target, TWO_STAGES, digits, CellStore(store.root / "alone"), n=24, batch=6)
    with another_process(store, blank(target, TWO_STAGES, digits, 6, 24), 6) as let_go:

        def sleep(_: float) -> None:
            (cell,) = store.all()
            assert cell.verdicts["clean"].count(UNSEEN) == 6
            assert {*cell.verdicts["apgd-ce"]} == {UNSEEN}, "its chunks are not known yet"
            let_go()

        monkeypatch.setattr(matrix, "time", SimpleNamespace(sleep=sleep))
        shared = one(target, TWO_STAGES, digits, store, n=24, batch=6)
    assert shared.verdicts == alone.verdicts


def test_what_another_process_finished_meanwhile_is_not_computed_again(
    target: Target, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CellStore(tmp_path)
    finished = one(target, pgd(1), digits, CellStore(tmp_path / "other"))
    with another_process(store, finished, 0, 16, 32) as let_go:

        def finish(_: float) -> None:
            store.save(finished)
            let_go()

        monkeypatch.setattr(matrix, "time", SimpleNamespace(sleep=finish))
        monkeypatch.setattr(runner.Runner, "_run_chunk", lambda *_: pytest.fail("computed twice"))
        assert one(target, pgd(1), digits, store).verdicts == finished.verdicts


def test_what_two_processes_save_of_one_stage_is_all_kept(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process saves verdicts, seconds and a flag while we compute a chunk."""
    whole = one(target, pgd(1), digits, CellStore(store.root / "alone"), n=8, batch=4)
    theirs = blank(target, pgd(1), digits, 4)
    theirs.verdicts = {"pgd1": UNSEEN * 4 + whole.verdicts["pgd1"][4:]}
    theirs.seconds, theirs.flags = {"pgd1": 1000.0}, ["dynamic: the forward pass has gradients"]
    theirs.provenance = {"device": "another device"}
    check = numerics.check_ball

    def meanwhile(*arguments: object) -> None:
        store.save(theirs)
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(numerics, "check_ball", meanwhile)
    cell = one(target, pgd(1), digits, store, n=8, batch=4)
    assert cell.verdicts == whole.verdicts
    assert cell.seconds["pgd1"] > 1000.0
    assert cell.flags == theirs.flags
    assert cell.provenance["device"].startswith("another device; ")


def test_two_processes_on_one_folder_share_its_chunks(tmp_path: Path) -> None:
    def start(folder: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "tools" / "kill_evaluation.py"), "worker"]
        command += ["--results", str(tmp_path / folder), "--images", "24", "--batch", "6"]
        command += ["--stages", "apgd-ce"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)

    processes = [start(folder) for folder in ("shared", "shared", "alone")]
    assert [process.wait(timeout=200) for process in processes] == [0, 0, 0]
    (shared,), (alone,) = (CellStore(tmp_path / folder).all() for folder in ("shared", "alone"))
    assert shared.complete
    assert shared.verdicts == alone.verdicts


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_verdict() -> None:
    command = [sys.executable, str(ROOT / "tools" / "kill_evaluation.py")]
    result = subprocess.run(
        [*command, "--kills", "3", "--images", "32", "--batch", "8"], cwd=ROOT, check=False
    )
    assert result.returncode == 0


class Odd(nn.Module):
    """Logits that a test bends."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.bend = bend

    def forward(self, images: Tensor) -> Tensor:
        return self.bend(self.layer(images.flatten(1)))


def larger_images_only() -> Tensor:
    raise AssertionError("height 8, not 224")


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (lambda z: z * float("nan"), "NaN or infinite logits"),
        (lambda z: z[:, :7], "7 outputs, the data have 10 classes"),
        (lambda z: z[:, :, None], "maps 20 images to shape"),
        (lambda z: (z, None), "returns a tuple: expected logits alone"),
        (lambda z: z.half(), "returns torch.float16: verdicts need float32"),
        (lambda z: z @ torch.ones(3, 3), "model 'small' cannot take images of 1x8x8: mat1"),
        (lambda z: larger_images_only(), "cannot take images of 1x8x8: height 8, not 224"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    bend: Callable[[Tensor], Tensor],
    said: str,
    make_target: Callable[[nn.Module], Target],
    digits: Dataset,
    store: CellStore,
) -> None:
    with pytest.raises(InputError) as caught:
        one(make_target(Odd(bend)), specs()["clean"], digits, store, n=20)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert store.all() == []


def test_wrong_requests_are_refused(target: Target, digits: Dataset, store: CellStore) -> None:
    for wrong in ({"n": 361}, {"n": 0}, {"start": 360}, {"start": -1}):
        with pytest.raises(InputError, match="are not a range of digits's test split of 360"):
            one(target, pgd(1), digits, store, **wrong)
    with pytest.raises(InputError, match="batch 0"):
        one(target, pgd(1), digits, store, batch=0)
    target.model.train()
    with pytest.raises(InputError, match="training mode"):
        one(target, pgd(1), digits, store)
    target.model.eval()
    target.model[2].train()  # type: ignore[index]
    with pytest.raises(InputError, match="2 of model 'small' is in training mode"):
        one(target, pgd(1), digits, store)
    target.model.eval().half()
    with pytest.raises(InputError, match="need float32"):
        one(target, pgd(1), digits, store)


def test_an_attack_that_leaves_its_ball_is_an_error(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(images: Tensor, labels: Tensor) -> Tensor:
        moved = images.clone()
        moved[2] = 1 - moved[2]
        return moved

    monkeypatch.setattr(runner, "build_attack", lambda *_, **__: far)
    with pytest.raises(FrbenchError, match=r"attack pgd1 \(pgd1\) left its limits on image 12"):
        one(target, pgd(1), digits, store, start=10, n=8)
    assert store.all() == []


def at_most_five(logits: Tensor) -> Tensor:
    """What a network on too small a GPU does with more images."""
    if len(logits) > 5:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return logits


def test_too_little_gpu_memory_halves_the_chunk_and_is_flagged(
    make_target: Callable[[nn.Module], Target],
    digits: Dataset,
    store: CellStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(costs, "PROBE_IMAGES", 4)
    target = make_target(Odd(lambda z: at_most_five(z) if z.requires_grad else z))
    assert one(target, pgd(2), digits, store, n=5).flags == []
    cell = one(target, pgd(2), digits, store, n=16)
    assert cell.complete
    assert [flag.split(":")[0] for flag in cell.flags] == ["out-of-memory"]
    radii = [pgd(2, eps=eps) for eps in (0.1, 0.2)]
    cells = evaluate(target, radii, digits, store=store, device="cpu", n=16, batch=16)
    assert all("out-of-memory" in cell.flags[0] for cell in cells), "a stage's name is no cell's"


@pytest.mark.gpu
def test_an_evaluation_goes_on_in_pieces_where_a_gpu_has_too_little_memory(
    make_target: Callable[..., Target], store: CellStore
) -> None:
    network = build_model("resnet18", classes=10).cuda()
    images = torch.randint(0, 256, (2048, 3, 32, 32), dtype=torch.uint8)
    split = make_split(images, torch.randint(0, 10, (2048,)))
    data = Dataset("cifar10", split, split, tuple("0123456789"))
    most, room = torch.cuda.get_device_properties(0).total_memory, 3 * 2**30
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + room) / most)
    try:
        (cell,) = evaluate(
            make_target(network, dataset="cifar10"),
            [pgd(1)],
            data,
            store=store,
            device="cuda",
            batch=2048,
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert cell.complete
    assert [flag.split(":")[0] for flag in cell.flags] == ["out-of-memory"]


def test_autoattacks_checks_take_no_more_memory_than_there_is(
    make_target: Callable[[nn.Module], Target],
    digits: Dataset,
    store: CellStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(costs, "PROBE_IMAGES", 4)
    cell = one(make_target(Odd(at_most_five)), autoattack(stages=["apgd-ce"]), digits, store, n=16)
    assert cell.complete
    assert "out-of-memory" in [flag.split(":")[0] for flag in cell.flags]


@pytest.mark.parametrize("gradients", [True, False])
def test_no_memory_for_a_few_images_is_one_line(
    gradients: bool, make_target: Callable[[nn.Module], Target], digits: Dataset, store: CellStore
) -> None:
    def full(logits: Tensor) -> Tensor:
        if logits.requires_grad == gradients:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits

    said = r"^out of memory on cpu while trying the model on 32 images: free the device .*kept$"
    with pytest.raises(FrbenchError, match=said):
        one(make_target(Odd(full)), pgd(2), digits, store)


def test_autoattacks_warnings_become_flags(
    make_target: Callable[[nn.Module], Target], digits: Dataset, store: CellStore
) -> None:
    def noisy(logits: Tensor) -> Tensor:
        return logits + torch.randn_like(logits)

    def steps(logits: Tensor) -> Tensor:
        return logits.round() + 0 * logits

    spec = autoattack(stages=["apgd-t"])
    flags = {
        name: one(make_target(Odd(bend)), spec, digits, CellStore(store.root / name), n=60).flags
        for name, bend in {"noisy": noisy, "steps": steps}.items()
    }
    assert [flag.split(":")[0] for flag in flags["noisy"]] == ["randomized"]
    assert [flag.split(":")[0] for flag in flags["steps"]] == ["zero-gradients"]


def test_what_the_library_counted_on_other_models_is_no_warning(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its counts in a module and never clears them."""
    for name in checks.funcs:
        monkeypatch.setitem(checks.funcs, name, 5)
    assert one(target, autoattack(eps=EPS, stages=["apgd-ce"]), digits, store, n=8).flags == []


def test_a_cell_keeps_its_date_where_only_the_record_of_its_model_gets_better(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    first = one(target, pgd(1), digits, store)
    first.updated = "2026-01-01T00:00:00+00:00"
    store.save(first)
    record = target.record.model_copy(update={"note": "90 % clean on 128 training images"})
    again = one(Target(target.model, record), pgd(1), digits, store)
    (kept,) = store.all()
    assert kept.model.note == again.model.note == record.note
    assert kept.updated == first.updated and kept.verdicts == first.verdicts


def test_a_cell_does_not_forget_what_was_said_of_the_training_data(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    silent = target.record.model_copy(update={"extra_data": "unknown"})
    for said, kept in [("unknown",) * 2, ("none",) * 2, ("unknown", "none"), ("extra",) * 2]:
        record = silent.model_copy(update={"extra_data": said})
        one(Target(target.model, record), pgd(1), digits, store)
        (cell,) = store.all()
        assert cell.model.extra_data == kept


def test_a_fast_search_is_timed_in_the_arithmetic_of_its_costliest_attack(
    make_target: Callable[..., Target],
    digits: Dataset,
    store: CellStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AutoAttack, which searches in float32 where a CPU searches in bf16 for all others."""
    monkeypatch.setattr(search, "has_bf16", lambda _: True)
    timed = []
    measure = costs.measure

    def seen(model: nn.Module, *batch: Any, **options: Any) -> costs.Speed:
        timed.append(model.precision)
        return measure(model, *batch, **options)

    monkeypatch.setattr(costs, "measure", seen)
    target = make_target(build_model("tiny", classes=10, channels=1))
    columns = specs()
    chosen = [columns["clean"], columns["pgd20"], autoattack(eps=EPS, stages=["apgd-ce"])]
    for wanted in (chosen, chosen[:2]):
        store = CellStore(store.root / "again")
        evaluate(target, wanted, digits, store=store, device="cpu", n=4, search="fast")
    assert timed == [torch.float32, torch.bfloat16]


def test_plan_bounds_and_time_left_are_told(
    target: Target, digits: Dataset, store: CellStore
) -> None:
    console = Console(file=io.StringIO(), width=200)
    one(target, TWO_STAGES, digits, store, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(
        r"plan: small: AA \(APGD-CE, APGD-T\) on 40 images, about [\d.]+ (s|min)", said
    )
    assert re.search(r"at most \d+\.\d % after APGD-CE \(n=40\), about [\d.]+ (s|min) left", said)
    assert re.search(r"APGD-T\) \d+\.\d % after APGD-T \(n=40\)\n", said)


def test_seconds_of_a_stage_are_those_of_all_its_chunks_and_lives(
    target: Target, digits: Dataset, store: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock on which every chunk takes one second; the first life ends after two chunks."""
    clock, left, save = itertools.count(), [], CellStore.save

    def dying(self: CellStore, cell: Cell) -> Path:
        path = save(self, cell)
        left.append(cell.seconds_left)
        if len(left) == 2:
            raise Killed
        return path

    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(CellStore, "save", dying)
    with pytest.raises(Killed):
        one(target, pgd(1), digits, store)
    assert left == [1.5, 0.5], "as long as the chunks that were measured, of 16 images"
    assert one(target, pgd(1), digits, store).seconds == {"pgd1": 3.0}


def test_a_cell_tells_where_it_was_made(target: Target, digits: Dataset, store: CellStore) -> None:
    cell = one(target, pgd(1), digits, store)
    assert cell.versions.keys() == {"matrix", "torch", "torchattacks"}
    assert "+" not in cell.versions["torch"]
    assert {"device", "host", "python", "commit", "code", "seeding"} <= cell.provenance.keys()
    assert cell.total_seconds > 0
