"""The page: its numbers are those of the leaderboard, it is safe, small and needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.leaderboard.render import render
from frbench.leaderboard.table import leaderboard
from frbench.report import write_report
from frbench.report.build import LIMIT

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Page(HTMLParser):
    """Elements of a page with their attributes and the text of each cell of the leaderboard."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.buttons: list[tuple[dict[str, str], str]] = []
        self._button: tuple[dict[str, str], list[str]] | None = None
        self.scripts: list[tuple[dict[str, str], str]] = []
        self._script: dict[str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag == "button" and values.get("class") == "cell":
            self._button = (values, [])
        if tag == "script":
            self._script = values

    def handle_endtag(self, tag: str) -> None:
        if tag == "button" and self._button is not None:
            self.buttons.append((self._button[0], "|".join(self._button[1])))
            self._button = None
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._button is not None:
            self._button[1].append(data)
        if self._script is not None:
            self.scripts.append((self._script, data))

    def board(self) -> Any:
        return json.loads(next(t for a, t in self.scripts if a.get("id") == "leaderboard"))


def test_embedded_json_is_the_leaderboards(page_text: str, shared_results: Path) -> None:
    assert Page(page_text).board() == json.loads(render(leaderboard(shared_results), "json"))


def test_every_shown_number_equals_the_json(page_text: str) -> None:
    page = Page(page_text)
    board = page.board()
    assert len(page.buttons) == 3 * 6 + 3  # five attacks and the worst case; the hostile row two
    for attributes, text in page.buttons:
        row = board["tables"][int(attributes["data-table"])]["rows"][int(attributes["data-row"])]
        key = attributes["data-key"]
        score = row["worst_case"] if key == "worst_case" else row["scores"][key]
        expected = f"{score['accuracy']:.2f}|{score['low']:.2f}-{score['high']:.2f}"
        assert text == expected


def test_hostile_names_stay_text(make_page: Callable[..., str], add_audit: Any) -> None:
    add_audit("f" * 64)
    text = make_page()
    page = Page(text)
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert [t for t, a in page.elements if a.get("src") == "x"] == []
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 2
    assert "&lt;/script&gt;&lt;img src=x" in text


def test_nothing_is_loaded_from_anywhere(page_text: str) -> None:
    for tag, attributes in Page(page_text).elements:
        for name in ("src", "srcset", "href", "data", "poster", "action", "xlink:href"):
            value = attributes.get(name, "")
            assert not value or value.startswith(("#", "data:")), (tag, name, value)
    assert "default-src 'none'" in page_text
    assert not re.search(r"url\((?!#)|@import", page_text)


def test_identifiers_are_unique(page_text: str) -> None:
    found = [a["id"] for _, a in Page(page_text).elements if "id" in a]
    assert len(found) == len(set(found))


def test_references_inside_charts_exist(page_text: str) -> None:
    known = {a["id"] for _, a in Page(page_text).elements if "id" in a}
    used = set(re.findall(r"url\(#([^)]+)\)", page_text)) | set(
        re.findall(r'href="#([^"]+)"', page_text)
    )
    assert used
    assert used <= known


def test_same_input_same_page(shared_results: Path, page_text: str, tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", shared_results, tmp_path / "runs", gallery=False, now=NOW)
    assert (tmp_path / "a.html").read_text() == page_text


def test_page_is_small(page_text: str) -> None:
    assert len(page_text.encode()) < LIMIT / 8


@pytest.mark.parametrize(
    ("unfinished", "says"),
    [
        (False, "pgd_at (best) with 80.00 % (71.12-86.66). It is ahead of every other row at"),
        (True, "pgd_at (best) with 80.00 % (71.12-86.66). It is ahead of the other finished rows"),
    ],
)
def test_the_lead_claims_only_what_was_compared(
    unfinished: bool, says: str, tmp_path: Path, make_cell: Any, model_record: Any
) -> None:
    store = CellStore(tmp_path / "results")
    rows = [("pgd_at", "1" * 80 + "0" * 20), ("trades", "1" * 50 + "0" * 50)]
    for name, verdicts in rows:
        store.save(make_cell(model_record(name, digest=name[0] * 64), "pgd20", verdicts))
    if unfinished:
        store.save(make_cell(model_record("mart", digest="m" * 64), "pgd20", "1" * 90 + "." * 10))
    text = write_report(tmp_path / "r.html", tmp_path / "results", tmp_path / "runs").read_text()
    assert f"Highest under PGD-20: {says}" in text


def test_dagger_marks_the_row_that_is_not_comparable(page_text: str) -> None:
    rows = re.findall(r'<tr id="t0-row\d+".*?</tr>', page_text, re.S)
    assert ["†" in row for row in rows] == ["onerror" in row for row in rows]
    assert any("†" in row for row in rows)


def test_paper_stands_beside_what_was_measured(page_text: str) -> None:
    section = page_text[page_text.index('<section id="paper"') :]
    section = section[: section.index("</section>")]
    order = [section.index(word) for word in ("PGD-AT", "pgd_at", "TRADES", "trades (best)")]
    assert order == sorted(order)
    assert "84.62" in section and "85.00" in section


def test_header_counts_what_is_there(page_text: str) -> None:
    assert "4 models, 17 cells, 680 verdicts" in page_text
    assert "2026-11-22 12:00 UTC" in page_text


@pytest.mark.parametrize(("verdict", "mark"), [("trusted", "✓"), ("broken", "✗")])
def test_audit_marks_its_row_alone(
    make_page: Callable[..., str], add_audit: Any, verdict: str, mark: str
) -> None:
    add_audit("awp".ljust(64, "0"), verdict=verdict)
    rows = re.findall(r'<tr id="t0-row\d+".*?</tr>', make_page(), re.S)
    marked = [row for row in rows if f"{mark} {verdict}" in row]
    assert len(marked) == 1 and "awp (best)" in marked[0]


def test_a_score_of_fewer_seeds_than_its_row_says_so(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord], tmp_path: Path
) -> None:
    store = CellStore(tmp_path / "results")
    records = [model_record("trades", seed=s, digest=f"{s:064d}") for s in range(3)]
    for record in records:
        store.save(make_cell(record, "clean", "1110"))
    for record in records[1:]:
        store.save(make_cell(record, "pgd20", "1000"))
    output = tmp_path / "report.html"
    write_report(output, store.root, tmp_path / "runs", gallery=False, now=NOW)
    shown = {a["data-key"]: text for a, text in Page(output.read_text()).buttons}
    assert shown == {"clean": "75.00|± 0.00", "pgd20": "25.00|± 0.00, 2 of 3 seeds"}
