"""Rows out, manifest out: what every builder hands its rows to, so that none is lost without a reason.

A built dataset is a folder with `data.jsonl`, `manifest.json` and, when rows were set aside,
`quarantine.jsonl`. It appears whole or not at all: everything is written beside it first, and the manifest
moves in last.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_builders.reading import Input, RawRow
from data_builders.terms import SourceTerms
from tuning.records import check_counts, sync_folder, write_json
from tuning.schema import Conversation, RowError, RowFault, checked_text, kind, parse_row

DATA, MANIFEST, QUARANTINE = "data.jsonl", "manifest.json", "quarantine.jsonl"
FINDINGS = "findings.jsonl"
"""What screening found in the rows of a dataset."""
CANDIDATES = "candidates.jsonl"
"""Every answer that the pairs of a dataset were chosen from, with its scores."""


SOURCE_NAME = re.compile(r"[^\W_][^\\/\x00-\x1f\x7f]{0,99}")
"""What a source may be called: its name becomes a folder's."""


class KnownDrop(Exception):
    """A row that is left out for a reason known of its source; `code` is what the manifest counts."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Draft:
    """A row as a builder made it, before the check."""

    row: Mapping[str, Any]
    language: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    """The user's own name for a part of the row (`messages[0].content` -> `instruction`), for messages."""


