"""What audits found, as marks beside the rows of the very weights that were audited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from frbench.audit import MARKS, Audit, worst_audit
from frbench.leaderboard.rows import Row


def audited(row: Row, threat_model: str, audits: Mapping[tuple[str, str], Audit]) -> Row:
    """The row with its audit; with several seeds the worst one of its members.

    Args:
        row: of a table.
        threat_model: of that table; an audit in another ball says nothing about it.
        audits: see `frbench.audit.read_audits`.
    """
    if not row.members:
        return row.model_copy(update={"audit": audits.get((row.model.digest, threat_model))})
    members = tuple(audited(member, threat_model, audits) for member in row.members)
    found = [member.audit for member in members if member.audit]
    audit = worst_audit(found) if found else None
    return row.model_copy(update={"members": members, "audit": audit})


def mark(row: Row) -> str:
    """The mark with a space before it; nothing for a row without an audit."""
    return f" {row.audit.mark}" if row.audit else ""


def legend(rows: Sequence[Row]) -> Iterator[str]:
    """What the marks of these rows mean, and what a reader must know of each audit."""
    verdicts = {row.audit.verdict for row in rows if row.audit}
    if verdicts:
        meanings = (f"{sign} {verdict}" for verdict, sign in MARKS.items() if verdict in verdicts)
        images = sorted({row.audit.n for row in rows if row.audit and row.audit.n})
        on = f" on {' or '.join(str(n) for n in images)} images" if images else ""
        yield f"'frbench audit' found{on}: {', '.join(meanings)}"
    for row in rows:
        if row.audit is None:
            continue
        facts = list(row.audit.reasons)
        seeds = sum(member.audit is not None for member in row.members)
        if seeds < len(row.members):
            facts.append(f"{seeds} of {len(row.members)} seeds audited")
        if facts:
            yield f"{row.audit.mark} {row.label}: {'; '.join(facts)}"
