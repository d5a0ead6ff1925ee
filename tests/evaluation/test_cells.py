"""Cell files: what was edited or damaged is told as such, what was committed still opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frbench.attacks import specs
from frbench.errors import InputError
from frbench.evaluation import Cell, CellStore, ModelRecord, provenance, read_cell
from frbench.provenance import hardware_name

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stored(
    store: CellStore, make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> Path:
    """The file of one cell."""
    return store.save(make_cell(model_record("at_fr"), "pgd20", "1010"))


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["model"].pop("digest"), "model.digest: Field required"),
        (lambda c: c.update(batch=0), "batch: Input should be greater than or equal to 1"),
        (lambda c: c.update(schema_version=2), "has format 2, this frbench reads 1"),
        (lambda c: c["verdicts"].update({"pgd20": "1"}), "verdicts do not match its range"),
        (lambda c: c["attack"].update(eps=0.1), "not the one in its name"),
        (lambda c: c["model"].update(digest="0" * 64), "not the one in its name"),
    ],
)
def test_a_damaged_or_edited_cell_names_the_place(stored: Path, change: Any, says: str) -> None:
    _edit(stored, change)
    with pytest.raises(InputError) as caught:
        read_cell(stored)
    assert says in str(caught.value) and str(stored) in str(caught.value)
    assert str(caught.value).endswith("; move it away to compute it again")


def test_a_foreign_file_hides_no_other_cell(
    store: CellStore, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = stored.with_name("notes.json")
    foreign.write_text('{"mine": 1}')
    assert [cell.model.name for cell in store.all()] == ["at_fr"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"frbench: left out: damaged cell {foreign}: model: Field required")


def test_a_cell_that_went_on_elsewhere_names_every_device_once(
    make_cell: Callable[..., Cell], model_record: Callable[..., ModelRecord]
) -> None:
    cell = make_cell(model_record("at_fr"), "pgd20", "10", provenance={"device": "a GPU"})
    for _ in range(2):
        provenance.record(cell, torch.device("cpu"))
    assert cell.provenance["device"] == f"a GPU; {hardware_name(torch.device('cpu'))}"


def test_every_committed_cell_opens_under_its_key() -> None:
    paths = [p for p in (ROOT / "results").glob("*/cells/*/*.json") if "local" not in p.parts]
    assert paths
    for path in paths:
        read_cell(path)


def test_the_code_of_a_model_from_a_library_is_in_its_key(
    model_record: Callable[..., ModelRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decides(target: str, network: str = "resnet18", source: str = "outside") -> set[str]:
        """Libraries whose next version makes another cell of it."""
        record = model_record("m", target=target, architecture=network, source=source)
        found = set()
        for library in ("robustbench", "timm", "numpy"):
            now = provenance.deciding_versions(specs()["clean"], record)
            with monkeypatch.context() as patch:
                own = provenance.library_version
                patch.setattr(
                    provenance,
                    "library_version",
                    lambda name, own=own, library=library: "next" if name == library else own(name),
                )
                if provenance.deciding_versions(specs()["clean"], record) != now:
                    found.add(library)
        return found

    assert decides("robustbench:cifar100/Linf/Wong2020Fast") == {"robustbench", "timm"}
    for target in ("timm:resnet18", "timm:hf-hub:someone/net", "file:m.pt"):
        assert decides(target, "timm:resnet18") == {"timm"}
    assert decides("quick-pgd_at-s0-1f", "timm:resnet18", source="run") == {"timm"}
    assert decides("natural") == decides("file:m.pt") == set()
    assert decides("robustbench:x@last", source="run") == set()


def test_no_committed_cell_is_decided_by_other_libraries_than_it_says() -> None:
    for path in (ROOT / "results").glob("*/cells/*/*.json"):
        cell = read_cell(path)
        kinds = [n.rpartition(" ")[2] for n in cell.versions if n.startswith("fast search in ")]
        kind = getattr(torch, kinds[0]) if kinds else None
        deciding = provenance.deciding_versions(cell.attack, cell.model, kind)
        older = {"fast search"} & set(cell.versions)  # which did not name its arithmetic yet
        assert set(deciding) | older == set(cell.versions), path
