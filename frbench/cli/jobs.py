"""Several processes at once, each on its share of the cores or on a GPU of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from frbench.cli import outcome
from frbench.engine.threads import chosen_by_user
from frbench.errors import FrbenchError

Job = Callable[[str], None]
"""Does its part on the device of the given name; a partial of a module's function, to be sent."""


def run_jobs(jobs: Sequence[Job], at_once: int, device: str) -> None:
    """Run each of `jobs` in its own process, `at_once` at a time.

    A job that fails says so itself, and the others go on. A job outlives a killed parent and ends
    by itself, so nothing that it computed is lost.

    Args:
        jobs: what to do.
        at_once: processes; on CPUs they share the cores, unless OMP_NUM_THREADS says otherwise.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; several GPUs are shared out unless N is given.

    Raises:
        FrbenchError: some failed, and how many.
    """
    failed = sum(code != 0 for code in _codes(jobs, at_once, device))
    if failed:
        raise FrbenchError(
            f"{failed} of {len(jobs)} jobs failed, as said above; the same command tries them again"
        )


def share(job: Callable[[bool, str], None], processes: int, device: str) -> None:
    """Run one job in several processes that divide its work among themselves.

    Whatever one that fails leaves undone the others do: one that succeeds has seen the end of it.

    Args:
        job: what each does, on the device of the given name; the first is told True, to report.
        processes: how many.
        device: as in `run_jobs`.

    Raises:
        FrbenchError: all failed.
    """
    jobs = [partial(job, number == 0) for number in range(processes)]
    if all(_codes(jobs, processes, device)):
        raise FrbenchError("all processes failed, as said above; the same command goes on")


def _codes(jobs: Sequence[Job], at_once: int, device: str) -> list[int]:
    """The exit code of each job."""
    torch.cuda.empty_cache()  # what the forecast used there is the jobs' now
    slots: queue.SimpleQueue[str] = queue.SimpleQueue()
    for slot in range(at_once):
        slots.put(_device_of(slot, device))
    threads = _share_of_cores(at_once)
    pool = ThreadPoolExecutor(at_once)
    try:
        return list(pool.map(lambda job: _in_process(job, slots, threads), jobs))
    finally:  # after Ctrl-C nothing new may start
        pool.shutdown(cancel_futures=True)


def _device_of(slot: int, device: str) -> str:
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{slot % gpus}" if gpus > 1 else device


def _share_of_cores(at_once: int) -> int:
    """Threads of one process: at most what the machine, or the user, gives a single one."""
    threads = torch.get_num_threads()
    if chosen_by_user():
        return threads
    return max(1, min(threads, len(os.sched_getaffinity(0)) // at_once))


def _in_process(job: Job, slots: queue.SimpleQueue[str], threads: int) -> int:
    device = slots.get()
    try:
        # Forking a process that has threads, or a GPU, is not safe.
        process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(job, device, threads)
        )
        process.start()
        process.join()
    finally:
        slots.put(device)
    code = process.exitcode or 0
    if code < 0:
        outcome.say(f"a job was killed by signal {-code}; by 9, memory may have been short", 1)
    return code


def _run(job: Job, device: str, threads: int) -> None:
    """In the new process: the job, or one line on why not."""
    torch.set_num_threads(threads)
    try:
        job(device)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        code = outcome.explained(error)
        if code is None:
            raise
        sys.exit(code)
