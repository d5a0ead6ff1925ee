"""Wrong input: one clear line on stderr, the right exit code, and nothing that was is lost."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from frbench.data import load_dataset

SMOKE = "train pgd_at --preset smoke"

# What is typed, and what the one line has to say. RUN is the world's run.
TYPED = [
    # names
    ("train pgd_att", "unknown defense 'pgd_att': did you mean 'pgd_at'?"),
    ("train trades+swaa", "unknown defense 'swaa': did you mean 'swa'?"),
    ("bench pgd_at tradess --preset smoke", "unknown defense 'tradess': did you mean 'trades'?"),
    ("train pgd_at --preset quik", "unknown preset 'quik': did you mean 'quick'?"),
    ("train pgd_at --protocol orignal", "unknown protocol 'orignal': did you mean 'original'?"),
    (f"{SMOKE} epoch=3", "unknown key 'epoch': did you mean 'epochs'?"),
    (f"{SMOKE} eps=8/255", "unknown key 'eps': did you mean 'attack.eps'?"),
    ("train at_fr --preset smoke fr.wieght=1", "unknown key 'fr.wieght': did you mean 'fr.weight'"),
    ("train pgd_at+ --preset smoke", "'pgd_at+' ends in +: name a mechanism after it"),
    ("evaluate file:runs", "runs is a folder, not a weights file"),
    (f"{SMOKE} architecture=tinny", "unknown architecture 'tinny': did you mean 'tiny'?"),
    (f"{SMOKE} dataset=digit", "unknown dataset 'digit': did you mean 'digits'?"),
    ("evaluate RUN --attacks pdg20", "unknown attack 'pdg20': did you mean 'pgd20'?"),
    ("evaluate RUN --stages apgd-tt", "unknown AutoAttack stage 'apgd-tt': did you mean 'apgd-t'?"),
    ("evaluate RUN --norm L3", "unknown norm 'L3'"),
    ("evaluate RUN --device gpu", "unknown device 'gpu'; use auto, cpu or cuda"),
    ("evaluate RUN --device cpu:7", "device 'cpu:7' is not possible: cpu has no index; use cpu"),
    (f"{SMOKE} --device cpu:0", "device 'cpu:0' is not possible: cpu has no index; use cpu"),
    ("list defense", "unknown list 'defense': did you mean 'defenses'?"),
    ("data fetch cifr10", "unknown dataset 'cifr10': did you mean 'cifar10'?"),
    ("leaderboard --format jsn", "unknown format 'jsn': did you mean 'json'?"),
    ("compare pgd_at nope", "unknown row 'nope'"),
    ("check nope", "unknown defense 'nope'"),
    ("verify tradess", "unknown defense 'tradess': did you mean 'trades'?"),
    ("new pgd_at", "'pgd_at' is taken"),
    ("new 9lives", "'9lives' cannot be a recipe's name"),
    # values
    (f"{SMOKE} attack.eps=-1/255", "impossible setting attack.eps=-0.0039"),
    (f"{SMOKE} attack.eps=8", "attack.eps=8 (radius, pixels in [0, 1]): input should be less"),
    (f"{SMOKE} attack.eps=8/0", "impossible setting attack.eps=8/0"),
    (f"{SMOKE} epochs=0", "impossible setting epochs=0"),
    (f"{SMOKE} epochs=many", "impossible setting epochs=many"),
    (f"{SMOKE} lr=nan", "impossible setting lr=nan"),
    (f"{SMOKE} batch_size=0", "impossible setting batch_size=0"),
    (f"{SMOKE} schedule=milestones milestones=4", "milestone 4 is beyond the last epoch 3"),
    (f"{SMOKE} pad={'9' * 20}", "impossible setting pad=9999"),
    (f"{SMOKE} architecture=timm:vit_tiny_patch16_224", "cannot take images of 1x8x8: Input heigh"),
    (f"{SMOKE} validation_fraction=0.9999", "cannot hold out 0.9999 of 1437 images"),
    ("train at_fr --preset quick milestones=3,5", "milestones=3,5 does nothing with schedule=onec"),
    (
        "train at_fr --preset quick padding=reflect",
        "padding=reflect does nothing with pad=0; add pad=4 ",
    ),
    ("train at_fr --preset paper warmup=0.1", "warmup=0.1 does nothing with schedule=milestones; "),
    ("train at_fr --preset smoke fr.start_epoch=4", "start_epoch=4 is beyond the last epoch 3"),
    (f"{SMOKE} attack.eps={'9' * 400}/1", "impossible setting attack.eps=9"),
    (f"{SMOKE} --seed -1", "invalid value for '--seed'"),
    (f"{SMOKE} --seed {2**64}", "invalid value for '--seed'"),
    ("bench pgd_at --preset smoke --n 0", "invalid value for '--n'"),
    ("bench pgd_at --preset smoke --seeds 0", "invalid value for '--seeds'"),
    ("evaluate RUN --n 0", "invalid value for '--n'"),
    ("evaluate RUN --n 361", "choose n from 1 to 360"),
    ("evaluate RUN --batch 0", "--batch 0 is neither a number from 1 on nor fastest"),
    ("evaluate RUN --batch best", "--batch best is neither a number from 1 on nor fastest"),
    ("evaluate RUN --eps -1/255", "is not in (0, 1]"),
    ("evaluate RUN --eps huge", "eps 'huge' is not a number: write it as 8/255"),
    ("evaluate RUN --attacks ,", "no attack given"),
    ("analyze lowpass RUN --n 361", "n 361 is not possible: digits has 1 to 360 test images"),
    ("analyze lowpass RUN --n 8 --bandwidths 7", "bandwidth 7 is not an even number"),
    ("analyze spectrum RUN --images 5,360", "image 360 is not there: digits has test images 0"),
    ("analyze spectrum RUN --images 3,-1", "image -1 is not there: digits has test images 0"),
    # targets
    ("evaluate naturl", "unknown target 'naturl': did you mean 'natural'?"),
    ("evaluate RUN nothing", "unknown target 'nothing'"),
    ("evaluate RUN@lst", "did you mean 'last'?"),
    ("evaluate cache", "cache is not a run (it has no run.json)"),
    ("evaluate file:/no/model.pt --arch resnet18", "no weights file /no/model.pt"),
    ("export robustbench pgd_at", "RobustBench has no digits entry under Linf 8/255"),
    ("leaderboard --results-dir runs", "no cells yet in runs"),
    # how it is typed
    ("train", "missing argument 'DEFENSE'; see"),
    (f"{SMOKE} --bogus", "no such option: --bogus; see"),
    ("trian pgd_at", "no such command 'trian'"),
    (f"{SMOKE} faster", "'faster' is not key=value, such as epochs=10"),
    (f"{SMOKE} =3", "'=3' is not key=value"),
    (f"{SMOKE} epochs=", "'epochs=' is not key=value"),
    ("bench epochs=3", "settings alone are no DEFENSE"),
    ("check", "give one DEFENSE, or --all"),
]


@pytest.mark.parametrize(("typed", "says"), TYPED, ids=[typed for typed, _ in TYPED])
def test_what_is_typed_wrong(typed, says, frbench, world, run_name, contents) -> None:
    before = contents(world)
    ended = frbench(*typed.replace("RUN", run_name).split())
    assert says in ended.line
    assert (ended.code, ended.out) == (2, "")
    assert contents(world) == before


def test_a_range_is_refused_before_the_first_attack(frbench, world, run_name, monkeypatch) -> None:
    """Of the second target too: attacks on the first one may take hours."""
    attacked = []
    monkeypatch.setattr(
        "frbench.evaluation.evaluate", lambda target, *_, **__: attacked.append(target)
    )
    ended = frbench("evaluate", run_name, f"{run_name}@last", "--n", "361")
    assert (ended.code, attacked) == (2, []) and "choose n from 1 to 360" in ended.line


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, lambda p: p.write_text(""), _flip])
def test_damaged_weights_are_named(damage, frbench, world, run_name, contents) -> None:
    path = world / "runs" / run_name / "best.safetensors"
    damage(path)
    before = contents(world)
    ended = frbench("evaluate", run_name, "--attacks", "clean", "--n", "9")
    assert ended.code == 2 and ended.out == ""
    assert "best.safetensors" in ended.line
    assert contents(world) == before


@pytest.mark.parametrize(
    ("view", "damage"),
    [("best", lambda p: p.write_bytes(p.read_bytes()[:100])), ("last", Path.unlink)],
)
def test_a_finished_run_without_its_weights_is_not_reused(
    view, damage, frbench, world, run_name, contents
) -> None:
    damage(world / "runs" / run_name / f"{view}.safetensors")
    before = contents(world)
    for words in ([*SMOKE.split(), "epochs=2"], ["bench", *SMOKE.split()[1:], "epochs=2"]):
        ended = frbench(*words)
        assert (ended.code, ended.out) == (2, "")
        assert f"{run_name}/{view}.safetensors" in ended.line and "to train it again" in ended.line
    assert contents(world) == before


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (f"{SMOKE} batch_size=99999999", "batch_size=99999999 exceeds the 1293 training images"),
        (f"{SMOKE} validation_images=145", "exceeds the 144 held-out images of digits"),
        (f"{SMOKE} architecture=tinny", "unknown architecture 'tinny'"),
        (f"{SMOKE} dataset=cifar11", "unknown dataset 'cifar11'"),
        ("bench pgd_at --preset smoke --n 361", "n=361 exceeds the 360 test images of digits"),
    ],
)
def test_impossible_settings_are_refused_before_they_are_shown(typed, says, frbench, world) -> None:
    ended = frbench(*typed.split())
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.line and "objective" not in ended.err


@pytest.fixture
def unfinished(world: Path, run_name: str) -> Path:
    """The world's run as a kill after its first epoch would leave it, but for the progress."""
    folder = world / "runs" / run_name
    info = folder / "run.json"
    info.write_text(info.read_text().replace('"finished": true', '"finished": false'))
    return folder


