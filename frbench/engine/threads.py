"""How many threads train fastest on this CPU: found by trying, since core counts mislead.

A small network gains nothing from the twentieth core, and on a shared machine two threads that wait
for each other can be slower than one by an order of magnitude.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import torch

GAIN = 1.25
"""How much faster another number must be to be taken. Threads change the rounding of sums, so a
machine at rest should always choose the same."""
_REPEATS = 3


def chosen_by_user() -> bool:
    """Whether OMP_NUM_THREADS says how many; then nothing is tried."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


@functools.cache
def _usual_threads() -> int:
    """Torch's own number of threads: that of the first call, so the one before any was tried.

    Were each search to begin where the last one ended, threads could only become fewer.
    """
    return torch.get_num_threads()


def tune_threads(work: Callable[[], object]) -> int:
    """Set torch to the number of threads that does `work` fastest, and return it.

    Tries torch's own number and its halves down to 1, each by the best of a few runs. Its own is
    taken unless another is faster by `GAIN`.

    Args:
        work: what is done again and again, such as a training step.
    """
    usual = _usual_threads()
    seconds = {count: _seconds(work, count) for count in _halves(usual)}
    fastest = min(seconds, key=lambda count: seconds[count])
    count = fastest if seconds[usual] > GAIN * seconds[fastest] else usual
    torch.set_num_threads(count)
    return count


def _halves(most: int) -> list[int]:
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts


def _seconds(work: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    work()
    best = float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best
