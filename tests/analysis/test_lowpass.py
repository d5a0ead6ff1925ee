"""Table 1: which images are filtered when, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from frbench.analysis.filters import Filtered, FrequencyFilter
from frbench.analysis.forward import craft
from frbench.analysis.inputs import ImageSet
from frbench.analysis.lowpass import FilterStudy, filter_study
from frbench.analysis.output import check_writable
from frbench.attacks import specs
from frbench.errors import InputError
from frbench.evaluation.target import Target


@pytest.fixture(scope="module")
def study(targets: list[Target], digits: ImageSet) -> FilterStudy:
    return filter_study(targets, digits, bandwidths=(8, 6, 4), batch=100)


def right(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> str:
    return "".join(str(int(r)) for r in (model(images).argmax(1) == labels))


def test_the_whole_band_gives_the_unfiltered_accuracies(
    study: FilterStudy, targets: list[Target], digits: ImageSet
) -> None:
    for target in targets:
        x_adv = craft(target, digits, specs()["pgd20"], batch=100)
        for attack, images in (("clean", digits.images), ("pgd20", x_adv)):
            entry = study.find(target.record.name, attack, 8)
            assert entry is not None
            assert entry.verdicts == right(target.model, images, digits.labels)


def test_attacked_images_are_made_without_the_filter_and_filtered_afterwards(
    study: FilterStudy, targets: list[Target], digits: ImageSet
) -> None:
    x_adv = craft(targets[0], digits, specs()["pgd20"], batch=100)
    entry = study.find("one", "pgd20", 4)
    assert entry is not None
    expected = right(targets[0].model, FrequencyFilter(4)(x_adv), digits.labels)
    assert entry.verdicts == expected


def test_an_adaptive_attack_goes_through_each_filter_and_is_stronger(
    study: FilterStudy, targets: list[Target], digits: ImageSet
) -> None:
    adaptive = filter_study(targets[:1], digits, bandwidths=(4, 8), adaptive=True, batch=100)
    found, plain = adaptive.find("one", "pgd20", 4), study.find("one", "pgd20", 4)
    assert found is not None and plain is not None
    filtered = Filtered(targets[0].model, FrequencyFilter(4))
    x_adv = craft(targets[0], digits, specs()["pgd20"], model=filtered, batch=100)
    assert (x_adv - digits.images).abs().max() <= 8 / 255 + 1e-6
    assert found.verdicts == right(filtered, x_adv, digits.labels)
    assert found.accuracy.value < plain.accuracy.value


def test_the_same_seed_gives_the_same_study_and_leaves_the_random_state(
    study: FilterStudy, targets: list[Target], digits: ImageSet
) -> None:
    before = torch.random.get_rng_state()
    again = filter_study(targets, digits, bandwidths=(4, 6, 8), batch=100)
    assert again.to_json() == study.to_json()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.requires_grad for p in targets[0].model.parameters())


def test_files_carry_the_same_numbers(study: FilterStudy, tmp_path: Path) -> None:
    study.save(tmp_path / "analysis")
    folder = tmp_path / "analysis"
    assert {p.name for p in folder.iterdir()} == {
        f"lowpass.{s}" for s in ("json", "csv", "svg", "png")
    }
    content = json.loads((folder / "lowpass.json").read_text())
    frame = pd.read_csv(folder / "lowpass.csv")
    assert len(frame) == len(content["entries"]) == 2 * 2 * 3
    for row, entry in zip(frame.to_dict("records"), content["entries"], strict=True):
        assert (row["model"], row["attack"]) == (entry["model"], entry["attack"])
        assert row["accuracy"] == pytest.approx(entry["accuracy"]["value"])
        assert row["low"] < row["accuracy"] <= row["high"] or row["accuracy"] == 0
        assert entry["verdicts"].count("1") == row["correct"]
    assert content["entries"][0]["filter"]["clamp"] is False
    assert (folder / "lowpass.png").read_bytes()[:4] == b"\x89PNG"
    first = (folder / "lowpass.svg").read_bytes()
    study.save(folder)
    assert (folder / "lowpass.svg").read_bytes() == first


@pytest.mark.parametrize("kind", ["highpass", "bandpass"])
def test_other_filters_are_tables_too(
    kind: str, targets: list[Target], digits: ImageSet, tmp_path: Path
) -> None:
    study = filter_study(
        targets[:1],
        digits,
        bandwidths=(6, 4),
        kind=kind,
        attacked=False,  # type: ignore[arg-type]
    )
    assert study.attacks() == ["clean"] and len(study.entries) == 2
    assert study.table().row_count == 1
    study.save(tmp_path)
    assert (tmp_path / f"{kind}.csv").exists()


def test_wrong_input_is_one_clear_line(
    targets: list[Target], digits: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="16 is larger than the image"):
        filter_study(targets, digits, bandwidths=(16,))
    with pytest.raises(InputError, match="given twice"):
        filter_study([targets[0], targets[0]], digits, bandwidths=(4,))
    with pytest.raises(InputError, match="no target"):
        filter_study([], digits)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write results to .*file/x: .*not a folder"):
        check_writable(tmp_path / "file" / "x")


def test_images_out_of_range_are_refused() -> None:
    labels = torch.zeros(2, dtype=torch.long)
    for value in (1.5, -0.1, float("nan")):
        with pytest.raises(InputError, match="out of range"):
            ImageSet(torch.full((2, 3, 8, 8), value), labels)
    with pytest.raises(InputError, match="must be floats"):
        ImageSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), labels)
    with pytest.raises(InputError, match="one label an image"):
        ImageSet(torch.zeros(3, 3, 8, 8), labels)


def test_targets_of_several_datasets_are_refused(targets: list[Target], digits: ImageSet) -> None:
    other = targets[1].record.model_copy(update={"dataset": "cifar10"})
    with pytest.raises(InputError, match="several data sets"):
        filter_study([targets[0], Target(targets[1].model, other)], digits, bandwidths=(4,))
