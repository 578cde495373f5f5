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
        self.manifest: dict[str, Any] = read_json(self.folder / MANIFEST)
        self.source = str(self.manifest["source"])
        if not SOURCE_NAME.fullmatch(self.source):
            raise BuilderError(
                f"{self.folder / MANIFEST}: source: saw {self.source!r}, which may not name a folder; build "
                "it again under another name",
                code="not_a_dataset",
            )
        check_counts(self.manifest, str(folder))
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

    def __len__(self) -> int:
        return len(self._starts)

    def lines(self) -> Iterator[bytes]:
        """The rows as they stand in the file."""
        with (self.folder / DATA).open("rb") as file:
            yield from (line for line in file if line.strip())

    def values(self) -> Iterator[Any]:
        """The decoded rows; raises `BuilderError` at a line that is no JSON."""
        for number, line in enumerate(self.lines(), start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise BuilderError(
                    f"{self.folder / DATA}: row {number} is not JSON ({error})", code="changed_dataset"
                ) from None

    def value(self, number: int) -> Any:
        """The decoded row with that number, from 0."""
        with (self.folder / DATA).open("rb") as file:
            file.seek(self._starts[number])
            return json.loads(file.readline())
