from __future__ import annotations

import base64
import hashlib
import importlib

from frbench.compat import register_autoattack, robustbench_zoo, shadowed_robustbench_files


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


def test_files_that_another_package_has_overwritten_are_found(tmp_path, monkeypatch):
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"own").digest()).rstrip(b"=").decode()
    names = ("robustbench/kept.py", "robustbench/overwritten.py", "robustbench/gone.py")
    for name, content in zip(names, (b"own", b"other"), strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    record = "".join(f"{name},sha256={digest},3\n" for name in names)

    class Installed:
        def locate_file(self, name):
            return tmp_path / name

        def read_text(self, name):
            return record

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed())
    assert shadowed_robustbench_files() == names[1:]
