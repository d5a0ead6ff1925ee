"""Several trainings at once: each in its own process, and none is lost with another."""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from frbench.cli import jobs
from frbench.cli.jobs import run_jobs, share
from frbench.engine.plan import Plan
from frbench.errors import FrbenchError
from frbench.evaluation import CellStore

JOBS = """
import os, signal
import torch
from frbench.errors import InputError

def note(folder, name, device):
    (folder / name).write_text(f"{os.getpid()} {device} {torch.get_num_threads()}")

def tell(folder, tells, device):
    (folder / str(os.getpid())).write_text(str(tells))

def fail(tells, device):
    raise InputError("a damaged file")

def fail_first(tells, device):
    if tells:
        raise InputError("no GPU of this number")

def refuse(device):
    raise InputError("a milestone beyond the end")

def lose_a_file(device):
    open("/no/such/file")

def die(device):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Jobs in a module that another process can import."""
    (tmp_path / "sample_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sample_jobs", raising=False)
    return importlib.import_module("sample_jobs")


def test_each_job_has_a_process_and_its_share_of_the_cores(sample, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    run_jobs([partial(sample.note, tmp_path, name) for name in "ab"], 2, "cpu")
    said = [(tmp_path / name).read_text().split() for name in "ab"]
    assert len({process for process, _, _ in said} | {str(os.getpid())}) == 3
    assert {(device, threads) for _, device, threads in said} == {("cpu", "3")}


def test_a_job_has_no_more_threads_than_are_fast_or_chosen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [jobs._share_of_cores(n) for n in (2, 8, 32)] == [4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert jobs._share_of_cores(32) == 4


def test_one_of_the_processes_that_share_a_job_tells_of_it(sample, tmp_path):
    folder = tmp_path / "told"
    folder.mkdir()
    share(partial(sample.tell, folder), 3, "cpu")
    assert sorted(path.read_text() for path in folder.iterdir()) == ["False", "False", "True"]


def test_a_process_that_fails_leaves_its_share_to_the_others(sample, capfd):
    share(sample.fail_first, 2, "cpu")
    assert capfd.readouterr().err == "frbench: no GPU of this number\n"
    with pytest.raises(FrbenchError, match="all processes failed"):
        share(sample.fail, 2, "cpu")


def test_a_failure_is_said_and_stops_no_other_job(sample, tmp_path, capfd):
    todo = [sample.refuse, sample.die, partial(sample.note, tmp_path, "last")]
    with pytest.raises(FrbenchError, match="2 of 3 jobs failed"):
        run_jobs(todo, 1, "cpu")
    assert (tmp_path / "last").exists()
    assert capfd.readouterr().err.splitlines() == [
        "frbench: a milestone beyond the end",
        "frbench: a job was killed by signal 9; by 9, memory may have been short",
    ]


def test_a_missing_file_is_one_line_of_its_job(sample, capsys):
    with pytest.raises(SystemExit) as ended:
        jobs._run(sample.lose_a_file, "cpu", torch.get_num_threads())
    assert ended.value.code == 1
    assert capsys.readouterr().err == "frbench: /no/such/file: No such file or directory\n"


def test_an_interrupted_job_is_not_a_finished_one():
    def interrupted(device):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        jobs._run(interrupted, "cpu", torch.get_num_threads())
    assert ended.value.code == 130


def test_several_gpus_are_shared_out_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [jobs._device_of(slot, "auto") for slot in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert jobs._device_of(1, "cuda:0") == "cuda:0" and jobs._device_of(1, "cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert jobs._device_of(1, "cuda") == "cuda"


def test_rows_of_one_training_are_one_job(frbench, world, monkeypatch):
    found: list[list[tuple[str, int]]] = []

    def instead(todo, at_once, device):
        assert at_once == 2
        for job in todo:
            plans: list[Plan] = job.args[0]
            found.append([(plan.defense, plan.seed) for plan in plans])

    monkeypatch.setattr(jobs, "run_jobs", instead)
    typed = "bench pgd_at trades at_swa --preset smoke --seeds 2 --n 8 --jobs 2"
    assert frbench(*typed.split()).code == 0
    assert sorted(found) == [
        [("pgd_at", 0), ("at_swa", 0)],
        [("pgd_at", 1), ("at_swa", 1)],
        [("trades", 0)],
        [("trades", 1)],
    ]


def test_processes_that_share_an_evaluation_find_the_same_verdicts(frbench, world):
    def evaluate(typed: str) -> int:
        words = f"evaluate pgd_at --attacks clean,pgd20 --n 24 --batch 8 --results-dir {typed}"
        return frbench(*words.split()).code

    assert evaluate("alone") == evaluate("shared --jobs 2") == 0
    alone, shared = (CellStore(Path(folder)).all() for folder in ("alone", "shared"))
    assert [(cell.key, cell.verdicts) for cell in alone] == [
        (cell.key, cell.verdicts) for cell in shared
    ]
    assert all(cell.complete for cell in shared)


def test_one_training_is_attacked_by_all_processes(frbench, world, monkeypatch):
    told: list[bool] = []

    def instead(job, processes, device):
        assert processes == 3
        for tell in (False, True):
            job(tell, "cpu")
            told.append(tell)

    monkeypatch.setattr(jobs, "share", instead)
    typed = "bench pgd_at --preset smoke --n 8 epochs=2 --jobs 3"
    ended = frbench(*typed.split())
    assert ended.code == 0 and told == [False, True]
    assert ended.err.count("plan: pgd_at seed 0: ") == 0, "what the silent one filled is found"
    assert all(cell.complete for cell in CellStore(Path("results/local")).all())
