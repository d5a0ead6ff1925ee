"""What commands print: data alone on stdout, help with examples, lists of what there is."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

COMMANDS = (
    "train",
    "evaluate",
    "bench",
    "leaderboard",
    "compare",
    "check",
    "verify",
    "audit",
    "report",
    "new",
    "list",
    "doctor",
    "data fetch",
    "data verify",
    "analyze lowpass",
    "analyze spectrum",
    "analyze kernels",
    "analyze curves",
    "analyze fourier",
    "analyze claims",
    "export robustbench",
    "baselines refresh",
)
WITH_EXAMPLE = set(COMMANDS) - {"doctor", "data verify", "baselines refresh"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, frbench) -> None:
    ended = frbench(*command.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    if command in WITH_EXAMPLE:
        assert f"frbench {command}" in ended.out.split("Usage:")[1].split("\n", 1)[1]


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        ("defenses", ("at_fr_swa", "fr.weight=", "attack.steps=10", "forward units a step")),
        (
            "settings",
            (
                "batch_size=128",
                "attack.eps=8/255",
                "ema.start_epoch=0",
                "beta=6 ",
                "clip=0.3",
                "milestones, milestones_by_step, onecycle",
                "number from 0, below 1",
                "of SGD",
            ),
        ),
        ("attacks", ("pgd20", "Linf", "apgd-ce, apgd-t, fab-t, square", "torchattacks")),
        ("models", ("resnet18", "wrn-34-10", "timm:NAME")),
        ("datasets", ("cifar10", "digits")),
        ("presets", ("quick", "smoke", "architecture=tiny")),
    ],
)
def test_a_list_shows_what_there_is(what, holds, frbench, world) -> None:
    ended = frbench("list", what)
    assert (ended.code, ended.err) == (0, "")
    assert [text for text in holds if text not in ended.out] == []


def test_doctor_names_a_missing_package_and_its_remedy(world) -> None:
    """In a process of its own, since here torch is imported already."""
    run = (
        "import sys, importlib.metadata as metadata\n"
        "sys.modules['torch'] = None\n"
        "found, version = metadata.distribution, metadata.version\n"
        "def lacks(name):\n"
        "    if name in ('torch', 'robustbench'):\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = lambda name: lacks(name) or version(name)\n"
        "metadata.distribution = lambda name: lacks(name) or found(name)\n"
        "from frbench.cli.app import main\n"
        "sys.argv = ['frbench', 'doctor']\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "")
    faults = [line.split() for line in ended.stdout.splitlines() if "✗" in line]
    named = [" ".join(words[1:]) for words in faults]
    for what in ("torch missing", "robustbench missing", "accelerator cannot tell", "CIFAR-10"):
        assert any(line.startswith(what) for line in named), ended.stdout


def test_json_alone_is_on_stdout(frbench, world) -> None:
    ended = frbench("leaderboard", "--format", "json", "--write")
    board = json.loads(ended.out)
    assert [row["label"] for row in board["tables"][0]["rows"]] == ["pgd_at (best)"]
    assert ended.code == 0 and len(ended.err.splitlines()) == 4


def test_csv_alone_is_on_stdout(frbench, world) -> None:
    ended = frbench("leaderboard", "--format", "csv")
    first, *others = list(csv.reader(io.StringIO(ended.out)))
    assert ended.err == "" and others
    assert {len(row) for row in others} == {len(first)}


@pytest.mark.parametrize(
    ("form", "begins"), [("markdown", ("#", "|", "**")), ("latex", ("%", "\\"))]
)
def test_documents_alone_are_on_stdout(form, begins, frbench, world) -> None:
    ended = frbench("leaderboard", "--format", form)
    assert ended.code == 0 and ended.err == "" and "\x1b" not in ended.out
    assert ended.out.lstrip().startswith(begins)


def test_a_finished_run_is_named_on_stdout_alone(frbench, world, run_name) -> None:
    ended = frbench("train", "pgd_at", "--preset", "smoke", "epochs=2")
    assert (ended.code, ended.out) == (0, f"runs/{run_name}\n")
    assert "trained already, reused" in ended.err


def test_train_prints_what_evaluates_as_the_defense(frbench, world) -> None:
    """A run with an average serves the plain defense, and its name stands for the average."""
    words = ("--preset", "smoke", "epochs=1", "lr=0.2")
    averaged = frbench("train", "pgd_at+ema", *words).out.strip()
    plain = frbench("train", "pgd_at", *words).out.strip()
    assert plain == f"{averaged}@best"
    ended = frbench("evaluate", plain, "--attacks", "clean", "--n", "9")
    assert ended.code == 0 and "pgd_at (best)" in ended.out


def test_an_estimate_writes_nothing(frbench, world, contents) -> None:
    before = contents(world)
    ended = frbench("bench", "at_fr_swa", "--preset", "smoke", "--estimate")
    assert ended.code == 0 and "in all" in ended.out.splitlines()[-1]
    assert contents(world) == before


@pytest.mark.parametrize(("typed", "chunk"), [((), 256), (("--batch", "fastest"), 4)])
def test_chunks_are_the_presets_unless_the_fastest_are_asked_for(
    typed, chunk, frbench, world, run_name, monkeypatch
) -> None:
    monkeypatch.setattr("frbench.evaluation.batch.SIZES", (4,))
    line = ("evaluate", run_name, "--attacks", "fgsm", "--n", "8", "--device", "cpu")
    ended = frbench(*line, *typed)
    assert ended.code == 0, ended.err
    assert ("--batch 4 is the fastest for tiny" in ended.err) == bool(typed)
    (cell,) = (world / "results/local/cells/pgd_at").glob("fgsm-*.json")
    assert json.loads(cell.read_text())["batch"] == chunk


def test_a_name_that_looks_like_markup_is_printed_as_it_is(frbench, world, run_name) -> None:
    odd = world / "runs" / "odd[bold]:smile:"
    (world / "runs" / run_name).rename(odd)
    ended = frbench("analyze", "curves", str(odd), "--out", str(world / "out"))
    assert ended.code == 0, ended.err
    assert odd.name in ended.out


@pytest.mark.parametrize(
    ("kind", "message", "says"),
    [
        (
            "AcceleratorError",
            "CUDA error: device not ready\nCompile with TORCH_USE_CUDA_DSA",
            "the GPU failed (CUDA error: device not ready): what was saved is whole",
        ),
        (
            "OutOfMemoryError",
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the notes",
            "CUDA out of memory: free the GPU, or use another with --device",
        ),
    ],
)
def test_a_gpu_that_fails_is_one_line(kind, message, says, frbench, world, monkeypatch) -> None:
    def fail(name: str, **_: object) -> None:
        raise type(kind, (RuntimeError,), {})(message)  # named as torch's

    monkeypatch.setattr("frbench.engine.device.find_device", fail)
    ended = frbench("train", "pgd_at", "--preset", "smoke")
    assert ended.code == 1
    assert says in ended.line


def test_a_bug_keeps_its_traceback(frbench, world, monkeypatch) -> None:
    monkeypatch.setattr("frbench.engine.device.find_device", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        frbench("train", "pgd_at", "--preset", "smoke")
