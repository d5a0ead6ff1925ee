"""The real entry point in this process, and a small world of finished work to run it on."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from frbench.attacks import specs
from frbench.cli.app import main
from frbench.data import load_dataset
from frbench.engine.device import find_device
from frbench.engine.plan import resolve
from frbench.evaluation import CellStore, evaluate, run_target
from frbench.workflow import train_all


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that an error is: the last one, the only one that begins with our name."""
        lines = self.err.strip().splitlines()
        assert [line for line in lines if line.startswith("frbench: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        return lines[-1]


@pytest.fixture
def frbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run `frbench ...` as the shell would, in this process."""

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["frbench", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def _finished_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cached dataset, one finished run and its cells, made once."""
    root = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRBENCH_CACHE", str(root / "cache"))
        load_dataset("digits")
        plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "2"})
        quiet, device = Console(quiet=True), find_device("cpu")
        (run,) = train_all([plan], device, root / "runs", quiet)
        columns = [specs()["clean"], specs()["pgd20"]]
        store, data = CellStore(root / "results/local"), load_dataset("digits")
        evaluate(run_target(run), columns, data, store=store, device=device.device, n=8)
    yield root


@pytest.fixture
def world(_finished_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that work as the current folder; tests may break it."""
    here = tmp_path / "world"
    shutil.copytree(_finished_work, here)
    monkeypatch.chdir(here)
    monkeypatch.setenv("FRBENCH_CACHE", str(here / "cache"))
    monkeypatch.delenv("FRBENCH_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return here


@pytest.fixture
def run_name(world: Path) -> str:
    """The world's one run."""
    (folder,) = (world / "runs").iterdir()
    return folder.name


def snapshot(root: Path) -> dict[str, str]:
    """Every file below a folder, but for empty lock files, and its digest."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.stat().st_size
    }


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """`contents(folder)`: what must be the same before and after."""
    return snapshot
