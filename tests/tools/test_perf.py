"""The harness times fairly, compares like with like, and writes what a reader needs."""

from __future__ import annotations

import copy
import json
import types

import pytest
import torch
from rich.console import Console
from scipy import stats
from torch import nn

from frbench.attacks import specs
from frbench.attacks.columns import autoattack
from frbench.data import load_dataset, to_float
from frbench.data.types import make_split
from frbench.engine.device import find_device
from frbench.engine.plan import resolve
from frbench.engine.step import TrainingStep
from frbench.evaluation import Target
from frbench.models import build_model
from tools.perf import evaluate, precision, recipes, timing, train
from tools.perf.__main__ import main
from tools.perf.machine import activations, copy_bytes, forward_flops
from tools.perf.machine import copy as copying
from tools.perf.report import (
    Figure,
    Result,
    Table,
    as_json,
    show,
    slug,
    without_folder,
    write,
)
from tools.perf.textbook import PlainStep, careful, loader, textbook
from tools.perf.timing import Candidate, WallClock, interleave

CPU = find_device("cpu", "fp32")


class FakeClock:
    """Time passes only where a candidate says so."""

    def __init__(self):
        self.now = 0.0

    def measure(self, work):
        begin = self.now
        work()
        return self.now - begin


def ticking(clock, name, seconds, log):
    """A candidate whose n-th call takes seconds[n] a unit, the last one from then on."""
    calls = iter(seconds)
    last = [seconds[0]]

    def run(units):
        last[0] = next(calls, last[0])
        log.append((name, units))
        clock.now += units * last[0]

    return Candidate(name, run)


def test_rounds_are_interleaved_after_the_warm_up_and_change_direction():
    clock, log = FakeClock(), []
    pair = [ticking(clock, "a", [1.0], log), ticking(clock, "b", [2.0], log)]
    interleave(pair, clock, repeats=3, seconds=4.0)
    assert log[:4] == [("a", 3), ("b", 3), ("a", 1), ("b", 1)]  # warm-up, then one unit each
    assert [name for name, _ in log[4:]] == ["a", "b", "b", "a", "a", "b"]


def test_every_sample_lasts_about_as_long_as_asked():
    clock, log = FakeClock(), []
    pair = [ticking(clock, "a", [0.5], log), ticking(clock, "b", [9.0], log)]
    timings = interleave(pair, clock, repeats=2, seconds=4.0)
    assert (timings["a"].units, timings["b"].units) == (8, 1)
    assert timings["a"].median == pytest.approx(0.5)


def test_units_that_were_prepared_ahead_do_not_set_the_length_of_a_sample():
    clock, ready = FakeClock(), [4]

    def run(units):
        taken = min(units, ready[0])
        ready[0] -= taken
        clock.now += 1e-4 * taken + 0.5 * (units - taken)

    timing = interleave([Candidate("a", run, lambda: None)], clock, repeats=1, seconds=8.0)["a"]
    assert timing.units == 16 and timing.median == pytest.approx(0.5)


def test_every_warm_up_and_sample_is_told():
    clock, said = FakeClock(), []
    pair = [ticking(clock, "a", [1.0], []), ticking(clock, "b", [2.0], [])]
    interleave(pair, clock, repeats=1, seconds=4.0, say=said.append)
    assert said == [
        *("a: warming up", "b: warming up"),
        *("a: 1 s, sample 1 of 1", "b: 2 s, sample 1 of 1"),
    ]


def test_one_slow_round_does_not_move_the_median():
    clock, log = FakeClock(), []
    slow_start = [9.0, 1.0, 1.0, 1.0, 50.0, 1.0, 1.0]  # warm-up, calibration, then five samples
    timing = interleave([ticking(clock, "a", slow_start, log)], clock, repeats=5, seconds=1.0)["a"]
    assert timing.median == 1.0
    assert max(timing.samples) == 50.0
    assert timing.row()["samples"] == list(timing.samples)


def test_a_warm_up_of_its_own_and_fixed_units_are_respected():
    clock, log = FakeClock(), []
    candidate = ticking(clock, "a", [1.0], log)
    own = Candidate("a", candidate.run, lambda: log.append(("warm", 0)))
    interleave([own], clock, repeats=2, seconds=9.0, units=1)
    assert log == [("warm", 0), ("a", 1), ("a", 1)]


