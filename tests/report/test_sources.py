"""What the report reads and refuses: each kind of damage is one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frbench.errors import FrbenchError, InputError
from frbench.report import write_report


def _refused(output: Path, results: Path) -> str:
    with pytest.raises(InputError) as caught:
        write_report(output, results, results.parent / "runs", gallery=False)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_cells_yet(tmp_path: Path) -> None:
    assert "no cells yet" in _refused(tmp_path / "a.html", tmp_path / "empty")


def test_damaged_cell_is_named_and_left_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(results.glob("cells/trades/aa-*.json"))
    path.write_text(path.read_text()[:-20])
    write_report(tmp_path / "a.html", results, tmp_path / "runs", gallery=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"frbench: left out: damaged cell {path}: Invalid JSON")


@pytest.mark.parametrize("content", ["{", '{"target": "a", "digest": "b", "verdict": "maybe"}'])
def test_damaged_audit_is_named(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = results / "audits" / "x.json"
    path.parent.mkdir()
    path.write_text(content)
    write_report(tmp_path / "a.html", results, tmp_path / "runs", gallery=False)
    (line,) = dict.fromkeys(capsys.readouterr().err.splitlines())
    assert line.startswith(f"frbench: left out: damaged audit {path}: ")


@pytest.mark.parametrize("kind", ["lowpass", "spectrum", "claims", "kernels"])
def test_damaged_analysis_is_named(results: Path, tmp_path: Path, kind: str) -> None:
    path = results / "analysis" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"analysis": kind, "entries": [{}], "claims": [{}]}))
    assert str(path) in _refused(tmp_path / "a.html", results)


def test_other_json_beside_the_analyses_is_not_ours(results: Path, make_page: Any) -> None:
    folder = results / "analysis" / "deep"
    folder.mkdir(parents=True)
    (folder / "curves.json").write_text('{"analysis": "curves"}')
    (folder / "list.json").write_text("[]")
    assert "Every cell" in make_page()


def test_output_that_is_a_folder(results: Path, tmp_path: Path) -> None:
    assert "it is a folder" in _refused(tmp_path, results)


def test_output_below_a_file(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in _refused(tmp_path / "file" / "a.html", results)


def test_too_large_a_page_is_refused(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frbench.report.build.LIMIT", 1000)
    with pytest.raises(FrbenchError, match="--no-gallery"):
        write_report(tmp_path / "a.html", results, tmp_path, gallery=False)
    assert not (tmp_path / "a.html").exists()


def test_curves_are_those_of_the_rows(results: Path, tmp_path: Path, make_page: Any) -> None:
    for name in ("paper-awp-s0-abc", "paper-other-s0-abc"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        settings = {"defense": name, "preset": "paper", "protocol": "common", "seed": 0}
        settings |= {"frame": {}, "recipe": {"mechanisms": {}}}
        (folder / "run.json").write_text(json.dumps({"settings": settings}))
        line = {"epoch": 0, "val_clean": 0.5, "val_pgd20": 0.25}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text = make_page()
    assert "paper-awp-s0-abc, paper, seed 0" in text
    assert "paper-other" not in text
