"""Is a robust accuracy to be trusted? A panel of checks on one model, and one verdict."""

from frbench.audit.findings import MARKS, Finding, Verdict
from frbench.audit.report import Audit, AuditReport, read_audits, save_report, worst_audit
from frbench.audit.run import CHECKS, audit
from frbench.audit.sources import default_sources, named_sources
from frbench.audit.subject import Subject

__all__ = [
    "CHECKS",
    "MARKS",
    "Audit",
    "AuditReport",
    "Finding",
    "Subject",
    "Verdict",
    "audit",
    "default_sources",
    "named_sources",
    "read_audits",
    "save_report",
    "worst_audit",
]