def test_nobody_is_timed_while_helpers_of_another_candidate_still_work(monkeypatch):
    clock, order = FakeClock(), []
    monkeypatch.setattr(timing, "time", types.SimpleNamespace(sleep=order.append))
    loader = Candidate("a", lambda units: order.append("a"), lambda: None, settle=0.3)
    alone = Candidate("b", lambda units: order.append("b"), lambda: None)
    interleave([loader, alone], clock, repeats=1, seconds=0.0, units=1)
    assert order == [0.3, 0.0, "a", 0.3, "b", 0.0]


def test_the_wall_clock_runs_the_work_once():
    calls = []
    assert WallClock().measure(lambda: calls.append(1)) >= 0
    assert calls == [1]


@pytest.fixture
def planned_batch():
    plan = resolve("pgd_at", preset="smoke", overrides={"lr": "0.1"})
    split = load_dataset("digits").train
    images, labels = to_float(split.images[:32]), split.labels[:32]
    eps = plan.recipe.attack.eps
    noise = torch.empty_like(images).uniform_(-eps, eps, generator=torch.manual_seed(1))
    return plan, images, labels, noise


def trained(make, plan, *batch):
    """Parameters after one step from the same initial weights."""
    torch.manual_seed(0)
    model = build_model("tiny", classes=10, channels=1).train()
    loss = make(model, plan)(*batch)
    return float(loss), vector(model)


def plain(gradient):
    return lambda model, plan: PlainStep(model, plan.recipe.attack, plan.frame, gradient)


def ours(model, plan):
    step = TrainingStep(CPU.place(model), plan.recipe, plan.frame, CPU)
    return lambda *batch: step(*batch, epoch=0, lr=plan.frame.lr)


def test_the_three_loops_do_the_same_arithmetic(planned_batch):
    plan, *batch = planned_batch
    loss, weights = trained(plain(textbook), plan, *batch)
    careful_loss, careful_weights = trained(plain(careful), plan, *batch)
    assert careful_loss == loss
    assert torch.equal(careful_weights, weights)
    our_loss, our_weights = trained(ours, plan, *batch)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    moved = (weights - initial_weights()).norm()
    assert (our_weights - weights).norm() < 1e-3 * moved


def initial_weights():
    torch.manual_seed(0)
    return vector(build_model("tiny", classes=10, channels=1))


