from __future__ import annotations

from math import comb

import pytest
from scipy.stats import binomtest

from frbench.errors import InputError
from frbench.leaderboard import statistics
from frbench.leaderboard.statistics import PairCounts, RankRange


@pytest.mark.parametrize(("correct", "n"), [(50, 100), (0, 20), (20, 20), (5206, 10_000)])
def test_wilson_interval_is_scipys(correct: int, n: int) -> None:
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert statistics.wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_has_the_published_half_width_at_ten_thousand_images() -> None:
    low, high = statistics.wilson(5000, 10_000)
    assert round(100 * (high - low) / 2, 2) == 0.98


def test_mcnemar_equals_the_binomial_sum_over_discordant_images() -> None:
    counts = PairCounts(both=40, only_a=9, only_b=2, neither=49)
    by_hand = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert statistics.mcnemar(counts) == pytest.approx(by_hand, rel=1e-12)
    assert statistics.mcnemar(PairCounts(10, 0, 0, 10)) == 1.0


def test_pair_counts_tell_the_four_outcomes_apart() -> None:
    assert statistics.pair_counts("1101", "1010") == PairCounts(1, 2, 1, 0)
    assert statistics.pair_counts("1101", "1010").difference == 0.25


@pytest.mark.parametrize(("a", "b"), [("11", "1"), ("", ""), ("1.", "11")])
def test_verdicts_that_cannot_be_paired_are_refused(a: str, b: str) -> None:
    with pytest.raises(InputError, match="cannot pair"):
        statistics.pair_counts(a, b)


def test_paired_interval_excludes_zero_only_for_a_clear_difference() -> None:
    low, high = statistics.paired_interval(PairCounts(500, 60, 20, 420))
    # Bonett and Price 2012 by hand: 40/1002 -+ 1.95996 sqrt((82/1002 - (40/1002)^2) / 1002)
    assert (low, high) == pytest.approx((0.022381, 0.057460), abs=1e-6)
    low, high = statistics.paired_interval(PairCounts(500, 21, 20, 459))
    assert low < 0 < high


def test_unpaired_difference_agrees_with_newcombes_example() -> None:
    low, high = statistics.unpaired_interval(56, 70, 48, 80)  # Newcombe 1998, method 10
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_seed_summary_uses_the_sample_standard_deviation() -> None:
    assert statistics.seed_summary([50.0, 52.0, 54.0]) == (52.0, 2.0)


def test_worst_case_is_the_union_of_the_attacks() -> None:
    assert statistics.worst_case(["1110.", "1011.", "11.1."]) == "10.0."


def test_rows_that_cannot_be_told_apart_share_ranks() -> None:
    strong, similar, weak = "1" * 60 + "0" * 40, "1" * 58 + "0" * 42, "1" * 20 + "0" * 80
    assert statistics.rank_ranges([[weak], [strong], [similar]]) == [
        RankRange(3, 3),
        RankRange(1, 2),
        RankRange(1, 2),
    ]


def test_a_recipe_beats_another_only_with_every_seed() -> None:
    strong, middle, weak = "1" * 80 + "0" * 20, "1" * 50 + "0" * 50, "1" * 49 + "0" * 51
    assert statistics.rank_ranges([[strong, strong], [weak, middle]]) == [(1, 1), (2, 2)]
    assert statistics.rank_ranges([[strong, middle], [weak, weak]]) == [(1, 2), (1, 2)]


def test_ranks_part_at_five_percent() -> None:
    """Of 14 images that one row alone gets right, 11 to 3 has p = 0.057, and 12 to 2 0.013."""
    for fewer, apart in ((3, False), (2, True)):
        a = "1" * (14 - fewer) + "0" * fewer + "1" * 86
        b = "0" * (14 - fewer) + "1" * fewer + "1" * 86
        ranges = [(1, 1), (2, 2)] if apart else [(1, 2), (1, 2)]
        assert statistics.rank_ranges([[a], [b]]) == ranges


def test_more_pairs_need_more_evidence() -> None:
    """12 to 2 has p = 0.013: enough for one pair, by Holm's method not for six."""
    a, b = "1" * 12 + "0" * 2 + "1" * 86, "0" * 12 + "1" * 2 + "1" * 86
    assert statistics.rank_ranges([[a], [b]]) == [(1, 1), (2, 2)]
    assert statistics.rank_ranges([[a], [b], [b], [b]]) == [(1, 4)] * 4


def test_a_stronger_attack_that_leaves_more_images_is_reported() -> None:
    left = {"clean": 90, "fgsm": 60, "pgd20": 55, "cw": 56, "aa": 50}
    fine = {name: "1" * n + "0" * (100 - n) for name, n in left.items()}
    assert statistics.order_warnings(fine) == []
    (warning,) = statistics.order_warnings({**fine, "cw": "1" * 49 + "0" * 51, "aa": fine["pgd20"]})
    assert warning == (
        "aa leaves 6 more images than the weaker cw: a sign of masked gradients or of an attack "
        "that failed"
    )


@pytest.mark.parametrize(
    ("strong", "weak", "told"),
    [
        ("pgd100", "pgd20", True),
        ("pgd100", "fgsm", True),
        ("pgd2", "fgsm", False),
        ("aa", "pgd100", True),
        ("aa-apgd-ce+apgd-t", "pgd20", True),
        ("aa-apgd-ce+apgd-t", "cw", True),
        ("aa-square", "pgd20", False),
    ],
)
def test_more_steps_and_most_of_autoattack_count_as_stronger(
    strong: str, weak: str, told: bool
) -> None:
    found = statistics.order_warnings({weak: "1" * 20 + "0" * 80, strong: "1" * 60 + "0" * 40})
    assert [warning.startswith(f"{strong} leaves 40 more") for warning in found] == [True] * told


def test_one_image_out_of_order_is_said_to_be_chance() -> None:
    fgsm, pgd20 = "1" * 40 + "0" * 60, "0" + "1" * 41 + "0" * 58
    (warning,) = statistics.order_warnings({"fgsm": fgsm, "pgd20": pgd20})
    assert warning == (
        "pgd20 leaves 1 more image than the weaker fgsm: within chance (McNemar's test, p = 1.00)"
    )
