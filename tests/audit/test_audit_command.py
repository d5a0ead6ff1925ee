"""One audit as a whole: its file, its output, its errors, and what it leaves alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from frbench.audit import read_audits, save_report
from frbench.audit.checks import behaviour, blackbox, gradients, sweeps
from frbench.audit.run import audit
from frbench.audit.sources import default_sources, named_sources
from frbench.cli.audit import audit as command
from frbench.data import Dataset
from frbench.errors import FrbenchError, InputError
from frbench.evaluation import Target, resolve_target
from frbench.models import WeightsMeta, save_weights

QUICK = (behaviour.determinism, gradients.zero_gradients)


@pytest.fixture
def target(tiny: nn.Module, make_target: Callable[..., Target]) -> Target:
    return make_target(tiny, "tiny", "digits")


def run_folder(root: Path, name: str, model: nn.Module, dataset: str = "digits") -> Path:
    """A finished run of the smoke preset, as far as a target needs it."""
    settings = {
        "defense": "pgd_at",
        "preset": "smoke",
        "protocol": "common",
        "seed": 0,
        "recipe": {"mechanisms": {}},
        "frame": {"dataset": dataset},
    }
    meta = WeightsMeta("tiny", 10, dataset, channels=_channels(model), extra={"epoch": 3})
    save_weights(root / name / "best.safetensors", model.state_dict(), meta)
    info = {"settings": settings, "cost": {}, "finished": True}
    (root / name / "run.json").write_text(json.dumps(info))
    return root / name


def _channels(model: nn.Module) -> int:
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def test_same_seed_same_findings_and_the_callers_random_state_is_kept(
    target: Target, digits: Dataset
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawing = (behaviour.determinism, sweeps.restarts, blackbox.square)
    first, second = (audit(target, digits.test, n=12, seed=3, checks=drawing) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert first.findings == second.findings
    assert all(not parameter.requires_grad for parameter in target.model.parameters())


def test_tables_read_the_file_that_an_audit_writes(
    target: Target, digits: Dataset, tmp_path: Path
) -> None:
    report = audit(target, digits.test, n=16, checks=QUICK)
    path = save_report(report, tmp_path)
    assert path == tmp_path / "audits" / f"tiny-{report.digest[:8]}.json"
    content = json.loads(path.read_text())
    assert {"target", "digest", "verdict", "reasons", "findings", "n", "seed"} <= content.keys()
    assert content["provenance"]["torch"] == torch.__version__
    assert read_audits(tmp_path)[report.digest, "Linf 8/255"].verdict == "trusted"
    small = report.model_copy(update={"eps": 1 / 255, "verdict": "broken"})
    assert save_report(small, tmp_path) != path
    verdicts = {ball: found.verdict for (_, ball), found in read_audits(tmp_path).items()}
    assert verdicts == {"Linf 8/255": "trusted", "Linf 1/255": "broken"}


def test_the_command_prints_json_alone_and_uses_the_other_runs_as_sources(
    tiny: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "runs", "smoke-pgd_at-s0-aaaa", tiny)
    other = _changed(tiny)
    run_folder(tmp_path / "runs", "smoke-pgd_at-s1-bbbb", other)
    options = {"runs_dir": tmp_path / "runs", "results_dir": tmp_path, "device": "cpu", "n": 16}
    command("smoke-pgd_at-s0-aaaa", form="json", **options)  # type: ignore[arg-type]
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert len(report["findings"]) == 12 and len(report["sources"]) == 1
    assert "determinism: trusted" in printed.err and "wrote " in printed.err
    (path,) = (tmp_path / "audits").glob("*.json")
    assert json.loads(path.read_text()) == report


def test_the_command_prints_its_table_as_text_and_before_it_can_fail_to_save(
    tiny: nn.Module,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_folder(tmp_path / "runs", "smoke-pgd_at-s0-aaaa", tiny)
    options = {"runs_dir": tmp_path / "runs", "results_dir": tmp_path, "device": "cpu", "n": 16}

    def full(*_: object) -> None:
        raise FrbenchError("no space left")

    monkeypatch.setattr("frbench.audit.save_report", full)
    with pytest.raises(FrbenchError, match="no space left"):
        command("smoke-pgd_at-s0-aaaa", **options)  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert "determinism" in printed and "trusted" in printed and "[green]" not in printed


def _changed(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    return other


def test_unreadable_and_unfinished_runs_are_no_sources(
    tiny: nn.Module, target: Target, tmp_path: Path
) -> None:
    damaged = run_folder(tmp_path, "damaged", tiny) / "best.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (run_folder(tmp_path, "empty", tiny) / "best.safetensors").unlink()
    cpu = torch.device("cpu")
    assert default_sources(target, device=cpu, runs_dir=tmp_path) == []


def test_a_source_of_other_data_is_refused(tiny: nn.Module, target: Target, tmp_path: Path) -> None:
    run_folder(tmp_path, "other", _changed(tiny), dataset="svhn")
    with pytest.raises(InputError, match="knows svhn, the audited model digits"):
        named_sources(["other"], target, device=torch.device("cpu"), runs_dir=tmp_path)


def test_the_audited_model_is_no_source_of_itself(tiny: nn.Module, tmp_path: Path) -> None:
    run = run_folder(tmp_path, "own", tiny)
    target, cpu = resolve_target(str(run)), torch.device("cpu")
    with pytest.raises(InputError, match="is the audited model itself"):
        named_sources([str(run)], target, device=cpu, runs_dir=tmp_path)
    assert default_sources(target, device=cpu, runs_dir=tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n 0 is not possible"),
        ({"n": 10**6}, "choose from 1 to"),
        ({"n": 4, "eps": -1.0}, "eps -1 is not in"),
    ],
)
def test_wrong_input_is_one_clear_line(
    options: dict[str, float], message: str, target: Target, digits: Dataset
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        audit(target, digits.test, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_model_that_is_never_right_has_nothing_to_audit(
    digits: Dataset, make_target: Callable[..., Target]
) -> None:
    class Wrong(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 10), 0.0).index_fill(1, torch.tensor([9]), 1.0)

    others = digits.test.labels != 9
    split = type(digits.test)(digits.test.images[others], digits.test.labels[others], "")
    with pytest.raises(InputError, match="classifies none of 8 images correctly"):
        audit(make_target(Wrong(), "wrong", "digits"), split, n=8)
