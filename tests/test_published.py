from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from frbench import published
from frbench.errors import InputError

TABLE_2 = {
    "pgd_at": (84.62, 60.17, 55.01, 53.32, 51.42),
    "trades": (84.65, 61.32, 56.33, 54.20, 53.08),
    "mart": (84.17, 61.61, 58.56, 54.58, 51.10),
    "awp": (85.57, 62.90, 58.14, 55.96, 54.04),
    "at_swa": (86.17, 61.20, 55.18, 54.57, 52.25),
    "at_fr": (80.59, 61.47, 59.49, 54.33, 52.06),
    "at_fr_swa": (81.09, 62.49, 60.12, 56.14, 54.35),
}


def test_table_2_has_the_papers_numbers() -> None:
    rows = published.paper_table2().rows
    assert {r.defense: (r.clean, r.fgsm, r.pgd20, r.cw, r.aa) for r in rows} == TABLE_2


def test_table_2_says_whose_models_the_rows_are() -> None:
    others = {r.defense for r in published.paper_table2().rows if r.trained_by == "others"}
    assert others == {"trades", "mart", "awp"}


def test_table_1_has_the_papers_numbers() -> None:
    table = published.paper_table1()
    assert table.bandwidths == (32, 28, 24, 20, 16)
    assert {(r.model, r.inputs): r.accuracies for r in table.rows} == {
        ("natural", "clean"): (94.56, 92.92, 90.75, 80.7, 50.72),
        ("natural", "pgd20"): (0.0, 2.17, 23.15, 39.25, 32.15),
        ("robust", "clean"): (80.55, 80.50, 80.17, 79.27, 77.4),
        ("robust", "pgd20"): (51.81, 52.10, 52.22, 52.54, 52.52),
    }


def test_the_snapshot_is_the_dated_one() -> None:
    snapshot = published.robustbench()
    assert snapshot.info.state == "78fcc9e of 2025-03-31"
    assert len(snapshot.entries) == 236
    linf = [e for e in snapshot.entries if (e.dataset, e.threat_model) == ("cifar10", "Linf")]
    assert len([e for e in linf if e.eps == "8/255"]) == 93
    assert len([e for e in linf if e.eps == "0.031"]) == 6
    assert len([e for e in linf if e.external_acc is not None]) == 17


def test_an_external_evaluation_overrides_autoattack() -> None:
    entries = {(e.threat_model, e.model_id): e for e in published.robustbench().entries}
    kang = entries["Linf", "Kang2021Stable"]
    assert (kang.autoattack_acc, kang.robust_acc) == (71.28, 64.20)
    assert entries["Linf", "Wang2023Better_WRN-28-10"].data_class == "synthetic"
    assert entries["Linf", "Rade2021Helper_extra"].data_class == "extra"
    assert entries["Linf", "Rice2020Overfitting"].data_class == "none"


def test_a_changed_snapshot_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(published.DATA_FOLDER, tmp_path / "data")
    (folder / published.robustbench().info.file).write_text("dataset\n")
    with pytest.raises(InputError, match=r"damaged data file .*robustbench-\w+\.csv.*restore"):
        published.robustbench(folder)
    (folder / "paper_table2.json").write_text("{")
    with pytest.raises(InputError, match=r"paper_table2\.json"):
        published.paper_table2(folder)
