"""What results say of the code that made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from frbench import provenance
from frbench.provenance import code_digest, commit


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small `frbench/` outside any checkout."""
    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "frbench" / "engine").mkdir(parents=True)
    (tmp_path / "frbench" / "engine" / "step.py").write_text("a = 1\n")
    return tmp_path / "frbench"


def test_code_has_a_digest_where_no_commit_is_known(package: Path) -> None:
    assert commit.__wrapped__() is None
    known = code_digest.__wrapped__()
    (package / "engine" / "step.pyc").write_bytes(b"compiled")
    assert code_digest.__wrapped__() == known
    (package / "engine" / "step.py").write_text("a = 2\n")
    changed = code_digest.__wrapped__()
    (package / "engine" / "step.py").rename(package / "step.py")
    assert len({known, changed, code_digest.__wrapped__()}) == 3