@pytest.mark.parametrize("damage", [_truncate, lambda p: p.write_text("not a checkpoint")])
def test_a_damaged_checkpoint_is_named_and_kept(
    damage, frbench, world, unfinished, contents
) -> None:
    damage(unfinished / "checkpoint.safetensors")
    before = contents(world)
    ended = frbench(*SMOKE.split(), "epochs=2")
    assert ended.code == 2 and ended.out == ""
    assert "damaged checkpoint" in ended.line and "move it away" in ended.line
    assert contents(world) == before


def test_a_checkpoint_of_another_model_is_refused(frbench, world, unfinished, contents) -> None:
    path = unfinished / "checkpoint.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("model.") and tensors[name].dim() > 1)
    tensors[name] = tensors[name][:1].repeat(3, *([1] * (tensors[name].dim() - 1)))
    progress = '{"epochs_done": 1, "best": {}, "metrics": []}'
    save_file(tensors, path, {"progress": progress})
    before = contents(world)
    ended = frbench(*SMOKE.split(), "epochs=2")
    assert ended.code in (1, 2) and ended.out == ""
    assert "checkpoint" in ended.line
    assert contents(world) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}', "\xff\xfe"])
def test_a_damaged_run_json_is_named(text, frbench, world, run_name, contents) -> None:
    (world / "runs" / run_name / "run.json").write_bytes(text.encode("latin-1"))
    before = contents(world)
    for words in (
        ["evaluate", run_name, "--attacks", "clean"],
        [*SMOKE.split(), "epochs=2"],
    ):
        ended = frbench(*words)
        assert ended.code == 2 and ended.out == ""
        assert "run.json" in ended.line
    assert contents(world) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 1}', "\xff\xfe"])
