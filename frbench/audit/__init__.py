"""Is a robust accuracy to be trusted? A panel of checks on one model, and one verdict.

Here is what a table needs of an audit. The panel is `frbench.audit.run`: it imports the attack
libraries, which takes longer than a table does.
"""

from frbench.audit.findings import MARKS, Finding
from frbench.audit.report import Audit, AuditReport, read_audits, save_report, worst_audit

__all__ = [
    "MARKS",
    "Audit",
    "AuditReport",
    "Finding",
    "read_audits",
    "save_report",
    "worst_audit",
]
