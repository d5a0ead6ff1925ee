"""An audit on disk and on the terminal, and what others read of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table
from rich.text import Text

from frbench import storage
from frbench.attacks import format_length
from frbench.audit.findings import MARKS, Finding, Verdict
from frbench.notices import to_stderr

USUAL_EPS = 8 / 255
_COLORS = {"trusted": "green", "suspicious": "yellow", "broken": "red"}


class Audit(BaseModel):
    """Whether a model is to be trusted, found by its `digest`; further fields are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    target: str
    digest: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    eps: float = USUAL_EPS
    n: int | None = None

    @property
    def threat_model(self) -> str:
        """As a table says it."""
        return f"Linf {format_length(self.eps)}"

    @property
    def mark(self) -> str:
        """One character for a table."""
        return MARKS[self.verdict]


class AuditReport(Audit):
    """Everything that the panel found on one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
            f"{self.threat_model}, {self.n} test images of {self.dataset}, seed "
            f"{self.seed}, {self.seconds:.0f} s; shares of all images unless said otherwise"
        )
        table = Table(title=title, caption=caption, title_style=_COLORS[self.verdict])
        for heading in ("check", "verdict", "why", "measured"):
            table.add_column(heading)
        for finding in self.findings:
            color = _COLORS[finding.verdict]
            table.add_row(
                Text(finding.name),
                Text(finding.verdict, style=color),
                Text(finding.reason),
                Text("; ".join(f"{k}: {_short(v)}" for k, v in finding.numbers.items())),
            )
        return table


def save_report(report: AuditReport, results_dir: Path) -> Path:
    """Write `<results_dir>/audits/<target>-<digest>.json`.

    A model's newest audit of a radius is the one kept; an unusual radius stands in the name.

    Returns:
        The path.
    """
    safe = storage.safe_name(report.target)
    radius = "" if report.eps == USUAL_EPS else f"-eps{report.eps:.4f}"
    path = results_dir / "audits" / f"{safe}-{report.digest[:8]}{radius}.json"
    storage.write_json(path, report.model_dump(mode="json"))
    return path


def read_audits(results_dir: Path) -> dict[tuple[str, str], Audit]:
    """The audits of a results folder, by the digest of the model and the threat model.

    Weights that were audited under two names have the worse of their verdicts. A damaged audit must
    not hide all tables: it is named on stderr and left out.
    """
    found: dict[tuple[str, str], Audit] = {}
    for path in sorted((results_dir / "audits").glob("*.json")):
        try:
            audit = Audit.model_validate_json(path.read_bytes())
        except ValidationError as error:
            what = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
            to_stderr(
                f"frbench: left out: damaged audit {path}: {what.strip()}; move it away and audit "
                "the target again"
            )
            continue
        key = audit.digest, audit.threat_model
        known = found.get(key)
        found[key] = worst_audit([known, audit] if known else [audit])
    return found


def worst_audit(audits: Sequence[Audit]) -> Audit:
    """The first one with the worst verdict; at least one is needed."""
    return max(audits, key=lambda audit: list(MARKS).index(audit.verdict))


def _short(value: float | int | str | list[float]) -> str:
    if isinstance(value, list):
        return " ".join(_short(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