def test_a_damaged_cell_is_named_and_kept(text, frbench, world, run_name, contents) -> None:
    """It stops the command that needs it, and no table of the others."""
    cell = next((world / "results/local/cells/pgd_at").glob("pgd20-*.json"))
    cell.write_bytes(text.encode("latin-1"))
    before = contents(world)
    ended = frbench("evaluate", run_name, "--attacks", "pgd20", "--n", "8")
    assert ended.code == 2 and ended.out == ""
    assert f"damaged cell {cell.relative_to(world)}" in ended.line
    ended = frbench("leaderboard")
    assert ended.code == 0 and "pgd_at" in ended.out and "PGD-20" not in ended.out
    assert f"left out: damaged cell {cell.relative_to(world)}" in ended.line
    assert "move it away to compute it again" in ended.line
    assert contents(world) == before


def test_a_damaged_data_cache_is_kept_aside_and_never_used(frbench, world, run_name) -> None:
    path = world / "cache/datasets/digits.safetensors"
    good = load_dataset("digits")
    _flip(path)
    bad = path.read_bytes()
    ended = frbench("data", "verify", "digits")
    assert (ended.code, ended.out) == (1, "")
    assert "digits.safetensors is damaged" in ended.line and "frbench data fetch" in ended.line
    assert path.with_name("digits.safetensors.rejected").read_bytes() == bad
    ended = frbench("evaluate", run_name, "--attacks", "clean", "--n", "8")
    assert ended.code == 0  # fetched again, from the copy that scikit-learn carries
    again = load_dataset("digits")
    assert (again.train.sha256, again.test.sha256) == (good.train.sha256, good.test.sha256)


