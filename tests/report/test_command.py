"""The command: says on stdout what it wrote, and how large it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from frbench.cli.report import report
from frbench.errors import InputError


def test_prints_the_file_alone(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "report.html"
    report(output, results, tmp_path / "runs", False)
    assert capsys.readouterr().out == f"{output} ({output.stat().st_size / 1e6:.1f} MB)\n"


def test_only_an_earlier_report_is_replaced(results: Path, tmp_path: Path) -> None:
    runs, earlier = tmp_path / "runs", tmp_path / "report.html"
    earlier.touch()
    for _ in range(2):
        report(earlier, results, runs, False)
    for name in ("best.safetensors", "page.html"):
        mine = tmp_path / name
        mine.write_bytes(b"<title>mine</title>\xff")
        with pytest.raises(InputError, match=f"{name} is there already and is no report"):
            report(mine, results, runs, False)
        assert mine.read_bytes() == b"<title>mine</title>\xff"
