"""An encoded source: finds its parts, has the missing ones written, and reads them as rows."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tuning.chat import EncodedSequence, Template, encode_many
from tuning.encoded.part import Part, locked, write_part
from tuning.encoded.workers import write_with_workers
from tuning.progress import Progress
from tuning.records import fingerprint, sha256_of_file
from tuning.schema import Row, parse_row

VERSION = 4
"""Raised whenever the same rows, template and tokenizer would be stored otherwise."""
PART_ROWS = 8192


@dataclass(frozen=True)
class EncodedRow:
    """One row of a source: its sequences (chosen, then rejected, of a pair), or why it has none."""

    id: str
    group: str | None
    loss_weight: float
    language: str | None
    category: str | None
    result: tuple[EncodedSequence, ...] | str
    """Views into the mapped file; a code where the template cannot carry the row."""
    num_targets: int
    """Scored tokens, sequence by sequence."""
    beta: float | None = None
    margin: float | None = None
    """Of a pair, where its row says so."""
    desirable: bool | None = None
    """Of a conversation, likewise."""

    @property
    def group_key(self) -> str:
        """As a row's own: rows of one tree share it."""
        return f"group:{self.group}" if self.group is not None else f"row:{self.id}"


class EncodedSource:
    """The rows of a source in the order of its file; a slice or an iteration makes them one by one."""

    def __init__(self, folders: list[Path]) -> None:
        self._parts = [Part(folder) for folder in folders]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[EncodedRow]:
        return (_row(part, index) for part in self._parts for index in range(len(part)))

    def __getitem__(self, index: int) -> EncodedRow:
        number, offset = divmod(range(len(self))[index], PART_ROWS)
        return _row(self._parts[number], offset)


def encoded_source(
    data: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    cache: str | Path,
    *,
    legacy: str | None = None,
    workers: int | None = None,
    name: str = "",
) -> EncodedSource:
    """The rows of `data` (the `data.jsonl` of a built dataset) encoded, from `cache` where it has them.

    `workers` is the number of processes that encode at once: by default one for every core, where there are
    parts enough. `name` is what progress is shown under.
    """
    data, cache = Path(data), Path(cache)
    state = [VERSION, sha256_of_file(data), template.fingerprint, tokenizer_fingerprint(tokenizer), legacy]
    pieces = _pieces(data)
    folders = [cache / fingerprint([*state, *piece])[:32] for piece in pieces]
    missing = {folder: piece for folder, piece in zip(folders, pieces, strict=True) if not folder.is_dir()}
    if missing:
        # Other ranks of this machine wait for the first one's locks, and take what it has not begun.
        cores = len(os.sched_getaffinity(0)) if os.environ.get("LOCAL_RANK", "0") == "0" else 1
        wanted = min(workers if workers is not None else cores, len(missing))
        rows = sum(rows for _, rows in missing.values())
        with Progress(f"encode {name or data.parent.name}", rows) as progress:
            if wanted > 1:
                write_with_workers(data, tokenizer, template, legacy, missing, wanted, progress)
            for folder, piece in missing.items():
                write_missing(data, piece, folder, tokenizer, template, legacy, progress.advance)
    return EncodedSource(folders)


def write_missing(
    data: Path,
    piece: tuple[int, int],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    legacy: str | None,
    seen: Callable[[], None],
    *,
    waits: bool = True,
) -> None:
    """Writes the part with the rows of a `piece` of `data` (the byte at which it starts, the number of its
    rows), unless it is there when its lock is free."""
    if folder.is_dir():
        return
    with locked(folder, waits=waits) as is_mine:
        if is_mine and not folder.is_dir():
            rows = list(_rows(data, *piece))
            results = encode_many(rows, tokenizer, template, legacy=legacy)
            write_part(folder, zip(rows, results, strict=True), seen)


def _pieces(data: Path) -> list[tuple[int, int]]:
    """The byte at which each part starts, and the number of its rows; at least one part, which may be
    empty."""
    pieces, start, num_rows, position = list[tuple[int, int]](), 0, 0, 0
    with data.open("rb") as file:
        for line in file:
            if line.strip():
                if num_rows == PART_ROWS:
                    pieces.append((start, num_rows))
                    start, num_rows = position, 0
                num_rows += 1
            position += len(line)
    return [*pieces, (start, num_rows)]


def _rows(data: Path, start: int, num_rows: int) -> Iterator[Row]:
    with data.open("rb") as file:
        file.seek(start)
        lines = itertools.islice((line for line in file if line.strip()), num_rows)
        yield from (parse_row(json.loads(line.decode())) for line in lines)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of what decides ids: the tokenizer's own serialisation and its special tokens."""
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    return fingerprint([tokenizer.backend_tokenizer.to_str(), special])  # type: ignore[attr-defined]


def _row(part: Part, index: int) -> EncodedRow:
    about = part.about(index)
    numbers = part.numbers(index)
    counts = about.get("counts") or [{}] * len(numbers)
    sequences = tuple(map(part.sequence, numbers, counts))
    return EncodedRow(
        id=about["id"],
        group=about.get("group"),
        loss_weight=about.get("loss_weight", 1.0),
        language=about.get("language"),
        category=about.get("category"),
        result=about.get("code", sequences),
        num_targets=sum(part.targets[numbers.start : numbers.stop].tolist()),
        beta=about.get("beta"),
        margin=about.get("margin"),
        desirable=about.get("desirable"),
    )
