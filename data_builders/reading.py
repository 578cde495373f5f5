"""One strict reader for every raw file: which row stands on which line, and what is wrong with it.

    for row in open_input("faq.csv"):       # .jsonl .json .csv .tsv .xml (each also .gz) and .parquet
        row.file, row.line, row.value       # or row.fault, when the row cannot be read

A row that cannot be read is yielded with its fault, so that the caller decides whether to stop or to set it
aside; reading goes on behind it. A file that cannot be read at all raises `BuilderError`. Blank lines are not
rows, a byte order mark and CRLF are accepted, text is UTF-8 and nothing else. The line is the physical one on
which the row starts; in Parquet it is the row's number.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_builders.json_rows import json_array_or_lines, json_lines
from data_builders.lines import BuilderError, RawRow
from data_builders.tables import csv_columns, csv_rows, parquet_columns, parquet_rows
from data_builders.xml_rows import xml_rows

ENDINGS = "accepted endings: .jsonl, .json, .csv, .tsv, .xml (each also with .gz) and .parquet"

__all__ = ["BuilderError", "Input", "RawRow", "open_input"]


class Input:
    """A raw file that exists and has a known format; iterating reads its rows, each time from the start."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.columns: tuple[str, ...] | None = None
        """Names of a table's columns, which hold for every row; None for JSON and XML."""
        if kind in ("csv", "tsv"):
            self.columns = csv_columns(path, kind)
        elif kind == "parquet":
            self.columns = parquet_columns(path)

    def require_columns(self, *names: str) -> None:
        """Raises `BuilderError` when this is a table that lacks one of the columns."""
        for name in names:
            if self.columns is not None and name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, n=1)
                hint = f" (is it {near[0]}?)" if near else ""
                raise BuilderError(
                    f"{self.path}:1: missing column {name}{hint}; columns: {', '.join(self.columns)}",
                    code="missing_column",
                )

    def first_fields(self) -> tuple[str, ...]:
        """The fields of the first row that is an object: what tells a source's kinds of file apart."""
        first = next((raw.value for raw in self if isinstance(raw.value, Mapping)), {})
        return tuple(map(str, first))

    def __iter__(self) -> Iterator[RawRow]:
        if self.kind == "parquet":
            return parquet_rows(self.path)
        if self.kind in ("csv", "tsv"):
            return csv_rows(self.path, self.kind)
        if self.kind == "xml":
            return xml_rows(self.path)
        return json_array_or_lines(self.path) if self.kind == "json" else json_lines(self.path)


def open_input(path: str | Path) -> Input:
    """The file behind a path; its name tells the format.

    Raises `BuilderError` for a missing file, an unknown ending, and a table without a usable header.
    """
    path = Path(path)
    if not path.is_file():
        raise BuilderError(
            f"{path}: a folder, not a file" if path.is_dir() else f"{path}: no such file{_near(path)}",
            code="missing_file",
        )
    name = path.name.lower()
    is_packed = name.endswith(".gz")
    kind = name.removesuffix(".gz").rpartition(".")[2].replace("ndjson", "jsonl")
    if kind not in ("jsonl", "json", "csv", "tsv", "xml", "parquet") or (is_packed and kind == "parquet"):
        raise BuilderError(f"{path}: not a known format; {ENDINGS}", code="unknown_format")
    return Input(path, kind)


def _near(path: Path) -> str:
    names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
