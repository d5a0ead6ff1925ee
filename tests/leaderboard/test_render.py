from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frbench.attacks import specs
from frbench.errors import InputError
from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.leaderboard.grids import difference_entry
from frbench.leaderboard.render import BOUNDLESS, latex_text, render, write_tables
from frbench.leaderboard.rows import Difference, Leaderboard
from frbench.leaderboard.table import build

ATTACKS = ("clean", "fgsm", "pgd20", "cw", "aa")


def draw(name: str, n: int, share: float) -> str:
    """Verdicts that look random and are the same in every run."""
    return "".join("1" if (hash_of(f"{name}{i}") % 1000) < share * 1000 else "0" for i in range(n))


def hash_of(text: str) -> int:
    value = 5381
    for character in text:
        value = (value * 33 + ord(character)) % 2**31
    return value * 2654435761 % 2**32


@pytest.fixture
def cells(make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]) -> list[Cell]:
    n, found = 317, []
    recipes: list[tuple[str, dict[str, Any]]] = [
        ("at_fr_swa", {"cost": {"train_seconds": 5432.1, "forward_units": 26.0}}),
        ("at_fr_swa", {"weights": "last", "epoch": 100}),
        *(("trades", {"seed": seed}) for seed in range(3)),
        ("odd_name & 50%", {"preset": "quick", "comparable": False, "note": "8 epochs"}),
    ]
    for place, (name, changes) in enumerate(recipes):
        record = model_record(name, digest=f"{place:064d}", **changes)
        shares = (0.84, 0.6, 0.55, 0.53, 0.5)
        found += [
            make_cell(record, attack, draw(f"{place}{attack}", n, share))
            for attack, share in zip(ATTACKS, shares, strict=True)
        ]
    verdicts = dict.fromkeys(("apgd-ce", "apgd-t"), draw("x", n, 0.5))
    partial = {**verdicts, "fab-t": "." * n, "square": "." * n}
    found.append(make_cell(model_record("mart", digest="9" * 64), "aa", partial))
    return found


@pytest.fixture
def board(cells: list[Cell]) -> Leaderboard:
    return build(cells)


def expected_numbers(board: Leaderboard) -> list[str]:
    """Every number of the measured and published rows, as the JSON has it."""
    document = json.loads(render(board, "json"))
    numbers = []
    for table in document["tables"]:
        for row in table["rows"]:
            for score in [*row["scores"].values(), row["worst_case"]]:
                numbers.append(f"{score['accuracy']:.2f}")
                if score["sd"] is not None:
                    numbers.append(f"{score['sd']:.2f}")
                elif score["at_most"]:
                    numbers.append(f"{score['high']:.2f}")
                else:
                    numbers += [f"{score['low']:.2f}", f"{score['high']:.2f}"]
            if row["overfitting_gap"]:
                numbers.append(f"{row['overfitting_gap']['points']:+.2f}")
    for row in document["paper"]["rows"]:
        numbers += [f"{row[attack]:.2f}" for attack in ATTACKS]
    return numbers


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_every_number_of_the_json_stands_in_the_text(board: Leaderboard, form: str) -> None:
    text = render(board, form).replace("$-$", "-")
    found = re.findall(r"[+-]?\d+\.\d\d(?!\d)", text)
    shown = {n.lstrip("-") for n in found} | set(found)
    missing = [n for n in expected_numbers(board) if n not in shown]
    assert len(expected_numbers(board)) > 100
    assert not missing


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_rows_of_the_text_show_their_own_numbers(board: Leaderboard, form: str) -> None:
    text = render(board, form)
    assert board.paper is not None
    for method in board.paper.rows:
        line = next(
            line
            for line in text.splitlines()
            if re.match(rf"^\|?\s*{re.escape(method.method)}\s+[|&t]?", line)
        )
        assert re.findall(r"\d+\.\d\d", line) == [
            f"{getattr(method, attack):.2f}" for attack in ATTACKS
        ]


