"""Audits beside rows: marks in every format, for the very weights that were audited alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frbench.attacks import pgd
from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.leaderboard.render import render
from frbench.leaderboard.rows import Leaderboard
from frbench.leaderboard.table import leaderboard

TEXTS = ("table", "markdown", "latex")
REASON = "restarts: 5 % fewer & counting"


@pytest.fixture
def results(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord], tmp_path: Path
) -> Path:
    """One model of one seed and one recipe of three seeds, whose digests are `trades0` to 2."""
    store = CellStore(tmp_path)
    store.save(make_cell(model_record("pgd_at"), "pgd20", "1" * 30 + "0" * 20))
    for seed in range(3):
        record = model_record("trades", seed=seed, digest=f"trades{seed}")
        store.save(make_cell(record, "pgd20", "1" * (20 + seed) + "0" * (30 - seed)))
    return tmp_path


@pytest.fixture
def add_audit(results: Path) -> Callable[..., None]:
    def add(digest: str, verdict: str, *reasons: str, name: str = "a", **more: float) -> None:
        folder = results / "audits"
        folder.mkdir(exist_ok=True)
        content = {"target": name, "digest": digest, "verdict": verdict, "reasons": reasons, **more}
        (folder / f"{name}-{digest}.json").write_text(json.dumps(content))

    return add


PGD_AT = "pgd_at".ljust(64, "0")


def rows(board: Leaderboard) -> dict[str, Any]:
    return {row["label"]: row for row in json.loads(render(board, "json"))["tables"][0]["rows"]}


@pytest.mark.parametrize(
    ("verdict", "marks"),
    [("trusted", ("✓", r"$\surd$")), ("suspicious", "??"), ("broken", ("✗", r"$\times$"))],
)
def test_texts_mark_the_row_and_explain_the_mark(
    results: Path, add_audit: Callable[..., None], verdict: str, marks: tuple[str, str]
) -> None:
    add_audit(PGD_AT, verdict, REASON)
    board = leaderboard(results)
    for form in TEXTS:
        sign = marks[form == "latex"]
        text = render(board, form).replace("\\_", "_").replace("\\&", "&").replace("\\%", "%")
        assert text.count(f"pgd_at (best) {sign}") == 1
        assert f"'frbench audit' found: {sign} {verdict}" in text
        assert f"{sign} pgd_at (best): {REASON}" in text
        assert f"trades (best) {sign}" not in text


def test_csv_and_json_have_the_verdict_and_its_reasons(
    results: Path, add_audit: Callable[..., None]
) -> None:
    add_audit(PGD_AT, "broken", REASON, "another")
    board = leaderboard(results)
    audit = {"target": "a", "digest": PGD_AT, "verdict": "broken", "reasons": [REASON, "another"]}
    found = rows(board)["pgd_at (best)"]["audit"]
    assert {key: found[key] for key in audit} == audit
    lines = {line["label"]: line for line in csv.DictReader(io.StringIO(render(board, "csv")))}
    assert lines["pgd_at (best)"]["audit"] == "broken"
    assert lines["pgd_at (best)"]["audit_reasons"] == f"{REASON}; another"
    assert lines["trades (best)"]["audit"] == ""


@pytest.mark.parametrize("digest", [None, "f" * 64, PGD_AT[:8]])
def test_without_an_audit_of_these_weights_nothing_is_said(
    results: Path, add_audit: Callable[..., None], digest: str | None
) -> None:
    if digest is not None:
        add_audit(digest, "broken")
    board = leaderboard(results)
    assert all("audit" not in render(board, form) for form in (*TEXTS, "csv"))
    assert all(row["audit"] is None for row in rows(board).values())


def test_an_audit_marks_tables_of_its_own_ball_alone(
    results: Path,
    add_audit: Callable[..., None],
    make_cell: Callable[..., Cell],
    model_record: Callable[..., ModelRecord],
) -> None:
    """That a model resists 1/255 says nothing of 8/255."""
    CellStore(results).save(make_cell(model_record("pgd_at"), pgd(norm="L2", steps=20), "1" * 50))
    add_audit(PGD_AT, "trusted", eps=1 / 255, n=16)
    assert all(row.audit is None for table in leaderboard(results).tables for row in table.rows)
    add_audit(PGD_AT, "suspicious", name="b", n=64)
    marked = {
        table.threat_model: [row.audit.verdict for row in table.rows if row.audit]
        for table in leaderboard(results).tables
    }
    assert marked == {"Linf 8/255": ["suspicious"], "L2 8/255": []}
    assert "'frbench audit' found on 64 images: ?" in render(leaderboard(results), "table")


def test_a_row_of_several_seeds_has_the_worst_verdict_of_its_models(
    results: Path, add_audit: Callable[..., None]
) -> None:
    add_audit("trades0", "trusted")
    add_audit("trades2", "suspicious", REASON)
    board = leaderboard(results)
    row = rows(board)["trades (best)"]
    assert row["audit"]["digest"] == "trades2"
    assert [m["audit"] and m["audit"]["verdict"] for m in row["members"]] == [
        "trusted",
        None,
        "suspicious",
    ]
    text = render(board, "markdown")
    assert f"? trades (best): {REASON}; 2 of 3 seeds audited" in text
    single = rows(leaderboard(results, each_seed=True))
    assert {k[-1]: r["audit"]["verdict"] for k, r in single.items() if r["audit"]} == {
        "0": "trusted",
        "2": "suspicious",
    }


def test_weights_audited_under_two_names_have_the_worse_verdict(
    results: Path, add_audit: Callable[..., None]
) -> None:
    for name, verdict in (("a", "trusted"), ("b", "broken"), ("c", "suspicious")):
        add_audit(PGD_AT, verdict, name=name)
    assert rows(leaderboard(results))["pgd_at (best)"]["audit"]["verdict"] == "broken"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"target": "a", "verdict": "maybe"}', "\xff"])
def test_a_damaged_audit_is_named_and_hides_no_other(
    results: Path,
    add_audit: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    add_audit(PGD_AT, "broken")
    path = results / "audits" / "x.json"
    path.write_bytes(content.encode("latin-1"))
    assert rows(leaderboard(results))["pgd_at (best)"]["audit"]["verdict"] == "broken"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"frbench: left out: damaged audit {path}: ")


def test_json_from_before_audits_is_still_read(results: Path) -> None:
    board = leaderboard(results)
    content = json.loads(render(board, "json"))
    for row in content["tables"][0]["rows"]:
        for part in (row, *row["members"]):
            del part["audit"]
    assert Leaderboard.model_validate(content) == board
