"""A newer RobustBench snapshot from its repository, where the network allows one."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from frbench import published, storage
from frbench.errors import FrbenchError
from frbench.published import DATA_FOLDER, RobustBenchEntry, SnapshotInfo

ARCHIVE = "https://codeload.github.com/RobustBench/robustbench/tar.gz/refs/heads/master"
_TIMEOUT = 20.0
_MOST_BYTES = 300_000_000
_MEMBER = re.compile(r"[^/]+/model_info/([^/]+)/([^/]+)/([^/]+)\.json")
_SYNTHETIC = re.compile(r"synthetic|generated|ddpm|edm|diffusion", re.IGNORECASE)
# Fields of an entry by our column; every number there is a string.
_FIELDS = {
    "architecture": "architecture",
    "venue": "venue",
    "paper_title": "name",
    "link": "link",
    "eps": "eps",
    "clean_acc": "clean_acc",
    "autoattack_acc": "autoattack_acc",
    "external_acc": "external",
    "corruptions_acc": "corruptions_acc",
    "reported_acc": "reported",
}


def refresh(folder: Path = DATA_FOLDER, *, address: str = ARCHIVE) -> SnapshotInfo:
    """Replace the snapshot by RobustBench's present state.

    Args:
        folder: of the snapshot.
        address: of the repository's archive (tar.gz).

    Returns:
        What the new snapshot says of itself.

    Raises:
        FrbenchError: no network, or an archive that cannot be it; the old snapshot stays.
    """
    old = published.robustbench(folder)
    content = _fetch(address)
    try:
        entries, commit, date = _read_archive(content)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _kept(f"{address} is not RobustBench's archive ({_line(error)})", old.info) from None
    if len(entries) < len(old.entries) * 0.9:
        raise _kept(f"{address} has only {len(entries)} entries", old.info)
    table = _as_csv(entries)
    info = SnapshotInfo(
        repository=old.info.repository,
        commit=commit,
        date=date,
        entries=len(entries),
        sha256=storage.sha256(table),
        fields=old.info.fields,
    )
    storage.write_bytes(folder / info.file, table)
    storage.write_json(folder / "robustbench.json", info.model_dump(mode="json"))
    for path in folder.glob("robustbench-*.csv"):
        if path.name != info.file:
            path.unlink()
    return info


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read(_MOST_BYTES)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise FrbenchError(
            f"cannot reach {address} ({_line(error)}): the snapshot is unchanged; "
            "try again where the network allows it"
        ) from None
    return content


def _read_archive(content: bytes) -> tuple[list[RobustBenchEntry], str, str]:
    """Entries, commit and date; git writes the commit into the archive's header."""
    entries: list[RobustBenchEntry] = []
    newest = 0.0
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            newest = max(newest, member.mtime)
            match = _MEMBER.fullmatch(member.name)
            file = archive.extractfile(member) if match and member.isfile() else None
            if match and file is not None:
                entries.append(entry_of(match[1], match[2], match[3], json.load(file)))
        commit = archive.pax_headers.get("comment", "unknown")
    entries.sort(key=lambda e: (e.dataset, e.threat_model, -_accuracy(e), e.model_id))
    return entries, commit, datetime.fromtimestamp(newest, UTC).date().isoformat()


def _accuracy(entry: RobustBenchEntry) -> float:
    return next((v for v in (entry.robust_acc, entry.corruptions_acc) if v is not None), 0.0)


def entry_of(dataset: str, threat_model: str, name: str, raw: dict[str, Any]) -> RobustBenchEntry:
    """A model-info file as a row of the snapshot.

    Args:
        name: the file's stem, which is the model's id.
        raw: its content.

    Raises:
        ValueError: a field is missing its number or has the wrong type; the text names it.
    """
    words = {column: " ".join(str(raw.get(key, "")).split()) for column, key in _FIELDS.items()}
    described = f"{name} {raw.get('footnote', '')}"
    try:
        return RobustBenchEntry.model_validate(
            {
                "dataset": dataset,
                "threat_model": threat_model,
                "model_id": name,
                **{column: "" if word == "None" else word for column, word in words.items()},
                "additional_data": raw.get("additional_data", False),
                "mentions_synthetic": bool(_SYNTHETIC.search(described)),
                "unreliable": raw.get("unreliable", False),
            }
        )
    except ValidationError as error:
        raise ValueError(f"entry {dataset}/{threat_model}/{name}: {_line(error)}") from None


def _as_csv(entries: list[RobustBenchEntry]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(RobustBenchEntry.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(entry.model_dump() for entry in entries)
    return file.getvalue().encode()


def _kept(what: str, info: SnapshotInfo) -> FrbenchError:
    return FrbenchError(f"{what}: the snapshot {info.state} is unchanged")


def _line(error: Exception) -> str:
    return str(error).replace("\n", " ") or type(error).__name__
