"""Charts: the Pareto front, what is left out, names that matplotlib would misread."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from frbench.evaluation.cells import Cell, ModelRecord
from frbench.leaderboard.table import build
from frbench.report import svg
from frbench.report.charts import Point, clean_robust, learning_curve, pareto_front
from frbench.report.sources import RunCurve


def _point(key: str, clean: float, robust: float) -> Point:
    return Point(key, key, "measured", clean, robust)


def test_front_keeps_what_nothing_beats() -> None:
    points = [_point("a", 80, 55), _point("b", 85, 52), _point("c", 79, 54), _point("d", 85, 51)]
    assert [p.key for p in pareto_front(points)] == ["a", "b"]


def test_equal_points_are_both_on_the_front() -> None:
    points = [_point("a", 80, 55), _point("b", 80, 55)]
    assert {p.key for p in pareto_front(points)} == {"a", "b"}


@pytest.mark.parametrize(("second", "drawn"), [("1100", False), ("1111", True)])
def test_legend_names_a_front_only_where_one_is_drawn(
    make_cell: Callable[..., Cell],
    model_record: Callable[..., ModelRecord],
    second: str,
    drawn: bool,
) -> None:
    rows = {"a": ("1110", "1000"), "b": (second, "0000")}
    cells = [
        make_cell(model_record(name, digest=name * 64), attack, verdicts)
        for name, both in rows.items()
        for attack, verdicts in zip(("clean", "pgd20"), both, strict=True)
    ]
    chart = clean_robust("c", build(cells).tables[0], None)
    assert chart is not None
    assert ("Pareto front" in chart.picture) is drawn


def test_a_row_that_is_not_comparable_has_its_dagger_beside_the_papers(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    records = [
        model_record("pgd_at", digest="a" * 64),
        model_record("quickie", digest="b" * 64, comparable=False),
    ]
    cells = [
        make_cell(record, attack, verdicts)
        for record in records
        for attack, verdicts in (("clean", "1110"), ("pgd20", "1000"))
    ]
    board = build(cells)
    chart = clean_robust("c", board.tables[0], board.paper)
    assert chart is not None
    labels = {row[1].text for row in chart.numbers.rows}
    assert {"PGD-AT", "pgd_at (best)", "quickie (best) †"} <= labels
    assert "Rows with † are not comparable with them" in chart.caption


def test_published_points_are_drawn_only_where_a_row_may_be_compared_with_them(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    cells = [
        make_cell(model_record(name, digest=name * 64, comparable=False), attack, verdicts)
        for name in "ab"
        for attack, verdicts in (("clean", "1110"), ("pgd20", "1000"))
    ]
    board = build(cells)
    chart = clean_robust("c", board.tables[0], board.paper)
    assert chart is not None
    assert {row[2].text for row in chart.numbers.rows} == {"measured"}
    assert "Published" not in chart.caption


def test_learning_curve_shows_epochs_that_were_judged() -> None:
    metrics = (
        {"epoch": 0, "train_loss": 2.0},
        {"epoch": 1, "val_clean": 0.5, "val_pgd20": 0.25},
        {"epoch": 2, "val_clean": 0.75, "val_pgd20": 0.125, "swa_val_pgd20": 0.5},
    )
    chart = learning_curve("c0", RunCurve("run", "at_swa", "smoke", 0, metrics))
    assert chart.numbers.header == ("Epoch", "clean", "PGD-20", "PGD-20, SWA")
    texts = [[entry.text for entry in row] for row in chart.numbers.rows]
    assert texts == [["2", "50.00", "25.00", "-"], ["3", "75.00", "12.50", "50.00"]]


def test_figures_take_their_colours_from_the_page() -> None:
    with svg.figure(3, 2) as made:
        axes = made.subplots()
        axes.plot([0, 1], color=svg.SERIES[2])
        axes.set_title("$\\frac <b>")
        text = str(svg.inline(made, "x", 'a "label"'))
    assert "var(--series-3)" in text
    assert not re.search(r"(stroke|fill): #", text)
    assert "$\\frac &lt;b&gt;" in text
    assert 'aria-label="a &quot;label&quot;"' in text


@pytest.mark.parametrize("name", ["first", "second"])
def test_identifiers_begin_with_the_charts_name(name: str) -> None:
    with svg.figure(3, 2) as made:
        made.subplots().plot([0, 1])
        text = str(svg.inline(made, name, "label"))
    found = re.findall(r'id="([^"]+)"', text)
    assert found and all(identifier.startswith(f"{name}-") for identifier in found)
