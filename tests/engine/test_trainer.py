"""The loop: resumed equals uninterrupted, divergence stops it, nothing that was kept is lost."""

from __future__ import annotations

import multiprocessing
from itertools import islice

import pytest
import safetensors.torch
import torch
from rich.console import Console

from frbench import storage, workflow
from frbench.data import to_float
from frbench.engine.device import find_device
from frbench.engine.judge import Judge, Judgement
from frbench.engine.plan import resolve
from frbench.engine.run import RunFolder, find_run
from frbench.engine.trainer import Diverged, Trainer
from frbench.errors import FrbenchError, InputError
from frbench.models import load_weights

MECHANISMS = {"at_fr_swa": {"fr.start_epoch": "1", "swa.start_epoch": "1"}}


def plan(name="pgd_at", seed=0, **overrides):
    text = {"epochs": "3", "validation_images": "40", **MECHANISMS.get(name, {})}
    text |= {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return resolve(name, preset="smoke", seed=seed, overrides=text)


class Kill(BaseException):
    """As a signal: nothing in the loop catches it."""


class Killer:
    """Stops a training at the end of an epoch, or at a step."""

    def __init__(self, epoch=None, step=None):
        self._epoch, self._step = epoch, step

    def step(self, done, total):
        if done == self._step:
            raise Kill

    def epoch(self, metrics):
        if metrics["epoch"] == self._epoch:
            raise Kill


@pytest.fixture
def trainer(small_digits, tmp_path):
    def build(found, folder="run"):
        return Trainer(found, small_digits, find_device("cpu"), RunFolder(tmp_path / folder))

    return build


def tensors(run):
    """Every tensor that a run left behind, by file and name."""
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted(run.path.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(path).items()
    }


def assert_equal_runs(a, b):
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for x, y in zip(a.metrics(), b.metrics(), strict=True):
        timeless = x.keys() - {"seconds", "train_seconds"}
        assert {k: x[k] for k in timeless} == {k: y[k] for k in timeless}


@pytest.mark.parametrize(
    ("name", "average", "overrides"),
    [
        ("at_fr_swa", "swa", {}),
        ("at_fr_swa", "swa", {"swa__batchnorm": "average"}),
        ("trades+awp+ema", "ema", {}),
    ],
)
def test_killed_at_any_moment_and_resumed_equals_uninterrupted_bit_for_bit(
    trainer, name, average, overrides
):
    def fresh(folder="killed"):
        return trainer(plan(name, **overrides), folder)

    straight = fresh("straight").run()
    steps = len(fresh().batches)
    for killer in (
        Killer(step=2),  # before the first checkpoint
        Killer(epoch=0),
        Killer(step=steps + 3),  # in the middle of the second epoch
        Killer(epoch=1),
        Killer(epoch=2),  # after the last checkpoint, before the run is marked as finished
    ):
        with pytest.raises(Kill):
            fresh().run(killer)
        assert not fresh().folder.finished()
    resumed = fresh().run()
    assert resumed.finished() and straight.finished()
    assert_equal_runs(straight, resumed)
    assert resumed.views() == ["best", "last", f"{average}-best", f"{average}-last"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["at_fr_swa", "trades+awp+ema"])
def test_a_training_on_cuda_goes_on_after_a_kill_and_ends_as_an_uninterrupted_one(
    name, small_digits, tmp_path
):
    said = []

    def fresh(folder):
        device = find_device("cuda", "fp32")
        return Trainer(plan(name), small_digits, device, RunFolder(tmp_path / folder), said.append)

    straight = fresh("straight").run()
    with pytest.raises(Kill):
        fresh("killed").run(Killer(epoch=1))
    resumed = fresh("killed").run()
    assert said == ["killed: goes on after epoch 2 of 3"], "and every step was captured"
    assert resumed.finished() and resumed.views() == straight.views()
    assert straight.metrics()[-1]["val_clean"] > 0.3, "it has learned something"
    for ours, theirs in zip(straight.metrics(), resumed.metrics(), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)


def test_a_kill_between_checkpoint_and_metrics_loses_no_line(trainer, monkeypatch):
    write = storage.write_text

    def killed(path, content):
        if path.name == "metrics.jsonl" and content.count("\n") == 3:
            raise Kill
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(storage, "write_text", killed)
        trainer(plan()).run()
    run = trainer(plan()).run()
    assert run.finished()
    assert [line["epoch"] for line in run.metrics()] == [0, 1, 2]


def test_resumed_run_takes_the_number_of_threads_that_it_began_with(trainer, monkeypatch):
    with pytest.raises(Kill):
        trainer(plan()).run(Killer(epoch=1))
    folder = trainer(plan()).folder
    assert folder.info()["threads"] == torch.get_num_threads()
    folder.write_info({**folder.info(), "threads": 7})
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)  # seven real ones would be slow
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    trainer(plan()).resume()
    assert taken == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    trainer(plan()).resume()
    assert taken == [7]


