from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from frbench.cli import leaderboard as commands
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, CellStore, ModelRecord


@pytest.fixture
def results(
    make_cell: Callable[..., Cell],
    model_record: Callable[..., ModelRecord],
    tmp_path: Path,
) -> Path:
    store = CellStore(tmp_path)
    for name, verdicts in (("at_fr", "1" * 30 + "0" * 20), ("pgd_at", "1" * 20 + "0" * 30)):
        store.save(make_cell(model_record(name), "pgd20", verdicts))
    return tmp_path


def test_json_goes_to_stdout_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.leaderboard(form="json", results_dir=results, write=True)
    output = capsys.readouterr()
    assert len(json.loads(output.out)["tables"][0]["rows"]) == 2
    assert output.err.count("wrote ") == 4
    assert output.out == (results / "leaderboard.json").read_text()


def test_the_table_is_printed_without_terminal_codes_into_a_pipe(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.leaderboard(results_dir=results)
    text = capsys.readouterr().out
    assert "60.00" in text and "\x1b" not in text


def test_compare_prints_the_pair(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.compare("at_fr", "pgd_at", results_dir=results)
    assert "+20.00" in capsys.readouterr().out


def test_a_wrong_format_is_refused(results: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'json'"):
        commands.compare("at_fr", "pgd_at", results_dir=results, form="jsn")
    with pytest.raises(InputError, match="did you mean 'latex'"):
        commands.leaderboard(results_dir=results, form="latx")
