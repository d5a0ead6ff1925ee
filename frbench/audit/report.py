"""An audit on disk and on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.markup import escape
from rich.table import Table

from frbench import storage
from frbench.attacks import format_length
from frbench.audit.findings import Finding, Verdict

_COLORS = {"trusted": "green", "suspicious": "yellow", "broken": "red"}


class AuditReport(BaseModel):
    """What the panel found on one model. The report and the leaderboard find it by `digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    digest: str
    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    n: int
    seed: int
    eps: float
    dataset: str
    name: str
    sources: tuple[str, ...]
    seconds: float
    provenance: dict[str, Any]

    def table(self) -> Table:
        """One row a check, the verdict in the title."""
        title = f"{self.name}: {self.verdict}"
        caption = (
            f"Linf {format_length(self.eps)}, {self.n} test images of {self.dataset}, seed "
            f"{self.seed}, {self.seconds:.0f} s; shares of all images unless said otherwise"
        )
        table = Table(title=title, caption=caption, title_style=_COLORS[self.verdict])
        for heading in ("check", "verdict", "why", "measured"):
            table.add_column(heading)
        for finding in self.findings:
            color = _COLORS[finding.verdict]
            table.add_row(
                finding.name,
                f"[{color}]{finding.verdict}[/]",
                escape(finding.reason),
                escape("; ".join(f"{k}: {_short(v)}" for k, v in finding.numbers.items())),
            )
        return table


def save_report(report: AuditReport, results_dir: Path) -> Path:
    """Write `<results_dir>/audits/<target>-<digest>.json`; a model's newest audit is the one kept.

    Returns:
        The path.
    """
    safe = "".join(c if c.isalnum() or c in "-_+.@" else "-" for c in report.target)
    path = results_dir / "audits" / f"{safe}-{report.digest[:8]}.json"
    storage.write_json(path, report.model_dump(mode="json"))
    return path


def _short(value: float | int | str | list[float]) -> str:
    if isinstance(value, list):
        return " ".join(_short(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
