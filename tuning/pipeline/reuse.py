"""A stage's work is done once: reused if its inputs are the same, resumed if unfinished, else kept aside."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuning.pipeline.execution import Run, is_first_process, wait_for_all
from tuning.records import changed_keys, fingerprint, read_json, read_record, write_json


def stage(
    this: Run,
    name: str,
    inputs: dict[str, Any],
    work: Callable[[Path], dict[str, Any]],
    again: bool,
    *,
    together: bool = False,
) -> Path:
    """Does a stage's work unless its folder already holds the result of the same inputs.

    Of several processes the first does it and the others wait, unless the stage works `together`.
    """
    folder, key = this.folder(name), fingerprint(inputs)
    this.fingerprints[name] = key
    record = read_record(folder)
    wait_for_all()  # nobody moves a folder that another process is still looking at
    if record is not None and record["fingerprint"] == key and not again and _is_whole(folder, record):
        this.say(f"{name}: reused")
        this.reused.append(name)
        this.records[name] = record["result"]
        return folder
    if is_first_process():
        _make_room(this, name, folder, key, inputs, again)
        record = read_record(folder)
        if record is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "started.json", {"fingerprint": key, "inputs": inputs})
    wait_for_all()
    record = read_record(folder)
    if record is not None and record["fingerprint"] == key and not again:
        this.say(f"{name}: taken up again from an earlier run")
        this.reused.append(name)
        this.records[name] = record["result"]
        return folder
    started = time.monotonic()
    this.say(f"{name}: running")
    result = work(folder) if together or is_first_process() else {}
    if is_first_process():
        write_json(
            folder / "record.json",
            {
                "stage": name,
                "fingerprint": key,
                "inputs": inputs,
                "result": result,
                "files": _files(folder),
                "seconds": time.monotonic() - started,
                "versions": _versions(),
            },
        )
        (folder / "started.json").unlink(missing_ok=True)
    wait_for_all()
    finished = read_record(folder)
    assert finished is not None
    this.records[name] = finished["result"]
    this.say(f"{name}: done in {time.monotonic() - started:.1f} s")
    return folder


def _make_room(this: Run, name: str, folder: Path, key: str, inputs: dict[str, Any], again: bool) -> None:
    """Renames a folder made from other inputs; takes back an older one made from these."""
    if not folder.is_dir():
        _take_back(folder, key, this, name)
        return
    started = folder / "started.json"
    old = read_record(folder) or (read_json(started) if started.is_file() else None)
    if old is None:
        if any(folder.iterdir()):
            _keep(folder, "unknown")
            this.say(f"{name}: a folder without a record was in the way; it is kept beside")
        return
    is_unfinished = read_record(folder) is None
    if old["fingerprint"] == key and is_unfinished and not again:
        return  # resumed
    if is_unfinished and [path.name for path in folder.iterdir()] == ["started.json"]:
        # An attempt that failed before it made anything, such as a build stopped by a malformed row.
        shutil.rmtree(folder)
        if not again:
            _take_back(folder, key, this, name)
        return
    if old["fingerprint"] != key:
        keys = changed_keys(old["inputs"], inputs)
        this.say(f"{name}: changed: {', '.join(keys) or 'everything'}")
    elif not again:
        this.say(f"{name}: files of the result are missing or cut short")
    kept = _keep(folder, old["fingerprint"][:8])
    this.say(f"{name}: the old result is kept as {kept.name}")
    if old["fingerprint"] != key:
        _take_back(folder, key, this, name)


def _keep(folder: Path, suffix: str) -> Path:
    kept = folder.with_name(f"{folder.name}@{suffix}")
    number = 1
    while kept.exists():
        number += 1
        kept = folder.with_name(f"{folder.name}@{suffix}-{number}")
    os.replace(folder, kept)
    return kept


def _take_back(folder: Path, key: str, this: Run, name: str) -> None:
    """Renames a kept folder made from the same inputs back: a whole result first, else an unfinished one."""
    unfinished = None
    for kept in sorted(folder.parent.glob(f"{glob.escape(folder.name)}@{key[:8]}*")):
        record = read_record(kept)
        if record is not None and record["fingerprint"] == key and _is_whole(kept, record):
            os.replace(kept, folder)
            return
        if record is None and (kept / "started.json").is_file():
            unfinished = kept if read_json(kept / "started.json")["fingerprint"] == key else unfinished
    if unfinished is not None:
        os.replace(unfinished, folder)


def _files(folder: Path) -> dict[str, int]:
    """Sizes of a stage's result files, by name; checkpoints and logs are not results."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    skip = ("checkpoints", "started.json", "record.json", "metrics.jsonl", "evaluation.jsonl", "alarms.jsonl")
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(files)
        if path.relative_to(folder).parts[0] not in skip
    }


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in record["files"].items()
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("tuning", "torch", "transformers", "trl", "peft", "accelerate", "tokenizers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
