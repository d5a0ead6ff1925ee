"""Names, the cache and the other sets: what is refused, what is kept, what needs no network."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from frbench import storage
from frbench.cli import data as commands
from frbench.data import (
    DATASETS,
    Dataset,
    cache_path,
    cache_root,
    datasets,
    fetch_dataset,
    load_dataset,
    others,
    verify_dataset,
)
from frbench.data.sources import Arrays, UnavailableError
from frbench.errors import FrbenchError, InputError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FRBENCH_DATA", raising=False)
    return tmp_path / "cache"


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    dataset = load_dataset("digits")
    assert dataset.train.images.shape == (1437, 1, 8, 8) and len(dataset.test) == 360
    assert dataset.train.images.dtype == torch.uint8 and dataset.train.labels.dtype == torch.int64
    values, labels = load_digits(return_X_y=True)
    expected = {(tuple(np.rint(v * 255 / 16)), int(y)) for v, y in zip(values, labels, strict=True)}
    got = [
        (tuple(image.flatten().tolist()), int(label))
        for split in (dataset.train, dataset.test)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert set(got) == expected and len(got) == len(labels)
    counts = torch.bincount(dataset.test.labels)
    assert counts.tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]


def test_the_registry_says_what_a_set_is() -> None:
    assert list(DATASETS) == ["cifar10", "cifar100", "svhn", "digits"]
    assert {n for n, spec in DATASETS.items() if spec.flip} == {"cifar10", "cifar100"}
    assert all("\n" not in spec.summary for spec in DATASETS.values())


@pytest.mark.parametrize("use", [load_dataset, fetch_dataset, verify_dataset])
def test_an_unknown_name_is_answered_with_the_nearest(use: Any) -> None:
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        use("cifar-10")


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRBENCH_CACHE", "~/elsewhere")
    assert cache_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("FRBENCH_CACHE")
    assert cache_root() == Path.home() / ".cache/frbench"


def test_a_path_that_looks_like_markup_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRBENCH_CACHE", str(tmp_path / ":cat: [red]"))
    fetch_dataset("digits")
    captured = capsys.readouterr()
    assert str(cache_path("digits")) in captured.err and ":cat: [red]" in captured.err
    assert captured.out == ""


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped bit":
        content[-40_000] ^= 4
    elif how == "another set":
        content = bytearray(bytes(content).replace(b'"name":"digits"', b'"name":"digitz"'))
    else:
        content = content[: {"truncated": -1, "header only": 100, "empty": 0}[how]]
    path.write_bytes(content)


DAMAGES = ["flipped bit", "another set", "truncated", "header only", "empty"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cache_is_kept_aside_and_fetched_again(
    how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = load_dataset("digits")
    path = cache_path("digits")
    damage(path, how)
    wrong = path.read_bytes()
    again = load_dataset("digits")
    assert torch.equal(again.train.images, good.train.images)
    assert path.with_name("digits.safetensors.rejected").read_bytes() == wrong
    line = capsys.readouterr().err.splitlines()[-2]
    assert line.startswith(f"{path} is damaged (") and line.endswith("fetching it again")
    assert verify_dataset("digits").train.sha256 == good.train.sha256


@pytest.mark.parametrize("how", DAMAGES)
def test_verify_refuses_a_damaged_cache(how: str) -> None:
    load_dataset("digits")
    damage(cache_path("digits"), how)
    with pytest.raises(FrbenchError, match=r"is damaged .* data fetch digits") as caught:
        verify_dataset("digits")
    assert "\n" not in str(caught.value)
    assert not cache_path("digits").exists()


def test_verify_without_a_copy_is_wrong_input() -> None:
    with pytest.raises(InputError, match="frbench data fetch cifar10"):
        verify_dataset("cifar10")


def test_a_full_disk_is_one_line_and_leaves_no_half_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FrbenchError, match="no space left on the device") as caught:
        load_dataset("digits")
    assert "\n" not in str(caught.value)
    assert [p.name for p in (cache_root() / "datasets").iterdir()] == ["digits.lock"]


def test_a_cache_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FRBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(FrbenchError, match=r"cannot (read|write) .*file"):
        load_dataset("digits")


def test_a_cache_file_that_cannot_be_opened_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    load_dataset("digits")
    content = cache_path("digits").read_bytes()

    def denied(path: Path, *_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", denied)  # root would be allowed
        with pytest.raises(FrbenchError, match=r"cannot read .*digits.safetensors: Permission"):
            load_dataset("digits")
    assert cache_path("digits").read_bytes() == content  # nothing was thrown away


def test_two_processes_fetch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = datasets._from_sources

    def counted(*arguments: Any) -> Dataset:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(datasets, "_from_sources", counted)
    threads = [threading.Thread(target=fetch_dataset, args=("digits",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_what_a_killed_fetch_left_is_cleared(empty_cache: Path) -> None:
    left = empty_cache / "downloads" / "digits" / "half.tgz"
    storage.write_bytes(left, b"half")
    load_dataset("digits")
    assert not left.exists()


# CIFAR-100 and SVHN: torchvision's classes are replaced, their files are not to be had offline.


@pytest.mark.parametrize(
    ("name", "first"), [("cifar100", "cifar-100-python/train"), ("svhn", "train_32x32.mat")]
)
def test_a_file_with_a_wrong_md5_is_named_and_never_opened(
    name: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DATASETS[name].sources[0]
    with pytest.raises(UnavailableError, match=f"{first} is missing"):
        source.read(tmp_path)
    storage.write_bytes(tmp_path / first, b"cos\nsystem\n(S'touch trace'\ntR.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match=rf"{first} is not the official file \(wrong MD5"):
        source.read(tmp_path)
    assert not (tmp_path / "trace").exists()


def test_official_files_pass_the_check(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    others._require_official(tmp_path, [["a", hashlib.md5(b"content").hexdigest()]])
    assert (tmp_path / "a").read_bytes() == b"content"


class FakeSvhn:
    split_list: ClassVar = {"train": ["", "a", ""], "test": ["", "b", ""]}

    def __init__(self, root: str, split: str, download: bool) -> None:
        n = 40 if split == "train" else 20
        self.data = np.full((n, 3, 32, 32), n, np.uint8)
        self.labels = np.arange(n) % 10


def test_svhn_is_cached_behind_the_same_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.SVHN", FakeSvhn)
    with pytest.raises(FrbenchError, match=r"its images are torch.uint8 \(40, 3, 32, 32\)"):
        load_dataset("svhn")  # not the 73,257 of the specification
    small = datasets.DatasetSpec(**{**vars(DATASETS["svhn"]), "sizes": (40, 20)})
    monkeypatch.setitem(DATASETS, "svhn", small)
    dataset = load_dataset("svhn")
    assert dataset.source == "torchvision" and dataset.test.images.unique().tolist() == [20]
    assert verify_dataset("svhn").train.sha256 == dataset.train.sha256


class FakeCifar100:
    classes: ClassVar = [f"class {i}" for i in range(100)]

    def __init__(self, root: str, train: bool, download: bool = False) -> None:
        n = 400 if train else 100
        self.data = np.arange(n * 3072).astype(np.uint8).reshape(n, 32, 32, 3)
        self.targets = [i % 100 for i in range(n)]


def test_cifar100_comes_channels_first_with_its_class_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR100", FakeCifar100)
    small = datasets.DatasetSpec(**{**vars(DATASETS["cifar100"]), "sizes": (400, 100)})
    monkeypatch.setitem(DATASETS, "cifar100", small)
    load_dataset("cifar100")
    dataset = load_dataset("cifar100")  # from the cache
    assert dataset.classes[99] == "class 99"
    assert dataset.train.images[0, :, 0, 1].tolist() == [3, 4, 5]


@pytest.mark.parametrize("wrong", ["labels", "classes", "digest"])
def test_a_source_with_other_content_is_refused(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(folder: Path) -> Arrays:
        images = np.zeros((1437, 1, 8, 8), np.uint8)
        labels = np.full(1437, 10 if wrong == "labels" else 0)
        names = ("zero",) if wrong == "classes" else others.DIGITS
        return Arrays(images, labels, images[:360], labels[:360], names)

    source = datasets.Source("mirror", other)
    changed = datasets.DatasetSpec(**{**vars(DATASETS["digits"]), "sources": (source,)})
    monkeypatch.setitem(DATASETS, "digits", changed)
    words = {"labels": "its labels", "classes": "1 classes", "digest": "its SHA-256"}[wrong]
    with pytest.raises(FrbenchError, match=rf"mirror: .*{words}"):
        load_dataset("digits")
    assert not cache_path("digits").exists()


def test_commands_show_what_was_verified(capsys: pytest.CaptureFixture[str]) -> None:
    commands.fetch("digits")
    commands.verify("digits")
    output = capsys.readouterr().out
    assert output.count("verified: every byte matches") == 2
    assert "1,437 images 1x8x8" in output and load_dataset("digits").test.sha256 in output