def test_csv_has_the_numbers_of_the_json(board: Leaderboard) -> None:
    document = json.loads(render(board, "json"))
    lines = list(csv.DictReader(io.StringIO(render(board, "csv"))))
    measured = {line["label"]: line for line in lines if line["kind"] == "measured"}
    rows = {row["label"]: row for table in document["tables"] for row in table["rows"]}
    assert measured.keys() == rows.keys()
    for label, row in rows.items():
        for key, score in row["scores"].items():
            assert float(measured[label][key]) == score["accuracy"]
            for part in ("low", "high", "sd", "correct"):
                text = measured[label][f"{key}_{part}"]
                assert (float(text) if text else None) == score[part]
            assert measured[label][f"{key}_at_most"] == str(score["at_most"])
    assert len([line for line in lines if line["kind"] == "measured seed"]) == 3
    assert {line["label"] for line in lines if line["kind"] == "paper"} >= {"PGD-AT", "AT-FR-SWA"}


def test_json_is_the_typed_leaderboard_and_nothing_less(board: Leaderboard) -> None:
    assert Leaderboard.model_validate_json(render(board, "json")) == board


def test_an_upper_bound_is_marked_in_every_text(board: Leaderboard) -> None:
    bound = next(row for row in board.tables[0].rows if row.label.startswith("mart")).scores["aa"]
    number = f"{bound.accuracy:.2f}"
    assert f"≤ {number}" in render(board, "table")
    assert f"≤ {number}" in render(board, "markdown")
    assert rf"$\le$ {number}" in render(board, "latex")


def test_the_difference_of_an_upper_bound_has_no_lower_end() -> None:
    entry = difference_entry(Difference(points=-2.38, low=-51.06, high=-1.4, at_most=True))
    assert (entry.text, entry.detail) == ("≤ -2.38", "up to -1.40")


def test_presets_share_a_table_only_with_a_column_that_names_them(board: Leaderboard) -> None:
    header = next(
        line for line in render(board, "markdown").splitlines() if line.startswith("| Model")
    )
    assert header.startswith("| Model | Preset | Clean")
    assert "†" in render(board, "table")


