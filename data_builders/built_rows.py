"""A built dataset, row by row and again: in order from the start, or one row by its number.

Only where each line starts is kept in memory, 8 bytes a row.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_builders.lines import BuilderError
from data_builders.writing import DATA, MANIFEST, SOURCE_NAME
from tuning.records import check_counts, read_json


class BuiltDataset:
    """The folder that a builder wrote: its manifest and its lines.

    Raises `BuilderError` for a folder that holds none, or whose manifest does not fit its rows.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        for name in (DATA, MANIFEST):
            if not (self.folder / name).is_file():
                raise BuilderError(
                    f"{folder}: no {name}; accepted: a folder written by `tuning data build`",
                    code="not_a_dataset",
                )
        self.manifest: dict[str, Any] = self._read_manifest()
        self.source = str(self.manifest["source"])
        if not SOURCE_NAME.fullmatch(self.source):
            raise BuilderError(
                f"{self.folder / MANIFEST}: source: saw {self.source!r}, which may not name a folder; build "
                "it again under another name",
                code="not_a_dataset",
            )
        self._starts = array("Q")
        with (self.folder / DATA).open("rb") as file:
            at = 0
            for line in file:
                if line.strip():
                    self._starts.append(at)
                at += len(line)
        if len(self) != self.manifest["rows_kept"]:
            raise BuilderError(
                f"{self.folder / DATA}: {len(self)} rows, its manifest says {self.manifest['rows_kept']}; "
                "build it again",
                code="changed_dataset",
            )

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            manifest = read_json(path)
            if not isinstance(manifest, dict) or "source" not in manifest:
                raise ValueError(f"{path}: names no source")
            check_counts(manifest, str(self.folder))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            what = f"{path}: no {error}" if isinstance(error, KeyError) else str(error)
            raise BuilderError(f"{what}; build it again", code="changed_dataset") from None
        return manifest

    def __len__(self) -> int:
        return len(self._starts)

    def lines(self) -> Iterator[bytes]:
        """The rows as they stand in the file."""
        with (self.folder / DATA).open("rb") as file:
            yield from (line for line in file if line.strip())

    def values(self) -> Iterator[Any]:
        """The decoded rows; raises `BuilderError` at a line that is no JSON."""
        for number, line in enumerate(self.lines()):
            yield self._decoded(line, number)

    def value(self, number: int) -> Any:
        """The decoded row with that number, from 0; raises `BuilderError` where it is no JSON."""
        with (self.folder / DATA).open("rb") as file:
            file.seek(self._starts[number])
            return self._decoded(file.readline(), number)

    def _decoded(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise BuilderError(
                f"{self.folder / DATA}: row {number + 1} is not JSON ({error}); build it again",
                code="changed_dataset",
            ) from None