def _full(number: int = errno.ENOSPC) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "no space left on the device"), (errno.EACCES, "permission denied")],
)
@pytest.mark.parametrize(
    "typed",
    [
        "train pgd_at --preset smoke epochs=1",
        "evaluate RUN --attacks clean --n 9",
        "leaderboard --write",
        "new mine",
    ],
)
def test_a_disk_that_takes_nothing(
    typed, number, says, frbench, world, run_name, contents, monkeypatch
) -> None:
    before = contents(world)
    monkeypatch.setattr(os, "fsync", _full(number))
    ended = frbench(*typed.replace("RUN", run_name).split())
    assert ended.code == 1
    assert says in ended.line
    assert contents(world) == before


@pytest.mark.parametrize(
    "typed",
    [
        "train pgd_at --preset smoke --runs-dir a_file/runs",
        "train pgd_at --preset smoke --runs-dir a_file",
        "train pgd_at --preset smoke --runs-dir a_file --estimate",
        "bench pgd_at --preset smoke --runs-dir a_file",
        "bench pgd_at --preset smoke epochs=1 --results-dir a_file",
        "evaluate RUN --attacks clean --n 9 --results-dir a_file/results",
        "evaluate natural --attacks clean --n 9 --runs-dir a_file",
        "analyze curves RUN --out a_file/figures",
    ],
)
def test_a_folder_that_cannot_be_made(typed, frbench, world, run_name, contents) -> None:
    (world / "a_file").write_text("mine")
    before = contents(world)
    ended = frbench(*typed.replace("RUN", run_name).split())
    assert ended.code == 2 and ended.out == ""
    assert "a_file" in ended.line and "estimating" not in ended.err and "plan:" not in ended.err
    assert contents(world) == before


def test_a_file_that_may_not_be_read(frbench, world, run_name, contents, monkeypatch) -> None:
    before = contents(world)
    real = Path.read_text

    def guarded(self: Path, *args: str, **kwargs: str) -> str:
        if self.name == "run.json" or self.parent.name == "pgd_at":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    for words in (["evaluate", run_name, "--n", "8"], ["leaderboard"]):
        ended = frbench(*words)
        assert ended.code in (1, 2) and ended.out == ""
        assert "ermission denied" in ended.line
    assert contents(world) == before


def test_no_network(frbench, world, contents, monkeypatch) -> None:
    """Every socket and every helper program fails, as on a machine without a network."""

    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, unreachable)
    monkeypatch.setenv("PATH", "")
    before = contents(world)
    for words in (["data", "fetch", "svhn"], ["train", "pgd_at", "--preset=smoke", "dataset=svhn"]):
        ended = frbench(*words)
        assert (ended.code, ended.out) == (1, "")
        assert "cannot get svhn" in ended.line and "FRBENCH_DATA=FOLDER" in ended.line
    assert contents(world) == before


def test_a_data_folder_that_is_not_there(frbench, world, monkeypatch) -> None:
    monkeypatch.setenv("FRBENCH_DATA", "/no/such/folder")
    ended = frbench("data", "fetch", "svhn")
    assert (ended.code, ended.out) == (2, "")
    assert "the data folder /no/such/folder does not exist" in ended.line


def test_an_interrupt_is_one_line(frbench, world, monkeypatch) -> None:
    from frbench.engine import trainer

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", interrupted)
    ended = frbench(*SMOKE.split(), "epochs=1")
    assert (ended.code, ended.out) == (130, "")
    assert ended.line == "frbench: interrupted; what was finished is kept: run the same command"


def test_a_bug_keeps_its_traceback(world, monkeypatch) -> None:
    from frbench import workflow
    from frbench.cli import app

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(workflow, "check", broken)
    monkeypatch.setattr(sys, "argv", ["frbench", *SMOKE.split()])
    with pytest.raises(ZeroDivisionError, match="ours"):
        app.main()


def test_the_installed_command_ends_the_same_way(world: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "frbench", "train", "pgd_att", "--preset", "smoke"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "frbench: unknown defense 'pgd_att': did you mean 'pgd_at'?\n"
