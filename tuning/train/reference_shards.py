"""The files of a reference store: shards that are whole if they are there, and say which reference made them.

keys              uint8 (rows, 16)     which sequence: digest of its token ids and its target mask
sums              float64 (rows,)      log p(answer | prompt) in nats, over the sequence's targets
ends              int64 (rows,)        per token only: where each sequence's values end
token_log_probs   float32 (targets,)   per token only: every target of every row, one behind the other

The metadata of a shard holds the store's key and a digest of these arrays. A name is made of the kind (`sums`
or `tokens`), a number that grows as the store does, and that digest: what two processes write at once never
has one name, unless it is the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tuning.records import sync_folder

FORMAT = "tuning.reference/1"
SUMS, TOKENS = "sums", "tokens"
LOCK = ".lock"
TEMPORARY = ".writing"
FOREIGN_HOST_SECONDS = 24 * 3600.0
"""Age at which another machine's temporary is left over for certain: some file systems lock per machine."""

Keys = NDArray[np.bytes_]
"""(rows,) of dtype S16."""


class StoreError(ValueError):
    """A reference store that may not be used; `code` is stable."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


@dataclass(frozen=True)
class Shard:
    """The rows of one file."""

    keys: Keys
    sums: NDArray[np.float64]
    ends: NDArray[np.int64] | None = None
    token_log_probs: NDArray[np.float32] | None = None

    @property
    def kind(self) -> str:
        return SUMS if self.ends is None else TOKENS

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is written, by name."""
        arrays: dict[str, NDArray[Any] | None] = {
            "keys": np.ascontiguousarray(self.keys).view(np.uint8).reshape(-1, 16),
            "sums": self.sums,
            "ends": self.ends,
            "token_log_probs": self.token_log_probs,
        }
        return {name: array for name, array in arrays.items() if array is not None}


def write_shard(folder: Path, key: str, number: int, shard: Shard) -> str:
    """Writes a shard beside its place, syncs it, moves it there; returns its name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: no reference store can be made here ({error.strerror}); accepted: a folder, or a "
            "name for a new one",
            code="reference_store_folder",
        ) from None
    digest = _digest(shard.arrays)
    data = save(shard.arrays, metadata={"format": FORMAT, "key": key, "kind": shard.kind, "sha256": digest})
    name = f"{shard.kind}-{number:06d}-{digest[:16]}.safetensors"
    temporary = folder / f"{TEMPORARY}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    with _lock(folder, fcntl.LOCK_SH):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return name


def read_shard(path: Path, key: str) -> Shard:
    """The rows of a file. Raises `StoreError` if it is damaged or was made by another reference."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:  # a link to nothing and a folder are no shards either
        raise _damaged(path, str(error)) from None
    if metadata.get("format") != FORMAT or metadata.get("key") != key:
        seen = metadata.get("key", "nothing")
        raise StoreError(
            f"{path}: made by another reference: its key is {seen}, this store's is {key}; "
            "files of another reference may not lie here, move it away",
            code="reference_store_foreign",
        )
    if metadata.get("sha256") != _digest(arrays):
        raise _damaged(path, "its contents do not match their digest")
    keys = arrays["keys"].reshape(-1).view("S16")
    return Shard(keys, arrays["sums"], arrays.get("ends"), arrays.get("token_log_probs"))


def shard_names(folder: Path, *, per_token: bool) -> list[str]:
    """The shards in a folder, oldest first. Every kind has sums; values per token are in one kind only."""
    kinds = (TOKENS,) if per_token else (SUMS, TOKENS)
    if not folder.is_dir():
        return []
    names = [name for name in os.listdir(folder) if name.endswith(".safetensors")]
    strange = [name for name in names if not name.startswith((f"{SUMS}-", f"{TOKENS}-"))]
    if strange:
        raise StoreError(
            f"{folder / min(strange)}: not a shard of a reference store; move it away",
            code="reference_store_foreign",
        )
    return sorted((name for name in names if name.startswith(kinds)), key=_number)


def next_number(names: list[str]) -> int:
    """The number behind the last of these shards."""
    return max((_number(name)[0] for name in names), default=0) + 1


def clean(folder: Path) -> None:
    """Removes what killed processes left half-written, unless someone is writing at this moment."""
    left = list(folder.glob(f"{TEMPORARY}.*"))
    if not left:
        return
    with contextlib.suppress(OSError), _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_locked:
        for path in left if is_locked else []:
            is_ours = path.name.startswith(f"{TEMPORARY}.{socket.gethostname()}.")
            if is_ours or time.time() - path.stat().st_mtime > FOREIGN_HOST_SECONDS:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(folder: Path, how: int) -> Iterator[bool]:
    """Holds the folder's lock, which the system gives back if this process dies; False where it cannot be
    had."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, how)
        except OSError:  # taken, or a file system without locks: shards are moved into place whole anyway
            yield False
            return
        yield True


def _number(name: str) -> tuple[int, str]:
    """The order of shards: of values that two processes computed at once, the lower number's counts."""
    middle = name.split("-")[1]
    return (int(middle) if middle.isdigit() else 0, name)


def _digest(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path}: damaged ({why}); remove it, and what it held is computed again",
        code="reference_store_damaged",
    )
