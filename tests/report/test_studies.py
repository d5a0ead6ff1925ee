"""The analyses as the analysis stage writes them, shown with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frbench.analysis.estimates import Estimate, accuracy
from frbench.analysis.filters import FrequencyFilter
from frbench.analysis.lowpass import FilteredAccuracy, FilterStudy
from frbench.analysis.spectrum import PerturbationSpectrum, SpectrumStudy
from frbench.attacks import specs

DATA = {"dataset": "cifar10", "split": "test", "sha256": "d" * 64, "start": 0, "stop": 4}


def test_lowpass_table_beside_the_papers(results: Path, make_page: Any) -> None:
    entries = tuple(
        FilteredAccuracy("natural", "f" * 64, attack, FrequencyFilter(width), verdicts)
        for attack, verdicts in (("clean", "1110"), ("pgd20", "1000"))
        for width in (32, 16)
    )
    FilterStudy(entries, specs()["pgd20"], False, 0, 256, DATA).save(results / "analysis")
    text = make_page()
    share = accuracy("1110")
    assert "Low-pass accuracy, cifar10, n = 4" in text
    assert f"{100 * share.value:.1f} <small>{100 * share.low:.1f}-{100 * share.high:.1f}" in text
    assert "natural (paper)" in text and "50.72" in text


def lowpass(attacks: tuple[str, ...], *, adaptive: bool) -> FilterStudy:
    entries = tuple(
        FilteredAccuracy("robust", "f" * 64, attack, FrequencyFilter(width), "1110")
        for attack in attacks
        for width in (32, 16)
    )
    return FilterStudy(entries, specs()["pgd20"], adaptive, 0, 256, DATA)


def test_an_adaptive_attack_is_not_set_beside_the_papers(results: Path, make_page: Any) -> None:
    lowpass(("clean", "pgd20"), adaptive=True).save(results / "analysis")
    text = make_page()
    assert "pgd20 images were crafted through the filter (adaptive)" in text
    assert "Low-pass accuracy, cifar10, n = 4, adaptive attack" in text
    assert "natural (paper)" not in text


def test_without_an_attack_there_is_no_word_of_one(results: Path, make_page: Any) -> None:
    lowpass(("clean",), adaptive=False).save(results / "analysis")
    text = make_page()
    assert "were crafted" not in text
    assert "94.56" in text and "50.72" in text, "the paper's row of clean images"
    assert "32.15" not in text, "its row under PGD-20"
    assert "how the robust model was trained is not stated" in text


def test_spectrum_is_set_beside_white_noise(results: Path, make_page: Any) -> None:
    bands = {
        "low": Estimate(0.625, 0.5, 0.75),
        "mid": Estimate(0.25, float("-inf"), float("inf")),
        "high": Estimate(0.125, 0.1, 0.15),
    }
    entry = PerturbationSpectrum("natural", "pgd20", 4, (0.5, 0.25, 0.25), bands, (0.6,))
    white = {"low": 0.25, "mid": 0.25, "high": 0.5}
    SpectrumStudy((entry,), (0.1, 0.4, 0.5), white, 0, DATA).save(results / "analysis")
    text = make_page()
    assert "62.5 <small>50.0-75.0</small>" in text
    assert "white noise" in text
