"""Several trainings at once: a process each, on its share of the cores or on a GPU of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

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
    slots: queue.SimpleQueue[str] = queue.SimpleQueue()
    for slot in range(at_once):
        slots.put(_device_of(slot, device))
    pool = ThreadPoolExecutor(at_once)
    with _cores_shared(at_once):
        try:
            codes = list(pool.map(lambda job: _in_process(job, slots), jobs))
        finally:  # after Ctrl-C nothing new may start
            pool.shutdown(cancel_futures=True)
    failed = sum(code != 0 for code in codes)
    if failed:
        raise FrbenchError(
            f"{failed} of {len(jobs)} jobs failed, as said above; the same command tries them again"
        )


def _device_of(slot: int, device: str) -> str:
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{slot % gpus}" if gpus > 1 else device


@contextlib.contextmanager
def _cores_shared(at_once: int) -> Iterator[None]:
    """Processes started inside compute with their share of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    if not chosen:
        os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // at_once))
    try:
        yield
    finally:
        if not chosen:
            del os.environ["OMP_NUM_THREADS"]


def _in_process(job: Job, slots: queue.SimpleQueue[str]) -> int:
    device = slots.get()
    try:
        # Forking a process that has threads, or a GPU, is not safe.
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(job, device))
        process.start()
        process.join()
        return process.exitcode or 0
    finally:
        slots.put(device)


def _run(job: Job, device: str) -> None:
    """In the new process: the job, or one line on why not."""
    try:
        job(device)
    except FrbenchError as error:
        print(f"frbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