def test_a_resumed_run_leaves_the_number_of_threads_as_it_was(trainer, monkeypatch):
    with pytest.raises(Kill):
        trainer(plan()).run(Killer(epoch=0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    folder = trainer(plan()).folder
    folder.write_info({**folder.info(), "threads": 7})
    taken = [torch.get_num_threads()]
    usual = taken[0]
    monkeypatch.setattr(torch, "set_num_threads", taken.append)  # seven real ones would be slow
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    with pytest.raises(Kill):
        trainer(plan()).run(Killer(epoch=1))
    assert taken == [usual, 7, usual]
    assert trainer(plan()).run().info()["threads"] == 7
    assert taken == [usual, 7, usual, 7, usual]


def test_one_seed_one_result_and_another_seed_another(trainer):
    first, again = trainer(plan(), "a").run(), trainer(plan(), "b").run()
    assert_equal_runs(first, again)
    other = tensors(trainer(plan(seed=1), "c").run())
    same = tensors(first)
    for name in ("last/linear.weight", "last/stem.weight", "last/bn.running_mean"):
        assert not torch.equal(other[name], same[name])


def test_initial_weights_follow_from_the_seed_alone(trainer):
    first, again, other = (trainer(plan(seed=seed)).model.net.stem.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_step_of_every_epoch_and_seed_attacks_from_noise_of_its_own(trainer):
    def draws(seed, epoch):
        found = islice(trainer(plan(seed=seed))._noisy_batches(epoch), 2)
        return [noise.flatten().tolist() for _, noise in found]

    once, again = ([draws(s, e) for s in (0, 1) for e in (0, 1)] for _ in range(2))
    assert once == again
    assert len({tuple(noise) for pair in once for noise in pair}) == 8


def test_statistics_of_an_average_are_of_other_batches_than_the_trained_ones(trainer):
    def first(seed):
        return next(trainer(plan("at_swa", seed=seed, swa__start_epoch=1))._plain_images(1))

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert not torch.equal(first(0), next(trainer(plan()).batches.epoch(1)).images)


def test_an_average_is_updated_in_tf32_on_a_gpu_that_trains_in_bf16(
    trainer, pretender, monkeypatch
):
    ours = trainer(plan("at_swa", swa__start_epoch=0))
    average, seen = ours.plan.recipe.average, []
    monkeypatch.setattr(
        type(average), "after_epoch", lambda *_: seen.append(torch.backends.cudnn.allow_tf32)
    )
    for precision in ("bf16", "fp32"):
        ours.device = pretender(precision)
        ours._finish_epoch(0, loss=1.0)
    assert seen == [True, False]


def test_digits_are_trained_on_without_mirrors_and_cropped_as_the_frame_says(trainer, small_digits):
    whole = trainer(plan(pad=0))
    images = torch.cat([batch.images for batch in whole.batches.epoch(0)])
    held = round(0.1 * len(small_digits.train))
    known = {tuple(image.flatten().tolist()) for image in to_float(small_digits.train.images)}
    assert len(images) == len(small_digits.train) - held
    assert {tuple(image.flatten().tolist()) for image in images} <= known
    zero, reflect = (
        next(trainer(plan(pad=2, padding=padding)).batches.epoch(0)).images
        for padding in ("zero", "reflect")
    )
    assert not torch.equal(zero, reflect)


def test_an_average_rides_along_without_changing_the_trajectory(trainer):
    plain = tensors(trainer(plan("pgd_at"), "plain").run())
    averaged = tensors(trainer(plan("at_swa", swa__start_epoch=1), "averaged").run())
    for name in (n for n in plain if n.startswith(("best/", "last/", "checkpoint/m"))):
        assert torch.equal(plain[name], averaged[name]), name


@pytest.mark.parametrize("name", ["at_swa", "pgd_at+ema"])
def test_an_average_begins_with_its_start_epoch(trainer, name):
    kind = "swa" if "swa" in name else "ema"
    training = trainer(plan(name, **{f"{kind}__start_epoch": 2}))
    run = training.run()
    judged = [f"{kind}_val_pgd20" in line for line in run.metrics()]
    assert judged == [False, False, True]
    updates = 1 if kind == "swa" else len(training.batches)
    assert training.average_state["count"] == updates


def test_best_is_the_epoch_with_the_most_robust_held_out_accuracy(trainer):
    run = trainer(plan()).run()
    lines = run.metrics()
    best = max(lines, key=lambda line: line["val_pgd20"])  # the first of equals, as kept
    _, meta = load_weights(run.weights("best"))
    assert meta.extra["epoch"] == best["epoch"]
    _, last = load_weights(run.weights("last"))
    assert last.extra["epoch"] == 2
    model, meta = load_weights(run.weights("last"))
    assert (meta.architecture, meta.classes, meta.dataset) == ("tiny", 10, "digits")
    assert not model.training


def test_of_equally_robust_epochs_the_first_is_kept(trainer, monkeypatch):
    monkeypatch.setattr(Judge, "__call__", lambda *_: Judgement(0.5, 0.25, 1.0))
    run = trainer(plan()).run()
    _, meta = load_weights(run.weights("best"))
    assert meta.extra["epoch"] == 0


def test_a_kill_while_judging_the_average_leaves_the_files_of_the_checkpoint(trainer, monkeypatch):
    seeds = []

    def better_each_time(judge, model, seed):
        seeds.append(seed)
        if len(seeds) == 5:  # one judgement of the first epoch, two of each later one
            raise Kill
        return Judgement(0.5, len(seeds) / 100, 1.0)

    monkeypatch.setattr(Judge, "__call__", better_each_time)
    training = trainer(plan("at_swa", swa__start_epoch=1))
    with pytest.raises(Kill):
        training.run()
    _, progress = training.folder.load_checkpoint()
    assert progress.best == {"": 0.02, "swa": 0.03}
    for view, robust in (("best", 0.02), ("swa-best", 0.03)):
        _, meta = load_weights(training.folder.weights(view))
        assert (meta.extra["epoch"], meta.extra["val_pgd20"]) == (1, robust)
    assert len(set(seeds)) == 1, "every epoch is judged from the same random starts"


def test_test_images_are_watched_and_nothing_is_chosen_by_them(trainer):
    found = plan("at_fr_swa", validation_every=2)
    without = trainer(found, "without").run()
    watched = trainer(plan("at_fr_swa", validation_every=2, test_images=30), "watched").run()
    ours, theirs = tensors(without), tensors(watched)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for view in without.views():
        epochs = [load_weights(run.weights(view))[1].extra["epoch"] for run in (without, watched)]
        assert epochs[0] == epochs[1], view
    extra = []
    for a, b in zip(without.metrics(), watched.metrics(), strict=True):
        timeless = a.keys() - {"seconds", "train_seconds"}
        assert {k: a[k] for k in timeless} == {k: b[k] for k in timeless}
        extra.append(sorted(b.keys() - a.keys()))
        assert all(30 * b[key] == pytest.approx(round(30 * b[key])) for key in extra[-1])
    names = ["swa_test_clean", "swa_test_pgd20", "test_clean", "test_pgd20"]
    assert extra == [[], names, names]  # epoch 0 is not judged, the others with the average


def test_watched_images_are_the_first_of_the_test_set(trainer, small_digits):
    run = trainer(plan(test_images=len(small_digits.test), epochs=1)).run()
    model, _ = load_weights(run.weights("last"))
    with torch.no_grad():
        right = model(to_float(small_digits.test.images)).argmax(dim=1) == small_digits.test.labels
    assert run.metrics()[-1]["test_clean"] == pytest.approx(right.float().mean().item())


def test_more_test_images_than_there_are_is_wrong_input(trainer, small_digits):
    n = len(small_digits.test)
    with pytest.raises(InputError, match=rf"test_images={n + 1} exceeds the {n} test images of"):
        trainer(plan(test_images=n + 1))


def test_run_folder_holds_settings_and_cost(trainer):
    info = trainer(plan("trades", beta=3)).run().info()
    assert info["settings"]["recipe"]["objective"]["beta"] == 3
    assert info["settings"]["changed"] == ["epochs=3", "validation_images=40", "beta=3"]
    assert info["cost"]["forward_units"] == 2 * 2 + 1 + 6
    assert info["cost"]["images_per_second"] > 0


def test_cost_counts_the_forwards_that_only_move_statistics(trainer):
    """Those of PGD-AT's authors: two a step."""
    found = plan(statistics_before="adversarial", statistics_after="clean")
    assert trainer(found).run().info()["cost"]["forward_units"] == 2 * 2 + 3 + 2


def test_speed_counts_every_image_once(trainer):
    """Of 432 training images in batches of 25, the last one has 7."""
    run = trainer(plan(batch_size=25))
    cost = run.run().info()["cost"]
    seconds = sum(line["train_seconds"] for line in run.progress.metrics)
    assert cost["images_per_second"] == pytest.approx(432 * 3 / seconds, rel=1e-2)


def test_weights_know_their_training_without_the_run(trainer):
    run = trainer(plan("at_fr_swa")).run()
    extra = load_weights(run.weights("swa-last"))[1].extra
    told = ("defense", "preset", "protocol", "seed", "view")
    assert [extra[key] for key in told] == ["at_fr_swa", "smoke", "common", 0, "swa-last"]
    assert extra["changed"] == list(trainer(plan("at_fr_swa")).plan.changed)


# --- what goes wrong ------------------------------------------------------------------------------


def test_divergence_stops_and_the_last_good_checkpoint_stays(trainer, monkeypatch):
    run = trainer(plan(precision="fp32"))
    with pytest.raises(Kill):
        run.run(Killer(epoch=0))
    before = tensors(run.folder)
    broken = trainer(plan(precision="fp32"))
    monkeypatch.setattr(type(broken.plan.frame), "learning_rate", lambda *_: 1e9)
    with pytest.raises(Diverged, match="of epoch 2 are not finite") as caught:
        broken.run()
    kept = f"{run.folder.path} keeps the last good checkpoint (epoch 1); try a smaller lr"
    assert kept in str(caught.value)
    after = tensors(run.folder)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not run.folder.finished()


def test_huge_learning_rate_diverges_before_anything_is_kept(trainer):
    run = trainer(plan(lr=1e9, precision="fp32"))
    said = (
        r"of epoch 1 are not finite; nothing was saved yet in .*run; try a smaller lr; "
        r"'frbench check pgd_at' tries the loss in defenses/pgd_at\.py:\d+ on one batch$"
    )
    with pytest.raises(Diverged, match=said):
        run.run()
    assert run.folder.load_checkpoint() is None


def test_weights_ruined_by_the_last_step_are_never_kept(trainer, monkeypatch):
    """The loss of that epoch is still finite: only the weights tell."""
    run = trainer(plan())
    steps = len(run.batches)
    honest = type(run.plan.frame).learning_rate

    def last_step_explodes(frame, epoch, step, total):
        return float("inf") if step == steps - 1 else honest(frame, epoch, step, total)

    monkeypatch.setattr(type(run.plan.frame), "learning_rate", last_step_explodes)
    with pytest.raises(Diverged, match="not finite"):
        run.run()
    assert run.folder.load_checkpoint() is None


def test_a_model_that_answers_a_constant_is_stopped(trainer):
    """An absurd weight decay does at once what FR does to a short schedule."""
    said = (
        r"constant in epoch 2 .*last good checkpoint \(epoch 1\)[^;]*; try a smaller lr or weight$"
    )
    with pytest.raises(Diverged, match=said):
        trainer(plan(weight_decay=3, precision="fp32")).run()
    frequencies = plan("at_fr", weight_decay=3, precision="fp32", fr__start_epoch=0)
    with pytest.raises(
        Diverged, match=r"; start FR later \(fr\.start_epoch\), or try a smaller lr"
    ):
        trainer(frequencies).run()


def test_a_model_has_a_tenth_of_its_epochs_to_leave_a_constant(trainer, monkeypatch):
    monkeypatch.setattr(Judge, "__call__", lambda *_: Judgement(0.1, 0.1, 0.01))
    training = trainer(plan(epochs=30))
    training._judged("", training.model, 2)
    training._judged("swa", training.model, 29)  # an average is as constant as its model
    with pytest.raises(Diverged, match="constant in epoch 4"):
        training._judged("", training.model, 3)


@pytest.mark.parametrize("bad", [{"lr": 1e9}, {"weight_decay": 3}])
def test_divergence_in_bf16_names_float32_as_a_remedy(trainer, bad):
    with pytest.raises(Diverged, match=r", or precision=fp32(;|$)"):
        trainer(plan(precision="bf16", **bad)).run()


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty", "foreign"])
def test_damaged_checkpoint_is_named_and_nothing_is_deleted(trainer, damage):
    with pytest.raises(Kill):
        trainer(plan()).run(Killer(epoch=0))
    run = trainer(plan())
    path = run.folder.path / "checkpoint.safetensors"
    content = path.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "overwritten": b"\x00" * len(content),
        "empty": b"",
        "foreign": safetensors.torch.save({"x": torch.zeros(1)}),
    }[damage]
    path.write_bytes(damaged)
    files = {p.name for p in run.folder.path.iterdir()}
    with pytest.raises(InputError, match=r"damaged checkpoint .*checkpoint\.safetensors.*move it"):
        run.run()
    assert {p.name for p in run.folder.path.iterdir()} == files
    assert path.read_bytes() == damaged


def test_checkpoint_of_another_recipe_is_refused(trainer):
    with pytest.raises(Kill):
        trainer(plan("trades+ema")).run(Killer(epoch=0))
    other = trainer(plan("trades+ema"))
    kept = other.folder.load_checkpoint()
    del kept[0]["model.net.linear.bias"]
    other.folder.save_checkpoint(*kept)
    with pytest.raises(FrbenchError, match=r"belongs to another recipe or model; move"):
        trainer(plan("trades+ema")).run()


def hold(path, ready, done):
    with storage.locked(path):
        ready.set()
        done.wait(30)


def test_a_second_trainer_on_the_same_folder_is_refused(tmp_path, small_digits, monkeypatch):
    monkeypatch.setattr(workflow, "load_dataset", lambda name: small_digits)
    found, console = plan(), Console(quiet=True)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    folder = RunFolder(tmp_path / found.name)
    process = context.Process(target=hold, args=(folder.lock(), ready, done))
    process.start()
    try:
        assert ready.wait(30)
        with pytest.raises(storage.Busy, match=f"another process is training {folder.name}"):
            workflow.train(found, find_device("cpu"), tmp_path, console)
    finally:
        done.set()
        process.join()
    run = workflow.train(found, find_device("cpu"), tmp_path, console)
    assert run.finished()  # the lock went with its holder


# --- which run serves which plan ------------------------------------------------------------------


def finished(runs_dir, found):
    run = RunFolder(runs_dir / found.name)
    run.write_info({"settings": found.settings(), "finished": True})
    return run


def test_run_with_an_average_serves_the_plain_recipe_and_not_vice_versa(tmp_path):
    averaged = finished(tmp_path / "a", plan("at_fr_swa"))
    plain_plan = plan("at_fr", fr__start_epoch=1)
    assert find_run(tmp_path / "a", plain_plan).name == averaged.name
    finished(tmp_path / "b", plain_plan)
    assert find_run(tmp_path / "b", plan("at_fr_swa")) is None


def test_run_with_another_average_or_seed_or_setting_does_not_serve(tmp_path):
    finished(tmp_path, plan("at_swa", swa__start_epoch=1))
    for other in (
        plan("at_swa", swa__start_epoch=2),
        plan("pgd_at+ema"),
        plan("at_swa", seed=1, swa__start_epoch=1),
        plan("at_swa", swa__start_epoch=1, lr=0.05),
        plan("trades"),
    ):
        assert find_run(tmp_path, other) is None
        assert not RunFolder(tmp_path / other.name).path.exists()  # nor does it share the folder


def test_finished_run_is_preferred_to_an_unfinished_one(tmp_path):
    unfinished = RunFolder(tmp_path / plan("pgd_at").name)
    unfinished.write_info({"settings": plan("pgd_at").settings(), "finished": False})
    assert find_run(tmp_path, plan("pgd_at")).name == unfinished.name
    done = finished(tmp_path, plan("at_swa", swa__start_epoch=1))
    assert find_run(tmp_path, plan("pgd_at")).name == done.name


def test_own_finished_run_is_preferred_to_one_that_serves_too(tmp_path):
    """On a GPU two trainings of one plan differ: what was measured on one stays with it."""
    own = finished(tmp_path, plan("pgd_at"))
    averaged = finished(tmp_path, plan("at_swa", swa__start_epoch=1))
    assert find_run(tmp_path, plan("pgd_at")).name == own.name
    assert find_run(tmp_path, plan("at_swa", swa__start_epoch=1)).name == averaged.name


def test_run_of_another_preset_does_not_serve(tmp_path):
    """Its row would bear the other preset's name and remarks."""
    known = plan()
    settings = {**known.settings(), "preset": "quick"}
    run = RunFolder(tmp_path / f"quick-pgd_at-s0-{known.trajectory}")
    run.write_info({"settings": settings, "finished": True})
    assert find_run(tmp_path, known) is None


def test_unfinished_run_with_an_average_is_not_resumed_as_one_without(tmp_path):
    """Else its last epochs would be missing from the average, and nobody would see it."""
    found = plan("at_swa", swa__start_epoch=1)
    averaged = RunFolder(tmp_path / found.name)
    averaged.write_info({"settings": found.settings(), "finished": False})
    assert find_run(tmp_path, plan("pgd_at")) is None
    assert find_run(tmp_path, found).name == averaged.name


def test_run_with_test_curves_serves_a_plan_without_and_not_vice_versa(tmp_path):
    watched = finished(tmp_path / "a", plan(test_images=9))
    assert find_run(tmp_path / "a", plan()).name == watched.name
    assert find_run(tmp_path / "a", plan(test_images=8)) is None
    finished(tmp_path / "b", plan())
    assert find_run(tmp_path / "b", plan(test_images=9)) is None


def test_run_from_before_a_setting_still_serves(tmp_path):
    run = RunFolder(tmp_path / plan().name)
    settings = plan().settings()
    del settings["frame"]["test_images"]
    run.write_info({"settings": settings, "finished": True})
    assert find_run(tmp_path, plan()).name == run.name


@pytest.mark.parametrize("done", [True, False])
def test_run_from_before_a_mechanisms_setting_still_serves(tmp_path, done):
    """EMA once had no start_epoch: it started at 0, and its run had another name."""
    found = plan("pgd_at+ema")
    settings = found.settings()
    del settings["recipe"]["mechanisms"]["ema"]["start_epoch"]
    run = RunFolder(tmp_path / f"smoke-pgd_at+ema-s0-beef-{found.trajectory}")
    run.write_info({"settings": settings, "finished": done})
    assert find_run(tmp_path, found).name == run.name
    assert find_run(tmp_path, plan("pgd_at+ema", ema__start_epoch=1)) is None


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", "", '{"settings": {}}', '{"settings": {"recipe": {}}}']
)
def test_damaged_run_is_named(tmp_path, content):
    run = finished(tmp_path, plan())
    (run.path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"damaged run.*run\.json.*move it away"):
        find_run(tmp_path, plan())


def test_folder_without_run_and_damaged_metrics_are_named(tmp_path):
    with pytest.raises(InputError, match="is not a run"):
        RunFolder(tmp_path / "nothing").info()
    run = finished(tmp_path, plan())
    assert run.metrics() == []
    for damaged in (b"{", b"[]", b"3", b'{"train_loss": 1.0}', b'{"epoch": null}', b'{"epoch\xff'):
        (run.path / "metrics.jsonl").write_bytes(b'{"epoch": 0}\n' + damaged)
        with pytest.raises(InputError, match=r"damaged metrics .*metrics\.jsonl:2"):
            run.metrics()