def test_a_score_of_fewer_seeds_than_its_row_says_so(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    """AutoAttack of one seed and C&W of two, in a row of three."""
    records = [model_record("trades", seed=s, digest=f"{s:064d}") for s in range(3)]
    cells = [make_cell(r, "pgd20", "1" * (50 + s) + "0" * (50 - s)) for s, r in enumerate(records)]
    cells += [make_cell(r, "cw", "1" * 48 + "0" * 52) for r in records[1:]]
    cells.append(make_cell(records[2], "aa", "1" * 45 + "0" * 55))
    found = build(cells)
    (row,) = found.tables[0].rows
    assert [row.scores[key].seeds for key in ("pgd20", "cw", "aa")] == [3, 2, 1]
    assert row.worst_case is None and all(member.worst_case for member in row.members)
    text = render(found, "markdown")
    assert "48.00 (± 0.00, 2 of 3 seeds)" in text and ", 1 of 3 seeds" in text
    assert "trades (best): C&W is of 2 of 3 seeds (1, 2)" in text.replace("&amp;", "&")
    assert "trades (best): no worst case before its seeds have the same attacks" in text
    line = next(csv.DictReader(io.StringIO(render(found, "csv"))))
    assert [line[f"{key}_seeds"] for key in ("pgd20", "cw", "aa")] == ["3", "2", "1"]


def test_a_reason_that_all_rows_share_is_told_once(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    notes = {"at_fr": "8 epochs", "mart": "8 epochs", "awp": "9 epochs"}
    cells = [
        make_cell(model_record(name, comparable=False, note=note), "pgd20", "1" * 9 + "0")
        for name, note in notes.items()
    ]
    once = render(build(cells[:2]), "table", width=BOUNDLESS)
    assert "† all such rows: not comparable with published numbers: 8 epochs" in once
    assert once.count("8 epochs") == 2  # below the table, and in RobustBench's section
    assert once.count("all such rows: ") == 2
    each = render(build(cells), "table", width=BOUNDLESS)
    assert "all such rows" not in each
    assert "† at_fr (best), mart (best): not comparable with published numbers: 8 epochs" in each
    assert "† awp (best): not comparable with published numbers: 9 epochs" in each


def test_a_table_with_seeds_says_what_its_spread_is(cells: list[Cell]) -> None:
    note = "± standard deviation over seeds"
    assert render(build(cells), "table").count(note) == 1
    assert note not in render(build(cells, each_seed=True), "table")


def test_the_terminal_never_cuts_a_number(board: Leaderboard) -> None:
    narrow, wide = (render(board, "table", width=width) for width in (40, 200))
    pattern = r"\d+\.\d\d-\d+\.\d\d"
    assert sorted(re.findall(pattern, narrow)) == sorted(re.findall(pattern, wide))


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_beside_a_long_heading_no_number_is_cut(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord], width: int
) -> None:
    """An AutoAttack of two stages beside one of four, in a row of seeds."""
    short = specs()["aa"].model_copy(update={"stages": ("apgd-ce", "apgd-t")})
    labelled = short.model_copy(update={"label": "AA (APGD-CE, APGD-T)"})
    records = [model_record("at_fr_swa", seed=s, digest=f"{s:064d}") for s in range(2)]
    records.append(model_record("a_composition+with+a+long+name", digest="9" * 64))
    found = build(
        [
            make_cell(record, attack, draw(f"{record.digest}{attack}", 317, 0.5))
            for record in records
            for attack in (*ATTACKS, labelled)
        ]
    )
    wide = render(found, "table", width=BOUNDLESS)
    text = render(found, "table", width=width)
    pattern = r"\d+\.\d\d-\d+\.\d\d|± \d+\.\d\d|\d+\.\d\d"
    assert "APGD-T)" in text and "…" not in text
    assert sorted(re.findall(pattern, text)) == sorted(re.findall(pattern, wide))


def test_a_table_of_one_preset_fits_into_100_columns(cells: list[Cell]) -> None:
    text = render(build([c for c in cells if c.model.name in ("at_fr_swa", "trades")]), "table")
    assert max(len(line) for line in text.splitlines()) <= 100


def test_latex_escapes_every_special_character(board: Leaderboard) -> None:
    assert latex_text(r"a_b & 50% #1 {x} ~ ^ \ $ <|>") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$ "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert latex_text("[x]") == "{[}x]"  # a row must not begin with an optional length
    text = render(board, "latex")
    assert r"odd\_name \& 50\%" in text
    assert text.isascii()
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert not any(re.search(r"(?<!\\)[%#_]", line) for line in body)


def test_markdown_rows_have_as_many_fields_as_their_header(board: Leaderboard) -> None:
    width = None
    for line in render(board, "markdown").splitlines():
        if not line.startswith("|"):
            width = None
            continue
        fields = len(re.findall(r"(?<!\\)\|", line))
        assert width in (None, fields), line
        width = fields


def test_an_unknown_format_names_the_nearest(board: Leaderboard) -> None:
    with pytest.raises(InputError, match="did you mean 'markdown'"):
        render(board, "markdwn")
    assert all(render(board, form) for form in ("table", "markdown", "csv", "latex", "json"))


def test_tables_are_written_beside_the_cells(cells: list[Cell], tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    for cell in cells:
        store.save(cell)
    paths = write_tables(tmp_path)
    assert [p.name for p in paths] == [f"leaderboard.{s}" for s in ("md", "csv", "tex", "json")]
    assert (tmp_path / "leaderboard.json").read_text().endswith("}\n")


def test_written_tables_have_a_row_a_seed_where_that_is_asked_for(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord], tmp_path: Path
) -> None:
    for seed in range(2):
        record = model_record("at_fr", seed=seed, digest=f"{seed}" * 64)
        CellStore(tmp_path).save(make_cell(record, "pgd20", "10"))
    for each_seed, rows in ((False, 1), (True, 2)):
        write_tables(tmp_path, each_seed=each_seed)
        content = json.loads((tmp_path / "leaderboard.json").read_text())
        assert len(content["tables"][0]["rows"]) == rows
