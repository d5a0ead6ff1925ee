"""The command: says on stdout what it wrote, and how large it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from frbench.cli.report import report


def test_prints_the_file_alone(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "report.html"
    report(output, results, tmp_path / "runs", False)
    assert capsys.readouterr().out == f"{output} ({output.stat().st_size / 1e6:.1f} MB)\n"
