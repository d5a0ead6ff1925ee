"""`frbench analyze ...` from arguments to files, on the digits with models of our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from frbench.analysis import subjects
from frbench.cli import analyze
from frbench.data.types import Dataset, make_split
from frbench.errors import InputError
from frbench.evaluation.target import Target


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, targets: list[Target], digits: subjects.ImageSet
) -> typer.Typer:
    """The commands, with two targets, `one` and `two` (which calls itself `one` as well)."""
    split = make_split(digits.images.mul(255).round().byte(), digits.labels)
    data = Dataset("digits", split, split, tuple(f"digit {i}" for i in range(10)))
    namesake = targets[1].record.model_copy(update={"name": "one"})
    known = {"one": targets[0], "two": targets[1], "same": Target(targets[1].model, namesake)}

    def resolve(text: str, *, device: torch.device, runs_dir: Path) -> Target:
        return known[text]

    monkeypatch.setattr(subjects, "resolve_target", resolve)
    monkeypatch.setattr(subjects, "load_dataset", lambda name: data)
    app = typer.Typer()
    for function in (
        analyze.lowpass,
        analyze.spectrum,
        analyze.kernels,
        analyze.fourier,
        analyze.claims,
        analyze.curves,
    ):
        app.command()(function)
    return app


def run(command: typer.Typer, *words: object) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_stdout_is_the_json_that_is_written(command: typer.Typer, tmp_path: Path) -> None:
    shared = ("--n", 50, "--device", "cpu", "--out", tmp_path, "--format", "json")
    words = ("one", "two", "--bandwidths", "8,4", "--no-attack", *shared)
    content = json.loads(run(command, "lowpass", *words))
    assert content == json.loads((tmp_path / "lowpass.json").read_text())
    assert content["data"]["stop"] == 50 and len(content["entries"]) == 4


@pytest.mark.parametrize(
    ("words", "file", "images"),
    [
        (("lowpass", "one", "--bandwidths", "8, 4,", "--no-attack"), "lowpass", 200),
        (("spectrum", "one", "--attacks", "fgsm", "--images", "2"), "spectrum", 128),
        (("fourier", "one", "--step", 4), "fourier", 200),
        (("claims", "two", "--natural", "one"), "lowpass", 200),
    ],
)
def test_without_n_a_small_test_set_is_used_whole(
    command: typer.Typer, tmp_path: Path, words: tuple[object, ...], file: str, images: int
) -> None:
    run(command, *words, "--device", "cpu", "--out", tmp_path)
    content = json.loads((tmp_path / f"{file}.json").read_text())
    assert content.get("images", content["data"]["stop"]) == images


def test_models_of_one_name_are_told_apart(command: typer.Typer, tmp_path: Path) -> None:
    printed = run(command, "kernels", "one", "same", "--device", "cpu", "--out", tmp_path)
    assert "same" in printed
    names = [e["model"] for e in json.loads((tmp_path / "kernels.json").read_text())["entries"]]
    assert names == ["one", "same"]


def test_spectrum_fourier_and_claims_write_their_files(
    command: typer.Typer, tmp_path: Path
) -> None:
    shared = ("--device", "cpu", "--out", tmp_path)
    run(command, "spectrum", "one", "--n", 10, "--attacks", "clean,fgsm", "--images", "2", *shared)
    run(command, "fourier", "one", "--n", 10, "--step", 4, "--norm", 1, *shared)
    printed = run(command, "claims", "two", "--natural", "one", "--n", 60, *shared)
    assert "finding" in printed
    written = {path.stem for path in tmp_path.glob("*.json")}
    assert written == {"spectrum", "spectrum-images", "fourier", "claims", "lowpass", "kernels"}
    found = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert {claim["verdict"] for claim in found} <= {"holds", "does not hold", "cannot be told"}
    assert len(found) == 7


def test_wrong_arguments_are_told_before_anything_is_computed(
    command: typer.Typer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for message, words in (
        ("not a folder", ("kernels", "one", "--out", tmp_path / "file" / "x")),
        ("has 1 to 200 test images", ("lowpass", "one", "--n", 201, "--out", tmp_path)),
        ("has 1 to 200 test images", ("spectrum", "one", "--n", 201, "--out", tmp_path)),
        ("has 1 to 200 test images", ("fourier", "one", "--n", 201, "--out", tmp_path)),
        (
            "has 1 to 200 test images",
            ("claims", "one", "--natural", "two", "--n", 201, "--out", tmp_path),
        ),
        ("leave --no-attack out", ("lowpass", "one", "--adaptive", "--no-attack")),
        ("adds nothing", ("spectrum", "one", "--attacks", "clean")),
        ("not whole numbers", ("spectrum", "one", "--images", "horse")),
        ("not whole numbers", ("lowpass", "one", "--bandwidths", "8,wide")),
        ("unknown run 'none'", ("curves", "none", "--runs-dir", tmp_path, "--out", tmp_path)),
    ):
        with pytest.raises(InputError, match=message):
            run(command, *words)


def test_analyses_of_different_models_do_not_replace_each_other(
    command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(command, "kernels", "one", "--device", "cpu")
    run(command, "kernels", "one", "two", "--device", "cpu")
    folders = sorted(path.parent.name for path in analyze.OUT.rglob("kernels.json"))
    assert folders == ["one", "one+two"]


def test_long_lists_of_models_have_a_folder_of_their_own_too() -> None:
    many = [f"runs/resnet18-pgd_at-s{seed}-0123456789@best" for seed in range(9)]
    first, second = analyze._folder(None, many), analyze._folder(None, many[:-1])
    assert first != second
    assert max(len(folder.name) for folder in (first, second)) < 255
