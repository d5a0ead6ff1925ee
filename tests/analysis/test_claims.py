"""Each claim is found to hold, not to hold, or left open, from measurements made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
import torch

from frbench.analysis.claims import Claim, check_claims
from frbench.analysis.estimates import accuracy_difference, mean, mean_difference
from frbench.analysis.filters import FrequencyFilter
from frbench.analysis.kernels import KernelStudy, ModelKernels
from frbench.analysis.lowpass import FilteredAccuracy, FilterStudy
from frbench.analysis.spectrum import PerturbationSpectrum, SpectrumStudy
from frbench.attacks import specs
from frbench.errors import InputError

# Percent correct by (model, attack, bandwidth): Table 1 of the paper, rounded.
PAPER = {
    ("natural", "clean", 32): 95, ("natural", "clean", 20): 81, ("natural", "clean", 16): 51,
    ("natural", "pgd20", 32): 0, ("natural", "pgd20", 20): 39, ("natural", "pgd20", 16): 32,
    ("robust", "clean", 32): 81, ("robust", "clean", 20): 79, ("robust", "clean", 16): 78,
}  # fmt: skip


def accuracies(percent: dict[tuple[str, str, int], int], n: int = 1000) -> FilterStudy:
    entries = tuple(
        FilteredAccuracy(
            model,
            "0",
            attack,
            FrequencyFilter(width),
            ("1" * share + "0" * (100 - share)) * (n // 100),
        )
        for (model, attack, width), share in percent.items()
    )
    return FilterStudy(entries, specs()["pgd20"], False, 0, 256, None)


def spectra(natural: float, robust: float, n: int = 50) -> SpectrumStudy:
    def entry(model: str, low: float) -> PerturbationSpectrum:
        shares = [low + 0.01 * (i % 3 - 1) for i in range(n)]
        return PerturbationSpectrum(
            model, "pgd20", n, (1.0,), {"low": mean(shares)}, (*shares, None)
        )

    entries = (entry("natural", natural), entry("robust", robust))
    return SpectrumStudy(entries, (1.0,), {"low": 0.087}, 0, None)


def kernels(natural: float, robust: float, spread: float = 0.1) -> KernelStudy:
    def entry(model: str, centre: float) -> ModelKernels:
        values = tuple(centre + spread * (i % 3 - 1) for i in range(60))
        return ModelKernels(model, (0,), torch.zeros(60, 3, 3, 3), values)

    return KernelStudy((entry("natural", natural), entry("robust", robust)), 0)


def check(
    percent: dict[tuple[str, str, int], int] | None = None,
    spectrum: SpectrumStudy | None = None,
    kernel: KernelStudy | None = None,
    n: int = 1000,
) -> dict[str, Claim]:
    found = check_claims(
        "natural",
        ["robust"],
        accuracies(PAPER | (percent or {}), n),
        spectrum or spectra(0.2, 0.7),
        kernel or kernels(1.8, 1.2),
    )
    return {claim.key: claim for claim in found.claims}


def test_the_papers_own_numbers_confirm_its_claims() -> None:
    found = check()
    assert {key: claim.verdict for key, claim in found.items()} == dict.fromkeys(
        ("a", "b1", "b2", "c1", "c2", "d", "e"), "holds"
    )
    assert found["a"].estimate.value == pytest.approx(0.03)
    assert found["b2"].estimate.value == pytest.approx(0.39)
    assert "95.0 to 51.0" in found["b1"].measured


@pytest.mark.parametrize(
    ("key", "percent"),
    [
        ("a", {("robust", "clean", 16): 60}),
        ("b1", {("natural", "clean", 16): 90}),
        ("b2", {("natural", "pgd20", 20): 2}),
        ("e", {("natural", "clean", 20): 60}),
        ("e", {("natural", "clean", 20): 99}),
    ],
)
def test_accuracies_that_contradict_are_reported(
    key: str, percent: dict[tuple[str, str, int], int]
) -> None:
    assert check(percent)[key].verdict == "does not hold"


def test_spectra_and_kernels_that_contradict_are_reported() -> None:
    found = check(spectrum=spectra(0.4, 0.3), kernel=kernels(1.2, 1.5))
    assert [found[key].verdict for key in ("c1", "c2", "d")] == ["does not hold"] * 3


def test_an_interval_that_crosses_the_threshold_leaves_the_claim_open() -> None:
    found = check({("robust", "clean", 16): 76}, spectra(0.5, 0.5), kernels(1.5, 1.5), n=100)
    assert found["a"].estimate.value == pytest.approx(0.05)
    assert [found[key].verdict for key in ("a", "c1", "c2", "d")] == ["cannot be told"] * 4


def test_kernels_of_different_sizes_are_compared_with_independent_weights() -> None:
    narrow, wide = kernels(1.2, 1.3).entries
    wide = replace(wide, kernels=torch.zeros(60, 3, 4, 4))
    claims = check(kernel=KernelStudy((narrow, wide), 0))
    # 1.2 of 4 sqrt(2) / 3 is rougher than 1.3 of 3 sqrt(2) / 2.
    assert claims["d"].verdict == "holds"
    assert claims["d"].estimate.value == pytest.approx((0.9 - 1.3 / 1.5) / sqrt(2))
    assert "64 and 61 % of independent weights" in claims["d"].measured


def test_missing_measurements_are_named() -> None:
    few = {key: value for key, value in PAPER.items() if key[2] != 20}
    with pytest.raises(
        InputError, match=r"no low-pass accuracy of natural \(pgd20\) at bandwidth 20"
    ):
        check_claims("natural", ["robust"], accuracies(few), spectra(0, 1), kernels(1, 1))
    with pytest.raises(InputError, match="no spectrum of pgd20 against natural2"):
        check_claims(
            "natural",
            ["natural2"],
            accuracies(PAPER | {("natural2", a, w): s for (_, a, w), s in PAPER.items()}),
            spectra(0, 1),
            kernels(1, 1),
        )


def test_the_table_is_written(tmp_path: Path) -> None:
    study = check_claims("natural", ["robust"], accuracies(PAPER), spectra(0, 1), kernels(2, 1))
    study.save(tmp_path)
    content = json.loads((tmp_path / "claims.json").read_text())
    assert [c["key"] for c in content["claims"]] == ["a", "b1", "b2", "c1", "c2", "d", "e"]
    assert study.table().row_count == 7


def test_differences_count_images_in_pairs_and_means_have_students_interval() -> None:
    first, second = "1" * 60 + "0" * 40, "1" * 50 + "0" * 50
    paired = accuracy_difference(first, second)
    assert paired.value == pytest.approx(0.1)
    shuffled = accuracy_difference(first, "0" * 50 + "1" * 50)
    assert shuffled.value == pytest.approx(0.1)
    assert paired.high - paired.low < shuffled.high - shuffled.low
    three = mean([1.0, 2.0, 3.0])
    assert (three.value, three.high) == (2.0, pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5))
    assert mean([1.0]).to_json() == {"value": 1.0, "low": None, "high": None}
    assert mean_difference([1.0, 1.0], [0.5, 0.5]).low == 0.5
