"""Chromium from Debian's packages, and the report of a small results folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from frbench.data import load_dataset
from frbench.evaluation.cells import Cell, CellStore, ModelRecord
from frbench.report import write_report

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
N = 32
RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "no chromium: run tools/install_browser.sh as root"
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="session")
def report_file(
    model_record: Callable[..., ModelRecord],
    make_cell: Callable[..., Cell],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Real digits under made-up verdicts, with curves and audits, and the committed analyses."""
    root = tmp_path_factory.mktemp("browser")
    sha256 = load_dataset("digits").test.sha256
    store = CellStore(root / "results")
    for name, counts in {
        "pgd_at": (30, 22, 20, 18),
        "trades": (29, 24, 23, 19),
        "at_fr_swa": (28, 25, 24, 20),
        "<b>hostile</b>": (31, 4, 2, None),
    }.items():
        record = model_record(name, **_smoke(name))
        for attack, correct in zip(("clean", "fgsm", "pgd20", "aa"), counts, strict=True):
            if correct is not None:
                verdicts = "1" * correct + "0" * (N - correct)
                store.save(make_cell(record, attack, verdicts, sha256=sha256))
    _write_extras(root)
    output = root / "report.html"
    write_report(output, root / "results", root / "runs")
    return output


def _smoke(name: str) -> dict[str, Any]:
    """What a run of a tiny network on the digits has of its own."""
    return {
        "target": f"smoke-{name.strip('</b>')}-s0",
        "architecture": "tiny",
        "parameters": 5_122,
        "dataset": "digits",
        "preset": "quick" if "<" in name else "smoke",
        "protocol": None,
        "epoch": 4,
        "comparable": "<" in name,
        "cost": {"train_seconds": 10.0 * len(name), "forward_units": 7.0},
    }


def _write_extras(root: Path) -> None:
    files: dict[str, Any] = {
        "runs/smoke-pgd_at-s0/run.json": {
            "settings": {
                "defense": "pgd_at",
                "preset": "smoke",
                "protocol": "common",
                "seed": 0,
                "frame": {},
                "recipe": {"mechanisms": {}},
            }
        },
        "results/audits/a.json": {
            "target": "pgd_at",
            "digest": "pgd_at".ljust(64, "0"),
            "verdict": "suspicious",
            "reasons": ["Square finds more than the gradient attacks"],
        },
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    shutil.copytree(RESULTS / "quick/analysis", root / "results/analysis")
    lines = [{"epoch": i, "val_clean": 0.5 + i / 10, "val_pgd20": 0.3} for i in range(4)]
    metrics = root / "runs/smoke-pgd_at-s0/metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


@dataclass
class Opened:
    """A page, and what it said and asked for while it was open."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def board(self) -> Any:
        return json.loads(self.page.locator("#leaderboard").text_content() or "")


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(browser: Browser, report_file: Path) -> Iterator[Opened]:
    """The report on a desktop screen; fails the test at a console error or a network request."""
    yield from _open(browser, report_file, width=1280, color_scheme="light")


@pytest.fixture
def opened_in(browser: Browser, report_file: Path, scheme: str) -> Iterator[Opened]:
    """The same once in light and once in dark."""
    yield from _open(browser, report_file, width=1280, color_scheme=scheme)


@pytest.fixture
def phone(browser: Browser, report_file: Path) -> Iterator[Opened]:
    """The same as wide as a phone."""
    yield from _open(browser, report_file, width=390, color_scheme="light")


def _open(browser: Browser, report: Path, *, width: int, color_scheme: Any) -> Iterator[Opened]:
    context = browser.new_context(
        viewport={"width": width, "height": 850}, color_scheme=color_scheme, reduced_motion="reduce"
    )
    opened = Opened(context.new_page())
    opened.page.on("console", lambda m: opened.console.append(f"{m.type}: {m.text}"))
    opened.page.on("pageerror", lambda error: opened.console.append(str(error)))
    opened.page.on("request", lambda r: opened.requests.append(r.url))
    opened.page.goto(report.as_uri())
    yield opened
    context.close()
    asked = [url for url in opened.requests if not url.startswith("data:")]
    assert asked == [report.as_uri()]
    assert opened.console == []
