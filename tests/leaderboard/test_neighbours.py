from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from frbench import published
from frbench.evaluation.cells import Cell, ModelRecord
from frbench.leaderboard.grids import unmatched_grid
from frbench.leaderboard.neighbours import architecture_name, find_neighbours
from frbench.leaderboard.rows import Neighbours, Score
from frbench.leaderboard.table import build

EPS = 8 / 255
SNAPSHOT = published.robustbench()


def record(**changes: Any) -> ModelRecord:
    fields: dict[str, Any] = {
        "name": "at_fr",
        "target": "runs/at_fr",
        "digest": "0" * 64,
        "architecture": "wrn-34-10",
        "parameters": 46_160_474,
        "dataset": "cifar10",
        "classes": 10,
        "source": "run",
    }
    return ModelRecord(**{**fields, **changes})


def near(**changes: Any) -> Neighbours:
    aa = Score(accuracy=52.06, low=51.08, high=53.04, n=10_000, correct=5206)
    return find_neighbours(record(**changes), "cifar10", "Linf", EPS, aa, SNAPSHOT)


def ids(neighbours: Neighbours) -> set[str]:
    return {n.entry.model_id for n in neighbours.entries}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("wrn-34-10", "WideResNet-34-10", True),
        ("resnet18", "ResNet-18", True),
        ("preactresnet18", "PreActResNet-18", True),
        ("preactresnet18", "ResNet-18", False),
        ("wrn-34-10", "RaWideResNet-34-10", False),
        ("wrn-34-10", "WideResNet-34-20", False),
        ("wrn-70-16", "MeanSparse WideResNet-70-16", False),
        ("timm:resnet18", "ResNet-18", False),
    ],
)
def test_only_the_spelling_of_an_architecture_is_normalized(
    one: str, other: str, same: bool
) -> None:
    assert (architecture_name(one) == architecture_name(other)) is same


def test_wrn_34_10_without_extra_data_has_these_neighbours() -> None:
    found = near()
    assert ids(found) == {
        "Addepalli2021Towards_WRN34",
        "Addepalli2022Efficient_WRN_34_10",
        "Chan2020Jacobian",
        "Chen2020Efficient",
        "Chen2021LTD_WRN34_10",
        "Chen2024Data_WRN_34_10",
        "Cui2023Decoupled_WRN-34-10",
        "Jia2022LAS-AT_34_10",
        "KimWang2020Sensible",
        "Kumari2019Harnessing",
        "Madry2018Towards",
        "Mao2019Metric",
        "Shafahi2019Adversarial",
        "Sitawarin2020Improving",
        "Wu2020Adversarial",
        "Zhang2019You",
        "Zhang2020Attacks",
    }
    assert {n.entry.model_id for n in found.other_eps} == {
        "Cui2020Learnable_34_10",
        "Huang2020Self",
        "Zhang2019Theoretically",
    }
    assert not any(n.same_eps for n in found.other_eps)


def test_another_radius_has_no_neighbours_at_all() -> None:
    """7/255 and 8/255 are two threat models; 0.031 is only another way to write the latter."""
    found = find_neighbours(record(), "cifar10", "Linf", 7 / 255, None, SNAPSHOT)
    assert not found.entries and not found.other_eps
    assert found.reason.startswith("no RobustBench entry with wrn-34-10, cifar10, Linf 7/255")


def test_the_data_class_decides_the_neighbours() -> None:
    assert ids(near(extra_data="synthetic")) == {"Sehwag2021Proxy"}
    assert ids(near(extra_data="extra")) == {"Rade2021Helper_extra"}
    unknown = near(extra_data="unknown")
    assert not unknown.entries and "--extra-data" in unknown.reason


def test_the_difference_carries_our_interval() -> None:
    (wu,) = (n for n in near().entries if n.entry.model_id == "Wu2020Adversarial")
    assert wu.difference is not None
    assert (wu.difference.points, wu.difference.low, wu.difference.high) == (-4.11, -5.09, -3.13)


def test_no_near_architecture_takes_the_place_of_a_missing_one() -> None:
    found = near(architecture="wrn-34-11")
    assert not found.entries and not found.other_eps
    assert found.reason.startswith("no RobustBench entry with wrn-34-11, cifar10, Linf 8/255")


def test_a_shortened_run_is_not_set_beside_published_numbers() -> None:
    found = near(comparable=False, note="8 epochs")
    assert not found.entries and "8 epochs" in found.reason


def test_a_row_without_autoattack_is_told_what_it_lacks(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    cells = [make_cell(model_record("mart"), attack, "1100" * 25) for attack in ("pgd20", "aa")]
    grid = unmatched_grid(build(cells[:1]))
    assert grid is not None and grid.notes == (
        "mart (best): its entries are compared under AutoAttack, which was not run on it: "
        "--attacks aa",
    )
    assert unmatched_grid(build(cells)) is None


def test_a_robustbench_model_meets_its_own_claim() -> None:
    found = near(target="robustbench:Kang2021Stable", architecture="odd", source="outside")
    assert found.own_claim is not None
    assert found.own_claim.robust == 64.20


@pytest.mark.parametrize(
    ("target", "dataset", "norm", "eps", "robust"),
    [
        ("robustbench:L2/Wang2023Better_WRN-70-16", "cifar10", "L2", 0.5, 84.97),
        ("robustbench:cifar100/Wang2023Better_WRN-70-16", "cifar100", "Linf", EPS, 42.66),
    ],
)
def test_so_does_one_of_another_dataset_or_norm(
    target: str, dataset: str, norm: Any, eps: float, robust: float
) -> None:
    model = record(target=target, source="outside", dataset=dataset)
    found = find_neighbours(model, dataset, norm, eps, None, SNAPSHOT)
    assert found.own_claim is not None and found.own_claim.robust == robust


def test_a_file_of_that_name_has_no_claim() -> None:
    assert near(target="file:Kang2021Stable", source="outside").own_claim is None
