"""The adapter that docs/own-models.md shows works as it stands there."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from frbench import discovery
from frbench.cli.listing import list_names
from frbench.discovery import BrokenModule
from frbench.errors import InputError
from frbench.evaluation import ModelRecord, outside, resolve_target
from frbench.evaluation.outside import load_outside, outside_targets

DOCUMENT = Path(__file__).parents[2] / "docs/own-models.md"
Write = Callable[..., ModuleType]


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`adapter(old, new)`: the document's adapter with a piece of its text replaced, in use."""
    (text,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    def write(old: str = "", new: str = "") -> ModuleType:
        assert old in text
        path = tmp_path / "mynet.py"
        path.write_text(text.replace(old, new, 1))
        spec = importlib.util.spec_from_file_location("baselines.mynet", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "baselines.mynet", module)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of the former text, this second
        spec.loader.exec_module(module)
        monkeypatch.setattr(outside, "discover", lambda package: ({"mynet": module}, ()))
        return module

    return write


@pytest.fixture
def weights(adapter: Write, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save(adapter().MyNet().state_dict(), path)
    return path


def record(weights: Path) -> ModelRecord:
    return load_outside(f"mynet:{weights}").record


def test_the_documents_adapter_is_a_target(adapter: Write, weights: Path) -> None:
    adapter()
    target = resolve_target(f"mynet:{weights}")
    assert (target.record.name, target.record.extra_data) == ("mynet:model", "none")
    images = torch.rand(4, 3, 32, 32)
    network = adapter().MyNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    assert torch.equal(target.model(images), network.eval()(images))
    assert "clean on 128 training images" in target.record.note
    for option in ({"architecture": "resnet18"}, {"normalization": "none"}):
        with pytest.raises(InputError, match="'mynet' brings its own"):
            resolve_target(f"mynet:{weights}", **option)


def test_targets_are_told_as_the_adapters_texts_begin(
    adapter: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = (BrokenModule(Path("baselines/odd.py"), 3, "syntax error"),)
    bare = ModuleType("bare")
    monkeypatch.setattr(bare, "SCHEME", "bare", raising=False)
    found = {"mynet": adapter(), "bare": bare}
    for module in (outside, discovery):
        monkeypatch.setattr(module, "discover", lambda package: (found, broken))
    assert outside_targets() == {"mynet:PATH": "our network for CIFAR-10", "bare:...": ""}
    list_names("targets")
    said = capsys.readouterr()
    assert re.search(r"RUN@VIEW .*swa-best[\s\S]*mynet:PATH +our network for CIFAR-10\s", said.out)
    assert "baselines/odd.py:3: syntax error" in said.err


def test_a_network_with_other_code_is_another_model(adapter: Write, weights: Path) -> None:
    """Finished cells of the former code must not pass for the new one's."""
    adapter()
    known = record(weights).digest
    assert re.fullmatch("[0-9a-f]{64}", known)
    adapter("it normalizes them itself", "it knows how")
    assert record(weights).digest == known
    adapter("- 0.5", "- 0.4")
    assert record(weights).digest != known


def test_code_of_a_library_leaves_the_digest_alone(adapter: Write, weights: Path) -> None:
    layers = "nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())"
    adapter("MyNet().eval()", f"{layers}.eval()")
    torch.save(nn.Sequential(nn.Conv2d(3, 16, 3)).state_dict(), weights)
    with pytest.raises(InputError, match="16 outputs, the data have 10"):
        record(weights)
    adapter("MyNet().eval()", f"{layers.replace('16', '10')}.eval()")
    torch.save(nn.Sequential(nn.Conv2d(3, 10, 3)).state_dict(), weights)
    known = record(weights).digest
    adapter("MyNet().eval()", f"{layers.replace('16', '10')}.train().eval()")
    assert record(weights).digest == known


def test_what_an_adapter_raises_is_one_line_with_its_place(adapter: Write, weights: Path) -> None:
    adapter("MyNet().eval()", "MyNet().evil()")
    said = r"'mynet:\S*' cannot be used: \S*mynet\.py:29: AttributeError: .*evil"
    with pytest.raises(InputError, match=said):
        record(weights)
    adapter("nn.Linear(16, 10)", "nn.Linear(16, 20)")
    with pytest.raises(InputError, match=r"mynet\.py:30: RuntimeError: .*size mismatch for head"):
        record(weights)
    adapter()
    with pytest.raises(InputError, match=r"target 'mynet:\S*': there is no file \S*other\.pt"):
        record(weights.with_name("other.pt"))
