"""What a stage leaves behind so that a run can be explained and reused: hashes, atomic JSON, fingerprints,
records."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

RECORD = "record.json"


def sha256_of_file(path: str | Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_folder(folder: str | Path) -> str:
    """Hex digest over the names and contents of a folder's files, whatever their dates and order on disk."""
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return fingerprint({path.relative_to(root).as_posix(): sha256_of_file(path) for path in files})


def fingerprint(value: Any) -> str:
    """Hex digest of a JSON-like value; key order does not matter, everything else does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the whole new one, never a part, even after power
    loss."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically: a temporary neighbour, synced to disk, then renamed over the name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Makes renames inside a folder survive power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: str | Path) -> Any:
    """The JSON value in a file; the error of a broken file names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file that this library wrote."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, UTF-8, written atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """A stage's record, or None when the stage has not finished."""
    path = Path(folder) / RECORD
    return read_json(path) if path.is_file() else None


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two JSON-like values differ, sorted."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(set(old) | set(new), key=str)
        missing = object()
        return [
            name
            for key in names
            for name in changed_keys(old.get(key, missing), new.get(key, missing), f"{prefix}{key}.")
        ]
    return [] if old == new and type(old) is type(new) else [prefix.rstrip(".")]


def check_counts(manifest: Mapping[str, Any], where: str) -> None:
    """Raises when rows went missing without a reason: rows in = rows kept + rows dropped must hold."""
    dropped = sum(manifest["rows_dropped"].values())
    if manifest["rows_in"] != manifest["rows_kept"] + dropped:
        raise AssertionError(
            f"{where}: rows were lost: {manifest['rows_in']} in, "
            f"{manifest['rows_kept']} kept, {dropped} dropped"
        )


def append_jsonl(path: str | Path, row: Mapping[str, Any]) -> None:
    """Adds one line to a JSON Lines file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