class Dataset:
    """Counts and writes one source's rows; a bad one stops it (`strict`) or is set aside (`quarantine`)."""

    def __init__(
        self, folder: Path, source: str, on_bad_row: str = "strict", language: str | None = None
    ) -> None:
        self.source, self.on_bad_row, self.language = source, on_bad_row, language
        self.rows_in = self.rows_kept = 0
        self.dropped: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """What else a builder counts: trees, messages, texts it changed."""
        self.notes: list[str] = []
        self.is_published_set = True
        """False when a recipe gives a reason for another licence: its rows then are others, and published
        counts do not hold for them."""
        self.detected: list[str] = []
        self.terms: SourceTerms | None = None
        """The terms of those sets that a builder of several really read, in the place of what its info says
        of all."""
        self.languages: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.quarantined = 0
        self._folder, self._ids, self._digest = folder, set[str](), hashlib.sha256()
        self._data = (folder / DATA).open("wb")
        self._aside = (folder / QUARANTINE).open("wb")

    def convert(self, inputs: Iterable[Input], draft: Callable[[RawRow], Draft]) -> None:
        """Passes every raw row through `draft`, which returns it or raises `RowFault` or `KnownDrop`."""
        for raw in (raw for rows in inputs for raw in rows):
            self.rows_in += 1
            self.keep(raw, draft)

    def keep(self, raw: RawRow, draft: Callable[[RawRow], Draft]) -> None:
        """Checks and writes the row made of `raw`, or counts why not."""
        try:
            if raw.fault:
                raise raw.fault
            self._write(draft(raw))
        except KnownDrop as drop:
            self.dropped[drop.code] += 1
        except RowFault as fault:
            self.refuse(raw, fault)

    def next_id(self) -> str:
        """A stable id for the row in hand: its place among all rows read, whatever happens to the others."""
        return f"{self.source}-{self.rows_in:05d}"

    def refuse(self, raw: RawRow, fault: RowFault) -> None:
        """Stops at a malformed row (`RowError`), or sets it aside and counts it by its code."""
        fault = RowFault(
            fault.code, *(_printable(part) for part in (fault.where, fault.seen, fault.accepted))
        )
        if self.on_bad_row == "strict":
            raise RowError(raw.file, raw.line, fault) from None
        self.dropped[fault.code] += 1
        self.quarantined += 1
        text = raw.raw or (
            "" if raw.value is None else json.dumps(raw.value, ensure_ascii=False, default=str)
        )
        entry = {
            "file": raw.file,
            "line": raw.line,
            "code": fault.code,
            "field": fault.where,
            "message": str(fault),
        }
        if isinstance(text, bytes):
            entry["raw_base64"] = base64.b64encode(text).decode()
        else:
            entry["raw"] = text
        self._aside.write((json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))

    def _write(self, draft: Draft) -> None:
        try:
            row = parse_row({**draft.row, "source": self.source})
        except RowFault as fault:
            raise RowFault(
                fault.code, _own_name(fault.where, draft.fields), fault.seen, fault.accepted
            ) from None
        if row.id in self._ids:
            raise RowFault(
                "duplicate_id", "id", f"saw {row.id!r} again", "an id of its own for every row, or none"
            )
        language = row.meta.get("language") or self.language or draft.language
        if not isinstance(language, str | None):
            raise RowFault("wrong_type", "meta.language", f"saw {language!r}", "text, such as ja")
        stored = row.as_dict()
        if language:
            stored["meta"] = {"language": checked_text(language, "meta.language"), **row.meta}
        try:
            line = (json.dumps(stored, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise RowFault("not_json", "meta", str(error), "values that JSON and UTF-8 can carry") from None
        self._data.write(line)
        self._digest.update(line)
        self._ids.add(row.id)
        self.rows_kept += 1
        self.languages[language or "unknown"] += 1
        self.kinds["conversation" if isinstance(row, Conversation) else "preference"] += 1

    def close(self) -> None:
        """Brings the files to disk; without a quarantined row there is no quarantine file."""
        for file in (self._data, self._aside):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if not self.quarantined:
            (self._folder / QUARANTINE).unlink()

    def manifest(self, inputs: Sequence[Input], about: Mapping[str, Any]) -> dict[str, Any]:
        """What later stages and the model card need to know of these rows; `about` tells of the builder."""
        manifest = {
            "source": self.source,
            **about,
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "rows_dropped": dict(sorted(self.dropped.items())),
            "rows_quarantined": self.quarantined,
            "kinds": dict(sorted(self.kinds.items())),
            "languages": dict(sorted(self.languages.items())),
            "counts": {name: count for name, count in self.counts.items() if count},
            "detected": self.detected,
            "notes": self.notes + ([] if self.rows_kept else ["no row was kept"]),
            "inputs": [_about_file(item) for item in inputs],
            "data_sha256": self._digest.hexdigest(),
        }
        check_counts(manifest, self.source)
        return manifest


@contextlib.contextmanager
def staging(output: str | Path) -> Iterator[Path]:
    """A temporary folder on the disk of `output`, gone afterwards; creates nothing else."""
    place = Path(output).absolute()
    while not place.is_dir():
        place = place.parent
    with tempfile.TemporaryDirectory(dir=place, prefix=".building-") as folder:
        yield Path(folder)


def publish(folder: Path, output: str | Path, manifest: Mapping[str, Any]) -> None:
    """Moves the staged files into `output`; between the first move and the last there is no manifest."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, manifest)
    (output / MANIFEST).unlink(missing_ok=True)
    for name in (DATA, QUARANTINE, FINDINGS, CANDIDATES, MANIFEST):
        if (folder / name).exists():
            os.replace(folder / name, output / name)
        else:
            (output / name).unlink(missing_ok=True)
    sync_folder(output)


def required_text(row: Any, name: str) -> str:
    """The text in a field of a raw row; raises `RowFault` unless it is there and is text."""
    if name not in row:
        present = ", ".join(map(str, row)) or "none"
        raise RowFault("missing_field", name, "missing", f"fields present: {present}")
    return checked_text(row[name], name)


def as_object(raw: RawRow) -> Mapping[str, Any]:
    """The raw row as a JSON object; raises `RowFault` for any other value."""
    if not isinstance(raw.value, Mapping):
        accepted = "a row is one JSON object (an array of rows belongs into a .json file)"
        raise RowFault("not_an_object", "row", f"saw {kind(raw.value)}", accepted)
    return raw.value


def extras(row: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The fields that a builder does not use itself, for `meta`; nulls and empty texts are left out."""
    return {name: value for name, value in row.items() if name not in known and value not in (None, "")}


def _about_file(item: Input) -> dict[str, Any]:
    with item.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": item.path.name, "bytes": item.path.stat().st_size, "sha256": digest}


def _own_name(where: str, fields: Mapping[str, str]) -> str:
    """`where` in the user's words: the longest beginning that has a name of its own is replaced by it."""
    for prefix in sorted(fields, key=len, reverse=True):
        if where == prefix or where.startswith((f"{prefix}.", f"{prefix}[")):
            return fields[prefix] + where[len(prefix) :]
    return where


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()[:500]