def vector(model):
    """All parameters, whatever their memory layout."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_only_the_textbook_attack_touches_parameter_gradients(planned_batch):
    plan, *batch = planned_batch
    for gradient, touched in ((textbook, True), (careful, False)):
        model = build_model("tiny", classes=10, channels=1).train()
        PlainStep(model, plan.recipe.attack, plan.frame, gradient).perturb(*batch)
        assert any(p.grad is not None for p in model.parameters()) is touched


def test_the_loader_serves_augmented_images_of_the_split():
    pixels = torch.full((8, 3, 32, 32), 255, dtype=torch.uint8)
    batch = loader(make_split(pixels, torch.arange(8)), 8, pin=False)
    images, labels = next(iter(batch))
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
    assert sorted(labels.tolist()) == list(range(8))
    assert images.max() == 1.0
    assert images.min() == 0.0  # the crop shows some of the padding


def test_flops_count_a_multiply_add_as_two():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False))
    assert forward_flops(model, torch.rand(4, 3, 2, 2)) == 2 * 12 * 5


def test_activations_are_what_convolutions_and_linear_layers_write():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 7))
    assert activations(model, torch.zeros(2, 3, 8, 8)) == 5 * 36 + 7
    assert not model[0]._forward_hooks


def test_a_copy_reads_and_writes_every_byte():
    assert copy_bytes(3) == 6e6
    copied = copying(CPU, 1)
    copied.run(2)
    assert copied.name == "copy"


def test_results_on_other_models_are_kept_apart(tmp_path):
    results = [Result("train", {}, subject=model) for model in ("quick", "resnet18")]
    paths = {write(result, find_device("cpu"), tmp_path, rehearsal=False) for result in results}
    assert {path.name for path in paths} == {"train-quick.json", "train-resnet18.json"}


def test_a_part_of_the_recipes_replaces_no_measurement_of_all(monkeypatch, tmp_path):
    arguments = ["--device", "cpu", "--suite", "train", "--quick", "--models", "tiny"]
    monkeypatch.setattr(train, "_compare_loops", lambda *_: None)
    monkeypatch.setattr(recipes, "add", lambda *_: None)
    for chosen in ([], ["--recipes", "pgd_at,mart"]):
        assert main([*arguments, *chosen, "--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*/*")}
    assert names == {"train-tiny-rehearsal.json", "train-tiny-pgd_at-mart-rehearsal.json"}


def test_a_command_names_no_folder_of_the_machine_that_it_ran_on(monkeypatch):
    typed = "--suite eval --run /home/me/runs/robust --folder=/tmp/x --seconds 0.5 --out /home/me"
    monkeypatch.setattr("sys.argv", ["perf", *typed.split()])
    found = as_json(Result("eval", {}), CPU, rehearsal=True)["command"]
    assert found == "python -m tools.perf --suite eval --run robust --folder=x --seconds 0.5"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("/home/me/runs/robust@best", "robust@best"),
        ("file:/home/me/model.pt", "file:model.pt"),
        ("runs/robust", "runs/robust"),
        ("robustbench:Wong2020Fast", "robustbench:Wong2020Fast"),
    ],
)
def test_a_target_keeps_its_name_and_loses_the_folder_of_the_machine(typed, kept):
    assert without_folder(typed) == kept


def test_figures_know_their_direction():
    assert Figure("speed", 2.0, 2.5).reached
    assert not Figure("speed", 2.0, 1.9).reached
    assert Figure("seconds", 5.0, 4.0, at_least=False).reached
    assert not Figure("seconds", 5.0, 6.0, at_least=False).reached


def test_the_json_file_tells_device_versions_settings_and_command(tmp_path):
    result = Result("data", {"batch": 8}, [Table("t", [{"name": "a", "seconds": 1.0}])])
    result.figures.append(Figure("speed", 2.0, 2.5))
    path = write(result, CPU, tmp_path, rehearsal=False)
    assert path == tmp_path / slug(CPU.describe()) / "data.json"
    found = json.loads(path.read_text())
    assert found["schema_version"] == 1
    assert found["settings"] == {"batch": 8}
    assert found["versions"]["torch"] and found["device"] == CPU.describe()
    assert found["command"].startswith("python -m tools.perf")
    assert found["tables"][0]["rows"] == [{"name": "a", "seconds": 1.0}]
    assert found["figures"][0]["reached"] is True
    assert {"created", "commit", "code", "threads", "precision", "rehearsal"} <= found.keys()


def test_a_rehearsal_never_replaces_a_measurement(tmp_path, capsys):
    arguments = ["--device", "cpu", "--suite", "data", "--quick", "--out", str(tmp_path)]
    assert main(arguments) == 0
    (path,) = tmp_path.glob("*/*.json")
    assert path.name == "data-rehearsal.json"
    captured = capsys.readouterr()
    assert captured.out.strip() == str(path)  # the path alone; tables go to stderr
    assert "Data path" in captured.err
    rows = json.loads(path.read_text())["tables"][0]["rows"]
    assert [len(row["samples"]) for row in rows] == [2, 2]


def test_fewer_than_five_samples_are_a_rehearsal_and_say_so(tmp_path, capsys):
    few, enough = Result("data", {"repeats": 4}), Result("data", {"repeats": 5})
    assert write(few, CPU, tmp_path, rehearsal=False).name == "data-rehearsal.json"
    assert write(enough, CPU, tmp_path, rehearsal=False).name == "data.json"
    (path,) = tmp_path.glob("*/data-rehearsal.json")
    assert json.loads(path.read_text())["rehearsal"] is True
    for result in (few, enough):
        show(result, Console(stderr=True))
    assert capsys.readouterr().err == "medians of 4 samples: a rehearsal, since a claim needs 5\n"


def test_float32_is_compared_with_bf16_image_by_image_and_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("frbench.engine.device.has_bf16", lambda _: True)
    arguments = ["--device", "cpu", "--suite", "precision", "--quick", "--seeds", "2"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/precision-rehearsal.json")
    by_seed, over_seeds = (table["rows"] for table in json.loads(path.read_text())["tables"])
    kinds = [(r, a) for r in ("pgd_at", "at_fr") for a in ("Clean", "PGD-20")]
    assert [(r["recipe"], r["seed"], r["attack"]) for r in by_seed] == [
        (recipe, seed, attack)
        for recipe in ("pgd_at", "at_fr")
        for seed in (0, 1)
        for attack in ("Clean", "PGD-20")
    ]
    assert [(row["recipe"], row["attack"]) for row in over_seeds] == kinds


def test_the_interval_over_seeds_is_that_of_a_paired_t_test():
    fp32, bf16 = [36.3, 37.2, 37.6], [36.6, 36.9, 37.5]
    rows = [
        {"recipe": "pgd_at", "attack": "PGD-20", "difference": a - b}
        for a, b in zip(fp32, bf16, strict=True)
    ]
    (found,) = precision._over_seeds(rows)
    expected = stats.ttest_rel(fp32, bf16).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
    assert found["difference"] == pytest.approx(0.1 / 3)
    assert found["zero_inside"]


def test_a_device_without_bf16_has_nothing_to_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("frbench.engine.device.has_bf16", lambda _: False)
    assert main(["--device", "cpu", "--suite", "precision", "--out", str(tmp_path)]) == 1
    assert "has no bf16: there is no other precision" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--repeats", "--batch", "--images", "--seeds", "--threads"])
def test_sizes_are_numbers_from_one_on(option, capsys):
    for value in ("0", "-1", "many"):
        with pytest.raises(SystemExit) as stopped:
            main([option, value])
        assert stopped.value.code == 2
        assert f"'{value}' is no number from 1 on" in capsys.readouterr().err


@pytest.fixture
def small_evaluation(small_digits, model_record, monkeypatch):
    """The evaluation suite on digits: a network that is trained a little stands for all targets."""
    torch.manual_seed(0)
    model = build_model("tiny", classes=10, channels=1).train()
    images, labels = to_float(small_digits.train.images), small_digits.train.labels
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        noisy = images + 8 / 255 * torch.randn_like(images).sign()
        torch.nn.functional.cross_entropy(model(noisy), labels).backward()
        optimizer.step()

    def resolve_target(name, **_):
        record = model_record(name, architecture="tiny", dataset="digits")
        return Target(copy.deepcopy(model).eval().requires_grad_(False), record)

    monkeypatch.setattr(evaluate, "resolve_target", resolve_target)
    monkeypatch.setattr(evaluate, "load_dataset", lambda _: small_digits)
    short = {**specs(), "aa": autoattack(stages=("apgd-ce",))}
    monkeypatch.setattr(evaluate, "specs", lambda: short)


def test_both_searches_are_compared_with_the_library_verdict_by_verdict(
    small_evaluation, tmp_path, capsys
):
    arguments = ["--device", "cpu", "--suite", "eval", "--quick", "--run", "robust"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/eval-rehearsal.json")
    found = json.loads(path.read_text())
    assert len(found["tables"]) == 2
    for table, library in zip(found["tables"], ("torchattacks", "pyautoattack"), strict=True):
        assert [row["name"] for row in table["rows"]] == [library, "exact", "fast"]
        for row in table["rows"]:
            assert len(row["samples"]) == 2 and 0 <= row["robust_accuracy"] <= 100
        plain, exact, _ = table["rows"]
        assert exact["identical_verdicts"] == "8/8"
        assert exact["robust_accuracy"] == plain["robust_accuracy"]
    claims = [figure["claim"] for figure in found["figures"]]
    assert sum("exact search, share of identical verdicts" in claim for claim in claims) == 2
    assert sum("fast search, share of identical verdicts" in claim for claim in claims) == 2


def test_wrong_input_is_one_line(tmp_path, capsys):
    assert main(["--device", "cuda:99", "--out", str(tmp_path)]) == 2
    arguments = ["--device", "cpu", "--suite", "train", "--models", "resnet81", "--quick"]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2 and "resnet18" in lines[1]
    assert list(tmp_path.iterdir()) == []


def test_only_the_searches_that_were_asked_for_are_measured(small_evaluation, tmp_path):
    arguments = ["--device", "cpu", "--suite", "eval", "--quick", "--searches", "fast"]
    assert main([*arguments, "--run", "robust", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/eval-rehearsal.json")
    found = json.loads(path.read_text())
    assert [row["name"] for row in found["tables"][1]["rows"]] == ["pyautoattack", "fast"]
    assert len(found["figures"]) == 5
    assert all("fast search" in figure["claim"] for figure in found["figures"])


def test_only_the_attacks_that_were_asked_for_are_measured(small_evaluation, tmp_path):
    arguments = ["--device", "cpu", "--suite", "eval", "--quick", "--searches", "fast"]
    for attack, library in (("pgd20", "torchattacks"), ("aa", "pyautoattack")):
        out = tmp_path / attack
        chosen = ["--run", "robust", "--attacks", attack, "--out", str(out)]
        assert main([*arguments, *chosen]) == 0
        (path,) = out.glob("*/eval-rehearsal.json")
        (table,) = json.loads(path.read_text())["tables"]
        assert [row["name"] for row in table["rows"]] == [library, "fast"]
