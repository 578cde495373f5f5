"""The physical lines of a raw file, plain or gzip, and how a row that stands on them is reported."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.schema import RowFault

UNREADABLE = "row"  # the field that a fault names when the row could not be taken apart into fields


class BuilderError(ValueError):
    """What was asked for cannot be built: an unknown option, a missing file, a file of the wrong kind.

    `code` is stable, like that of a row's fault.
    """

    def __init__(self, message: str, code: str = "bad_option") -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


@dataclass(frozen=True)
class RawRow:
    """One decoded row and where it stands; a row that cannot be read has a `fault` and no value."""

    file: str
    line: int
    value: Any
    raw: str | bytes
    number: int
    """What a made-up id counts: the line, or in a JSON array (often all on one line) the element."""
    fault: RowFault | None = None


@dataclass(frozen=True)
class Cut:
    """The end of a gzip file that stops too early: what came out behind the last line break."""

    partial: bytes
    fault = RowFault("truncated", UNREADABLE, "the gzip file ends before its data does", "a complete file")


def raw_lines(path: Path) -> Iterator[bytes | Cut]:
    """The lines of a file with their breaks; only LF ends a line. A cut gzip file ends with a `Cut`."""
    rest = b""
    try:
        # read1: a buffered read that meets the cut throws away what it had already unpacked
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while piece := file.read1(1 << 18):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line + b"\n" for line in lines)
    except EOFError:
        yield Cut(rest)
        return
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BuilderError(f"{path}: damaged, or not a gzip file ({error})", code="damaged_file") from None
    except OSError as error:
        raise BuilderError(
            f"{path}: cannot be read ({error.strerror or error})", code="unreadable_file"
        ) from None
    if rest:
        yield rest


def decoded(line: bytes, is_first: bool = False) -> str:
    """The text of one UTF-8 line, without the byte order mark of a file's first line; raises `RowFault`."""
    try:
        return line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise RowFault("invalid_utf8", UNREADABLE, _undecodable(line, error), "UTF-8 text") from None


def _undecodable(line: bytes, error: UnicodeDecodeError) -> str:
    seen = f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1} of the line"
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return f"{seen} (UTF-16; save the file as UTF-8)"
    try:
        line.decode("cp932")
    except UnicodeDecodeError:
        return seen
    return f"{seen} (readable as cp932; save the file as UTF-8)"


def as_raw(data: bytes) -> str | bytes:
    """The text of the bytes, or the bytes themselves when they are not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data
