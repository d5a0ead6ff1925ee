from __future__ import annotations

import pytest
import torch
from torch import Tensor

from frbench.audit.findings import beaten, grade, significant, worst


def survivors(broken: range, n: int = 60) -> Tensor:
    alive = torch.ones(n, dtype=torch.bool)
    alive[list(broken)] = False
    return alive


def test_the_worst_verdict_counts() -> None:
    assert worst(["trusted", "broken", "suspicious"]) == "broken"
    assert worst([]) == "trusted"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.03, "trusted"), (0.04, "suspicious"), (0.1, "suspicious"), (0.11, "broken")],
)
def test_a_bound_itself_is_still_allowed(value: float, verdict: str) -> None:
    assert grade(value, 0.03, 0.1) == verdict


def test_a_weaker_attack_that_breaks_many_more_images_means_broken() -> None:
    assert beaten(survivors(range(0, 20)), survivors(range(0, 2)), 60) == ("broken", 18)


def test_a_weaker_attack_that_alone_breaks_a_few_images_is_suspicious() -> None:
    assert beaten(survivors(range(10, 14)), survivors(range(0, 10)), 60) == ("suspicious", 4)


def test_an_odd_image_broken_by_a_weaker_attack_alone_is_luck() -> None:
    assert beaten(survivors(range(9, 12)), survivors(range(0, 10)), 60) == ("trusted", 2)


def test_ten_images_to_none_is_more_than_chance_and_nine_is_not() -> None:
    assert significant(10, 0) and not significant(9, 0) and not significant(0, 0)
