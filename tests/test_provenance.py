"""What results say of the code that made them."""

from __future__ import annotations

import shutil
import subprocess
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


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_is_marked_where_code_differs_and_not_for_results(package: Path) -> None:
    root = package.parent
    (root / "results").mkdir()
    (root / "results" / "eval.json").write_text("{}")

    def git(*words: str) -> None:
        person = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *person, *words], cwd=root, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = commit.__wrapped__()
    assert clean is not None and len(clean) == 12
    (root / "results" / "eval.json").write_text("[]")
    assert commit.__wrapped__() == clean
    (package / "engine" / "step.py").write_text("a = 2\n")
    assert commit.__wrapped__() == f"{clean}+"
