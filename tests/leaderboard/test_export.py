from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from frbench.attacks import autoattack, specs
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.leaderboard.export import Paper, export_robustbench
from frbench.leaderboard.refresh import entry_of

CellMaker = Callable[..., Cell]
RecordMaker = Callable[..., ModelRecord]
N = 10_000


def stored(root: Path, *cells: Cell) -> Path:
    store = CellStore(root)
    for cell in cells:
        store.save(cell)
    return root


def test_a_complete_run_becomes_an_entry_with_robustbenchs_fields(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    record = model_record("at_fr_swa")
    clean = make_cell(record, "clean", "1" * 8109 + "0" * 1891)
    aa = make_cell(record, "aa", "1" * 5435 + "0" * 4565)
    root = stored(tmp_path / "results", clean, aa)
    paper = Paper(title="A paper", authors="A. Author", link="https://arxiv.org/abs/0", venue="X 1")
    paths = export_robustbench(
        root, "at_fr_swa", tmp_path / "out", model_id="Author2026A", paper=paper
    )
    assert [p.name for p in paths] == [
        "Author2026A.json",
        "Author2026A_loader.py",
        "Author2026A_submission.md",
    ]
    info = json.loads(paths[0].read_text())
    assert info == {
        "link": "https://arxiv.org/abs/0",
        "name": "A paper",
        "authors": "A. Author",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "X 1",
        "architecture": "WideResNet-34-10",
        "eps": "8/255",
        "clean_acc": "81.09",
        "reported": "54.35",
        "autoattack_acc": "54.35",
        "unreliable": False,
    }
    assert entry_of("cifar10", "Linf", "Author2026A", info).robust_acc == 54.35
    ast.parse(paths[1].read_text())
    assert record.digest in paths[1].read_text()
    assert "Still to fill in" not in paths[2].read_text()


def test_what_no_measurement_knows_is_listed_as_missing(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    record = model_record("at_fr", extra_data="synthetic")
    cells = [make_cell(record, attack, "1" * N) for attack in ("clean", "aa")]
    paths = export_robustbench(stored(tmp_path / "r", *cells), "at_fr", tmp_path / "out")
    assert "Still to fill in: name, authors, link, venue." in paths[2].read_text()
    info = json.loads(paths[0].read_text())
    assert entry_of("cifar10", "Linf", "x", info).data_class == "synthetic"


@pytest.mark.parametrize(
    ("aa", "message"),
    [
        (None, "has no AutoAttack"),
        ({"apgd-ce": "1" * N, "apgd-t": "." * N, "fab-t": "." * N, "square": "." * N}, "apgd-ce"),
        ("1" * 256, "complete on 256 images"),
    ],
)
def test_an_unfinished_autoattack_is_refused_with_the_command_that_ends_it(
    make_cell: CellMaker,
    model_record: RecordMaker,
    tmp_path: Path,
    aa: str | dict[str, str] | None,
    message: str,
) -> None:
    record = model_record("at_fr")
    cells = [make_cell(record, "clean", "1" * N)]
    cells += [make_cell(record, "aa", aa)] if aa else []
    root = stored(tmp_path / "r", *cells)
    with pytest.raises(InputError, match=message) as caught:
        export_robustbench(root, "at_fr", tmp_path / "out")
    command = f"run `frbench evaluate runs/at_fr@best --attacks clean,aa --results-dir {root}`"
    assert command in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_fast_search_is_refused_by_its_name(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    cells = [
        make_cell(model_record("at_fr"), attack, "1" * N, precision="fp32 verdicts, fast search")
        for attack in ("clean", "aa")
    ]
    root = stored(tmp_path / "r", *cells)
    with pytest.raises(
        InputError, match=r"measured with fp32 verdicts, fast search: .* needs fp32"
    ):
        export_robustbench(root, "at_fr", tmp_path / "out")


def test_somebody_elses_model_is_not_ours_to_submit(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    record = model_record("natural", target="natural", source="outside", defense=None)
    root = stored(tmp_path / "r", *(make_cell(record, a, "1" * N) for a in ("clean", "aa")))
    with pytest.raises(InputError, match="'natural' was not trained by frbench"):
        export_robustbench(root, "natural", tmp_path / "out")


def test_of_several_threat_models_the_usual_one_is_submitted(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    """Not the newest cell, whatever it was measured under."""
    record = model_record("at_fr")
    cells = [make_cell(record, attack, "1" * 9000 + "0" * 1000) for attack in ("clean", "aa")]
    other = make_cell(record, specs("L2")["aa"], "1" * N, updated="2027-01-01T00:00:00+00:00")
    root = stored(tmp_path / "r", *cells, other)
    info = json.loads(export_robustbench(root, "at_fr", tmp_path / "out")[0].read_text())
    assert (info["eps"], info["autoattack_acc"]) == ("8/255", "90.00")
    root = stored(tmp_path / "l2", cells[0], other)
    info = json.loads(export_robustbench(root, "at_fr", tmp_path / "out")[0].read_text())
    assert (info["eps"], info["autoattack_acc"]) == ("0.5", "100.00")


def test_autoattacks_of_different_data_are_not_chosen_among(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    record = model_record("at_fr")
    cells = [make_cell(record, a, "1" * N, sha256=s) for a in ("clean", "aa") for s in ("0a", "1b")]
    root = stored(tmp_path / "r", *cells)
    with pytest.raises(
        InputError, match=r"2 complete AutoAttacks .*#0a.*#1b.*name a --results-dir"
    ):
        export_robustbench(root, "at_fr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_without_entries_is_refused(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    record = model_record("at_fr")
    cells = [make_cell(record, attack, "1" * N) for attack in ("clean", "aa")]
    for cell in cells:
        cell.data = cell.data.model_copy(update={"dataset": "svhn"})
    with pytest.raises(InputError, match="no svhn entry under Linf 8/255"):
        export_robustbench(stored(tmp_path / "r", *cells), "at_fr", tmp_path / "out")


def test_no_command_is_advised_for_a_task_that_robustbench_has_not(
    make_cell: CellMaker, model_record: RecordMaker, tmp_path: Path
) -> None:
    digits = make_cell(model_record("at_fr", dataset="digits"), "clean", "1" * 9)
    with pytest.raises(InputError, match="no digits entry under Linf 8/255: nothing to submit to"):
        export_robustbench(stored(tmp_path / "a", digits), "at_fr", tmp_path / "out")
    odd = autoattack(eps=0.1, stages=["apgd-ce"])
    cells = [make_cell(model_record("at_fr"), attack, "1" * 9) for attack in ("clean", odd)]
    with pytest.raises(InputError, match=r"no cifar10 entry under Linf 0\.1: nothing to submit to"):
        export_robustbench(stored(tmp_path / "b", *cells), "at_fr", tmp_path / "out")
