from __future__ import annotations

import importlib

from frbench.compat import register_autoattack, robustbench_zoo


def test_autoattack_means_pyautoattack():
    register_autoattack()
    autoattack = importlib.import_module("autoattack")
    assert autoattack.AutoAttack is importlib.import_module("pyautoattack").AutoAttack
    assert hasattr(importlib.import_module("autoattack.state"), "EvaluationState")


def test_the_zoo_is_found_by_dataset_and_threat_model():
    zoo = robustbench_zoo("cifar10", "Linf")
    assert "Wong2020Fast" in zoo
    assert set(zoo["Wong2020Fast"]) >= {"model", "gdrive_id"}
    assert "Wong2020Fast" not in robustbench_zoo("cifar10", "L2")
    assert robustbench_zoo("cifar10", "L7") == {}
