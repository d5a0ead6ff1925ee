from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from frbench import published, storage
from frbench.errors import FrbenchError
from frbench.leaderboard.refresh import refresh

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.DATA_FOLDER, tmp_path / "data"))


def archive(path: Path, entries: tuple[published.RobustBenchEntry, ...]) -> str:
    """A repository archive as git makes it, holding these entries and a file beside them."""
    headers = {"comment": COMMIT}
    with tarfile.open(path, "w:gz", pax_headers=headers, format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            raw = {
                "name": entry.paper_title,
                "architecture": entry.architecture,
                "venue": entry.venue,
                "link": entry.link,
                "eps": entry.eps or None,
                "clean_acc": str(entry.clean_acc),
                "additional_data": entry.additional_data,
                "unreliable": entry.unreliable,
                "footnote": "20M synthetic images" if entry.mentions_synthetic else "",
                **({"autoattack_acc": f"{entry.autoattack_acc}"} if entry.autoattack_acc else {}),
                **({"external": f"{entry.external_acc}"} if entry.external_acc else {}),
                **(
                    {"corruptions_acc": f"{entry.corruptions_acc}"} if entry.corruptions_acc else {}
                ),
                **({"reported": f"{entry.reported_acc}"} if entry.reported_acc else {}),
            }
            name = f"rb/model_info/{entry.dataset}/{entry.threat_model}/{entry.model_id}.json"
            content = json.dumps(raw).encode()
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_750_000_000
            tar.addfile(member, io.BytesIO(content))
        tar.addfile(tarfile.TarInfo("rb/README.md"))
    return path.as_uri()


def test_a_newer_state_replaces_the_snapshot(folder: Path, tmp_path: Path) -> None:
    old = published.robustbench(folder)
    added = old.entries[0].model_copy(update={"model_id": "New2027Model"})
    address = archive(tmp_path / "rb.tar.gz", (*old.entries, added))
    info = refresh(folder, address=address)
    assert (info.commit, info.date, info.entries) == (COMMIT, "2025-06-15", 237)
    new = {e.model_id: e for e in published.robustbench(folder).entries}
    assert new["New2027Model"].autoattack_acc == old.entries[0].autoattack_acc
    wang = new["Wang2023Better_WRN-28-10"]
    assert wang.mentions_synthetic


def test_a_refresh_that_is_killed_half_way_leaves_a_readable_snapshot(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the entries are written and before their description is, and then it is repeated."""
    old = published.robustbench(folder)
    added = old.entries[0].model_copy(update={"model_id": "New2027Model"})
    address = archive(tmp_path / "rb.tar.gz", (*old.entries, added))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            refresh(folder, address=address)
    assert published.robustbench(folder) == old
    info = refresh(folder, address=address)
    assert published.robustbench(folder).info == info
    assert [path.name for path in folder.glob("*.csv")] == [info.file]


def killed(path: Path, content: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["unreachable", "garbage", "too few"])
def test_a_failed_refresh_leaves_the_snapshot_untouched(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    path = tmp_path / "rb.tar.gz"
    address = path.as_uri()
    if kind == "garbage":
        path.write_bytes(b"<html>sign in</html>")
    if kind == "too few":
        archive(path, published.robustbench(folder).entries[:10])
    with pytest.raises(FrbenchError, match="unchanged") as caught:
        refresh(folder, address=address)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
