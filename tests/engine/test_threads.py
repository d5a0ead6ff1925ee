"""The number of threads: what is measured decides, and a close race changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from frbench.engine import threads


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = torch.get_num_threads()
    threads._usual_threads.cache_clear()
    yield
    threads._usual_threads.cache_clear()
    torch.set_num_threads(before)


class Work:
    """Takes a pretended time that depends on the number of threads."""

    def __init__(self, seconds: dict[int, float], patch: pytest.MonkeyPatch) -> None:
        self.seconds, self.now = seconds, 0.0
        self.tried: list[int] = []
        patch.setattr(threads.time, "perf_counter", lambda: self.now)

    def __call__(self) -> None:
        count = torch.get_num_threads()
        self.tried.append(count)
        self.now += self.seconds[count]


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({4: 1.0, 2: 1.5, 1: 3.0}, 4),
        ({4: 9.0, 2: 1.5, 1: 3.0}, 2),
        ({4: 9.0, 2: 5.0, 1: 0.5}, 1),
        ({4: 1.1, 2: 1.0, 1: 3.0}, 4),  # too close: the rounding of sums is not changed for it
    ],
)
def test_fastest_number_is_set_if_it_is_clearly_faster(
    seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(4)
    work = Work(seconds, monkeypatch)
    assert threads.tune_threads(work) == chosen == torch.get_num_threads()
    assert sorted(set(work.tried)) == [1, 2, 4]


def test_one_slow_run_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    work = Work({2: 1.0, 1: 1.1}, monkeypatch)

    def disturbed() -> None:
        work()
        work.now += 50.0 if len(work.tried) == 2 else 0.0

    assert threads.tune_threads(disturbed) == 2


def test_a_disturbed_search_does_not_take_threads_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(4)
    assert threads.tune_threads(Work({4: 9.0, 2: 5.0, 1: 0.5}, monkeypatch)) == 1
    assert threads.tune_threads(Work({4: 1.0, 2: 1.5, 1: 3.0}, monkeypatch)) == 4


def test_one_core_has_nothing_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    assert threads.tune_threads(Work({1: 1.0}, monkeypatch)) == 1
