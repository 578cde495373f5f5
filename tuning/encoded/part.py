"""One part of an encoded source: a folder of memory-mapped arrays that is complete if it is there.

input_ids.npy   int32 (tokens,)      all sequences of the part, one behind the other
is_target.npy   bool (tokens,)
ends.npy        int64 (sequences,)   where each sequence ends
targets.npy     int64 (sequences,)   how many of its tokens are predicted and scored
rows.jsonl      one object a row: id, group, loss_weight, beta, margin, desirable, language, category, and
                either what was counted on its sequences or the code of the reason why it has none
lines.npy       int64 (rows,)        where each line of rows.jsonl ends, in bytes
sequences.npy   int64 (rows,)        how many sequences each row has
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tuning.chat import ChatError, EncodedSequence
from tuning.records import sync_folder
from tuning.schema import PreferencePair, Row

ROWS = "rows.jsonl"


class Part:
    """A complete part, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        # As plain arrays: slicing a `np.memmap` costs more than reading what is sliced.
        self.input_ids = np.asarray(np.load(folder / "input_ids.npy", mmap_mode="r", allow_pickle=False))
        self.is_target = np.asarray(np.load(folder / "is_target.npy", mmap_mode="r", allow_pickle=False))
        self.ends = np.load(folder / "ends.npy", allow_pickle=False)
        self.targets = np.load(folder / "targets.npy", allow_pickle=False)
        # A row is parsed when it is asked for, so that memory does not grow with the rows.
        self._line_ends = np.load(folder / "lines.npy", allow_pickle=False)
        is_empty = not len(self._line_ends)
        self._lines = np.asarray(np.empty(0, np.uint8) if is_empty else np.memmap(folder / ROWS, mode="r"))
        self.last = np.cumsum(np.load(folder / "sequences.npy", allow_pickle=False))
        """Number of the sequence behind each row's last."""

    def __len__(self) -> int:
        return len(self._line_ends)

    def about(self, row: int) -> dict[str, Any]:
        """What stands in its line of rows.jsonl."""
        start, end = int(self._line_ends[row - 1]) if row else 0, int(self._line_ends[row])
        about: dict[str, Any] = json.loads(self._lines[start:end].tobytes().decode())
        return about

    def sequence(self, number: int, counts: dict[str, int]) -> EncodedSequence:
        """A view of one sequence; nothing is read from disk before it is used."""
        start, end = self.bounds(number)
        return EncodedSequence(self.input_ids[start:end], self.is_target[start:end], counts=counts)

    def numbers(self, row: int) -> range:
        """Numbers of the sequences of a row."""
        return range(int(self.last[row - 1]) if row else 0, int(self.last[row]))

    def bounds(self, number: int) -> tuple[int, int]:
        """The first token of a sequence, and the one behind its last."""
        return int(self.ends[number - 1]) if number else 0, int(self.ends[number])


def write_part(
    folder: Path, rows: Iterable[tuple[Row, list[EncodedSequence] | ChatError]], seen: Callable[[], None]
) -> None:
    """Writes a part beside its place and moves it there; `seen` is called for every row."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_beside(folder)))
    try:
        with (
            _growing(temporary / "input_ids.npy", np.int32) as ids,
            _growing(temporary / "is_target.npy", np.bool_) as targets,
            (temporary / ROWS).open("wb") as index,
        ):
            counted: dict[str, list[int]] = {"ends": [], "targets": [], "lines": [], "sequences": []}
            end = line_end = 0
            for row, result in rows:
                line_end += index.write((json.dumps(_about(row, result), ensure_ascii=False) + "\n").encode())
                sequences = [] if isinstance(result, ChatError) else result
                for sequence in sequences:
                    ids(sequence.input_ids)
                    targets(sequence.is_target)
                    end += len(sequence)
                    counted["ends"].append(end)
                    counted["targets"].append(int(np.count_nonzero(sequence.is_target[1:])))
                counted["lines"].append(line_end)
                counted["sequences"].append(len(sequences))
                seen()
        for name, values in counted.items():
            np.save(temporary / f"{name}.npy", np.array(values, dtype=np.int64), allow_pickle=False)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        with contextlib.suppress(FileExistsError, OSError):  # another process was first, without a lock
            temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, *, waits: bool = True) -> Iterator[bool]:
    """Holds the lock of a part, which the system gives back if this process dies; False if it is taken and
    `waits` is not set. On a file system without locks, True: parts are moved into place whole anyway."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            yield True
            return
        for left in folder.parent.glob(f"{_beside(folder)}*"):  # of a process that was killed with the lock
            shutil.rmtree(left, ignore_errors=True)
        yield True


def _beside(folder: Path) -> str:
    return f".{folder.name}."


def _about(row: Row, result: list[EncodedSequence] | ChatError) -> dict[str, Any]:
    about: dict[str, Any] = {"id": row.id}
    if row.group is not None:
        about["group"] = row.group
    if row.loss_weight != 1.0:
        about["loss_weight"] = row.loss_weight
    known: dict[str, Any] = {"language": row.language, "category": row.category}
    if isinstance(row, PreferencePair):
        known |= {"beta": row.beta, "margin": row.margin}
    else:
        known["desirable"] = row.desirable
    about |= {name: value for name, value in known.items() if value is not None}
    if isinstance(result, ChatError):
        return {**about, "code": result.code}
    counts = [dict(sequence.counts) for sequence in result]
    return {**about, "counts": counts} if any(counts) else about


@contextlib.contextmanager
def _growing(path: Path, dtype: Any) -> Iterator[Callable[[np.ndarray], None]]:
    """A one-dimensional .npy file whose length is known when it is closed; memory stays flat."""
    length = 0
    with path.open("wb") as file:

        def header() -> None:
            # Padded to one length, so that it can be written again in place.
            fields = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (length,)}
            text = repr(fields).ljust(128 - 10 - 1) + "\n"
            file.write(b"\x93NUMPY\x01\x00" + (len(text)).to_bytes(2, "little") + text.encode("latin1"))

        def append(values: np.ndarray) -> None:
            nonlocal length
            file.write(np.ascontiguousarray(values, dtype=dtype).tobytes())
            length += len(values)

        header()
        yield append
        file.seek(0)
        header()
