"""The report as a reader meets it: in Chromium, from a file, by mouse and by keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

LABELS = "#t0-table tbody tr:not([hidden]) .label"


def _labels(opened: Any) -> list[str]:
    return [text.split("\xa0")[0] for text in opened.page.locator(LABELS).all_inner_texts()]


def _heading(opened: Any, name: str) -> Any:
    return opened.page.locator("#t0-table thead button", has_text=name)


def _by(board: Any, key: str) -> list[str]:
    rows = [r for r in board["tables"][0]["rows"] if key in r["scores"]]
    return [r["label"] for r in sorted(rows, key=lambda r: -r["scores"][key]["accuracy"])]


def test_shown_numbers_equal_the_json(opened: Any) -> None:
    board = opened.board()
    cells = opened.page.locator(".cell").all()
    assert len(cells) == 4 * 5 - 1
    for cell in cells:
        table = board["tables"][int(cell.get_attribute("data-table"))]
        row = table["rows"][int(cell.get_attribute("data-row"))]
        key = cell.get_attribute("data-key")
        score = row["worst_case"] if key == "worst_case" else row["scores"][key]
        shown, interval = cell.inner_text().split("\n")
        assert shown == f"{score['accuracy']:.2f}"
        assert interval == f"{score['low']:.2f}-{score['high']:.2f}"


def test_sorts_both_ways_with_missing_values_last(opened: Any) -> None:
    ranked = _by(opened.board(), "aa")
    assert len(ranked) == 3
    _heading(opened, "AA").click()
    assert _labels(opened) == [*ranked, "<b>hostile</b> (best)"]
    _heading(opened, "AA").click()
    assert _labels(opened) == [*reversed(ranked), "<b>hostile</b> (best)"]
    _heading(opened, "Clean").click()
    assert _labels(opened) == _by(opened.board(), "clean")
    sorted_by = opened.page.locator("#t0-table th[aria-sort]")
    assert sorted_by.count() == 1 and "Clean" in sorted_by.inner_text()


def test_sorts_by_keyboard(opened: Any) -> None:
    _heading(opened, "Model").focus()
    opened.page.keyboard.press("Enter")
    assert _labels(opened) == sorted(_labels(opened), key=str.lower)


def test_filters_by_text_and_by_field(opened: Any) -> None:
    everything = _labels(opened)
    opened.page.get_by_label("Find a model").fill("at_fr")
    assert _labels(opened) == ["at_fr_swa (best)"]
    expect(opened.page.locator(".filters output")).to_have_text("1 of 4 rows")
    opened.page.get_by_role("button", name="Show all").click()
    # Locators wait by themselves; a string given to wait_for_function would need `unsafe-eval`,
    # which the page's policy forbids, whenever its first look comes too early.
    expect(opened.page.locator("#t0-table tr[hidden]")).to_have_count(0)
    assert _labels(opened) == everything
    opened.page.get_by_label("Preset").select_option("quick")
    assert _labels(opened) == ["<b>hostile</b> (best)"]


def test_cell_opens_its_provenance_and_gives_the_focus_back(opened: Any) -> None:
    cell = opened.page.locator('.cell[data-key="aa"]').first
    cell.focus()
    opened.page.keyboard.press("Enter")
    dialog = opened.page.get_by_role("dialog")
    assert dialog.is_visible()
    row = opened.board()["tables"][0]["rows"][int(cell.get_attribute("data-row"))]
    score, text = row["scores"]["aa"], dialog.inner_text()
    reference = score["cells"][0]
    for wanted in (
        f"{score['accuracy']:.2f} %",
        f"{score['correct']} of {score['n']} images",
        f"{score['low']:.2f} to {score['high']:.2f}",
        row["model"]["digest"],
        opened.board()["tables"][0]["data_sha256"],
        reference["key"],
        f"{reference['seconds']:.2f}",
        "torch 2.11.0",
        "a test device",
        "apgd-ce, apgd-t, fab-t, square",
    ):
        assert wanted in text, wanted
    opened.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert cell.evaluate("element => element === document.activeElement")


def test_every_cell_opens_the_dialog_of_its_own_row(opened: Any) -> None:
    board = opened.board()
    _heading(opened, "Clean").click()  # the order on the screen is no longer that of the JSON
    for cell in opened.page.locator(".cell").all():
        cell.click()
        row = board["tables"][0]["rows"][int(cell.get_attribute("data-row"))]
        assert opened.page.locator("#dialog-h").inner_text().startswith(f"{row['label']}: ")
        assert opened.page.locator("#dialog b").count() == 0
        opened.page.get_by_role("button", name="Close").click()


def test_theme_can_be_chosen(opened: Any) -> None:
    def paper() -> str:
        return str(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    button = opened.page.locator("#theme")
    automatic = paper()
    button.click()
    assert button.inner_text() == "Theme: light" and paper() == automatic
    button.click()
    assert button.inner_text() == "Theme: dark" and paper() != automatic


def test_phone_needs_no_sideways_scrolling(phone: Any) -> None:
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    box = phone.page.locator(".scroll").first
    assert box.evaluate("e => e.scrollWidth > e.clientWidth"), "the table scrolls in its own box"
    phone.page.locator(".cell").first.click()
    assert phone.page.locator("#dialog").bounding_box()["width"] <= 390


def test_heading_stays_in_sight(phone: Any) -> None:
    phone.page.set_viewport_size({"width": 390, "height": 300})
    box = phone.page.locator("#t0 .scroll").first
    box.evaluate("e => { e.scrollTop = 150; e.scrollLeft = 200; }")
    assert box.evaluate("e => e.scrollTop") > 0

    def distance(locator: Any, side: str) -> float:
        box = "e.closest('.scroll').getBoundingClientRect()"
        return float(locator.evaluate(f"e => e.getBoundingClientRect().{side} - {box}.{side}"))

    head = phone.page.locator("#t0-table thead th.model")
    first = phone.page.locator("#t0-table tbody th.model").first
    assert abs(distance(head, "top")) <= 2
    assert abs(distance(first, "left")) <= 2


def test_print_shows_whole_tables(opened: Any) -> None:
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.locator(".filters").first.is_hidden()
    box = opened.page.locator("#t0 .scroll").first
    assert box.evaluate("e => getComputedStyle(e).overflowX") == "visible"
    colour = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(255, 255, 255)"
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator(".chart details:not([open])").count() == 0
    opened.page.set_viewport_size({"width": 700, "height": 1000})  # about what A4 has
    right = "getBoundingClientRect().right"
    beyond = f"e => e.{right} - e.closest('figure').{right}"
    tables = opened.page.locator(".chart table").all()
    assert tables and max(table.evaluate(beyond) for table in tables) <= 1


def test_axe_finds_nothing_serious(opened_in: Any) -> None:
    assert _serious(opened_in) == []
    opened_in.page.locator(".cell").first.click()
    assert _serious(opened_in) == []


def test_axe_finds_nothing_serious_on_a_phone(phone: Any) -> None:
    assert _serious(phone) == []


def _serious(opened: Any) -> list[str]:
    response = Axe().run(opened.page).response
    assert len(response["passes"]) > 10, "axe has looked at the page"
    found = response["violations"]
    return [
        f"{v['id']} ({v['impact']}): {v['nodes'][0]['html']}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
