"""What was measured is never lost: old or new after a failure, and nothing in between."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frbench import storage
from frbench.errors import FrbenchError


def _failing(number: int):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left on the device; free some"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f allows no file as large; choose another folder"),
        (errno.EACCES, "permission denied; choose a folder"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
def test_a_failed_write_keeps_the_old_file_and_says_why(
    call: str, number: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cell.json"
    storage.write_json(path, {"old": 1})
    before = path.read_bytes()
    monkeypatch.setattr(os, call, _failing(number))
    with pytest.raises(FrbenchError) as raised:
        storage.write_json(path, {"new": 2})
    message = str(raised.value)
    assert str(path) in message and says in message and "\n" not in message
    assert raised.value.exit_code == 1
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cell.json"]


def test_a_path_through_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for act in (
        lambda path: storage.write_text(path, "text"),
        lambda path: storage.locked(path).__enter__(),
    ):
        with pytest.raises(FrbenchError, match="a part of the path is a file"):
            act(tmp_path / "file" / "below.json")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interrupt_while_writing_leaves_no_scrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write_text(tmp_path / "table.md", "half")
    assert list(tmp_path.iterdir()) == []


def test_the_next_write_removes_what_a_kill_left_and_nothing_that_is_young(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cell[1].json"
    write = (
        "import os, pathlib, sys; from frbench import storage; os.fsync = lambda _: os._exit(9); "
        "storage.write_text(pathlib.Path(sys.argv[1]), 'half')"
    )
    killed = subprocess.run([sys.executable, "-c", write, str(path)], check=False)
    assert killed.returncode == 9
    (left,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".cell[1].json.lock", ".cell1.json.abcdefgh")]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    storage.write_text(path, "whole")
    assert left.exists(), "another process may still be writing it"
    os.utime(left, (0, 0))
    storage.write_text(path, "whole again")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_files_are_synced_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1]
        )
    storage.write_bytes(tmp_path / "a", b"content")
    assert calls == ["fsync", "replace"]


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_lock_is_held_by_one_process_and_dropped_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / ".lock"
    script = (
        "import sys, pathlib; from frbench import storage\n"
        "with storage.locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(storage.Busy, match="another process holds"):
        storage.locked(lock, wait=False).__enter__()
    holder.kill()
    holder.communicate()
    with storage.locked(lock, wait=False):
        pass


def test_parts_of_a_lock_are_held_apart_and_the_whole_is_all_of_them(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"

    def free(part: int | None) -> bool:
        try:
            with storage.locked(lock, part=part, wait=False):
                return True
        except storage.Busy:
            return False

    with storage.locked(lock, part=3):
        assert not free(3) and not free(None)
        assert free(2) and free(4) and free(10**9)
    with storage.locked(lock):
        assert not free(0) and not free(10**9)
    assert free(3) and free(None)


def test_a_lock_is_waited_for_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fcntl, "fcntl", lambda _, how, flock: asked.append(how))
    for wait in (True, False):
        with storage.locked(tmp_path / ".lock", wait=wait):
            pass
    assert asked == [fcntl.F_OFD_SETLKW, fcntl.F_OFD_SETLK]


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", _failing(errno.ENOLCK))
    with pytest.raises(FrbenchError, match=r"cannot lock .*\.lock: No locks available; choose"):
        storage.locked(tmp_path / ".lock").__enter__()


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    one, two = {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}
    assert storage.canonical_digest(one) == storage.canonical_digest(two)
    assert storage.canonical_digest(one) != storage.canonical_digest({"a": 1, "b": [2, 1]})
