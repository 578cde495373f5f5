"""Log-probs under the reference model, computed once per sequence and stored by content.

A sequence's log-probs depend on its tokens, its targets, the reference's weights and arithmetic, on nothing
else of a recipe. So a store is a folder for one reference (`reference_key`) in which rows are found by their
content (`sequence_key`): changing beta, the rate, the loss, the schedule or the number of ranks reuses it,
and several runs may fill one folder at once.
"""

from __future__ import annotations

import bisect
import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoConfig

from tuning.forest import Sequence
from tuning.model.loading import ModelError, compute_dtype
from tuning.records import fingerprint, sha256_of_file
from tuning.train.reference_index import Index
from tuning.train.reference_shards import (
    Keys,
    Shard,
    StoreError,
    clean,
    next_number,
    read_shard,
    shard_names,
    write_shard,
)
from tuning.train.steps import Example

VERSION = 2
"""Raised whenever the same reference would give other log-probs for the same tokens, or store them
otherwise."""
SHARD_ROWS = 32768
SHARD_SECONDS = 60.0
"""What a killed pass computes again at most."""
SHARD_TOKENS = 1 << 24
"""Values per token held before they are written: 64 MiB."""
ARRIVAL_SECONDS = 60.0
"""How long a shard that another machine wrote may take to be seen here."""


def reference_key(start: str, *, precision: str, quantize: str | None = None) -> str:
    """Hex digest of what decides the reference's log-probs.

    These are its weight files and `config.json` (with model code and an adapter, if they lie there; of a hub
    id the revision), the dtype it computes in, the one in which the head accumulates, and its quantisation.
    Tokenizer, model card, generation settings and optimizer states are not among them.
    """
    folder = Path(start)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file() and _decides(path.name))
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(sha256_of_file, files))
        contents: object = {path.name: digest for path, digest in zip(files, digests, strict=True)}
    else:
        revision = getattr(AutoConfig.from_pretrained(start), "_commit_hash", None)
        if revision is None:
            raise ModelError(
                f"{start}: its revision cannot be told, so its reference log-probs could not be found again; "
                "download it and name the folder"
            )
        contents = f"{start}@{revision}"
    dtype = compute_dtype(precision)
    head = torch.promote_types(dtype, torch.float32)
    return fingerprint([VERSION, contents, str(dtype), str(head), quantize])


def _decides(name: str) -> bool:
    """Whether a checkpoint's file takes part in what the model computes."""
    if name in ("config.json", "adapter_config.json"):
        return True
    is_weight = name.endswith((".safetensors", ".safetensors.index.json"))
    return name.endswith(".py") or (is_weight and not name.startswith(("optimizer", "scheduler")))


def sequence_key(sequence: Sequence) -> str:
    """Hex digest of a sequence's tokens and targets."""
    return _digest(sequence).hex()


def _digest(sequence: Sequence) -> bytes:
    digest = hashlib.sha256(np.asarray(sequence.input_ids, dtype=np.int32).tobytes())
    digest.update(np.packbits(np.asarray(sequence.is_target, dtype=np.bool_)).tobytes())
    return digest.digest()[:16]


def num_targets(sequence: Sequence) -> int:
    """Scored tokens of a sequence; its first never is."""
    return int(np.count_nonzero(sequence.is_target[1:]))


class ReferenceStore:
    """Log-probs under one reference by sequence content, in shards under `folder`, or in memory without one.

    `key` is the reference's (`reference_key`): shards that bear another one, and damaged ones, are refused
    with a `StoreError`. With `per_token` the log-prob of every target is kept, float32, beside the float64
    sums; a store without serves sums out of either. What is added is written every `shard_rows` sequences or
    `shard_seconds`, and by `flush`; a process that dies loses no more than that.

    In memory a sequence takes 24 bytes, 32 per token; values per token stay in their files.
    """

    def __init__(
        self,
        folder: Path | None = None,
        key: str = "",
        *,
        per_token: bool = False,
        shard_rows: int = SHARD_ROWS,
        shard_seconds: float = SHARD_SECONDS,
    ) -> None:
        self.folder, self.key, self.per_token = folder, key, per_token
        self._unshared: list[str | Shard] = []
        self._shard_rows, self._shard_seconds = shard_rows, shard_seconds
        self._index = Index()
        self._read: set[str] = set()
        self._starts: list[int] = []
        self._tokens: list[Any] = []  # per shard a path, the file once it is open, or an array in memory
        self._num_tokens = 0
        self._pending: dict[bytes, tuple[float, NDArray[np.float32] | None]] = {}
        self._pending_tokens, self._pending_since = 0, 0.0
        if folder is not None:
            clean(folder)
            self.refresh()

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._index) + len(self._pending)

    def __contains__(self, example: Example) -> bool:
        return bool(self.has([example])[0])

    def has(self, examples: list[Example]) -> NDArray[np.bool_]:
        """(examples,): whether every sequence of an example is known."""
        digests: list[bytes] = []
        ends: list[int] = []
        for example in examples:
            digests.extend(map(_digest, example.sequences))
            ends.append(len(digests))
        is_known = self._index.find(_keys(digests))[0]
        for number in np.flatnonzero(~is_known).tolist():
            is_known[number] = digests[number] in self._pending
        known = np.concatenate([[0], np.cumsum(is_known)])
        starts = np.array([0, *ends[:-1]], dtype=np.int64)[: len(ends)]
        return np.asarray(known[ends] - known[starts] == np.array(ends, dtype=np.int64) - starts)

    def of(self, examples: Iterable[Example], side: int) -> torch.Tensor:
        """float64, (examples,): sums of each example's sequence number `side`; of a pair, the chosen answer
        is 0 and the rejected 1."""
        return torch.from_numpy(self._sums([(example, example.sequences[side]) for example in examples]))

    def sums(self, examples: Iterable[Example]) -> torch.Tensor:
        """float64, (sequences,): sums of every sequence of every example, in order."""
        return torch.from_numpy(self._sums(_owned(examples)))

    def token_log_probs(self, examples: Iterable[Example]) -> torch.Tensor:
        """float32, (targets,): every target of every sequence of every example, in order: that of the targets
        of a micro-batch made of these pairs. Needs `per_token`."""
        if not self.per_token:
            raise TypeError("this store keeps sums only; open it with per_token=True")
        parts = [np.empty(0, dtype=np.float32)]
        for example, sequence in _owned(examples):
            digest = _digest(sequence)
            if digest in self._pending:
                values = self._pending[digest][1]
                assert values is not None
                parts.append(values)
                continue
            is_known, _, places = self._index.find(_keys([digest]))
            if not is_known[0]:
                raise self._lacks(example)
            parts.append(self._tokens_at(int(places[0]), num_targets(sequence)))
        return torch.from_numpy(np.concatenate(parts))

    def add(
        self,
        examples: Iterable[Example],
        sums: Iterable[float],
        token_log_probs: NDArray[np.float32] | None = None,
    ) -> None:
        """Takes up the values of these examples' sequences, in order; what is known already stays as it is.

        Raises `StoreError` for a value that is not finite: the reference itself is broken then.
        """
        start = 0
        for (example, sequence), value in zip(_owned(examples), sums, strict=True):
            count = num_targets(sequence)
            tokens = None
            if self.per_token:
                assert token_log_probs is not None
                tokens = np.array(token_log_probs[start : start + count], dtype=np.float32)
            start += count
            if not np.isfinite(value):
                raise StoreError(
                    f"row {example.id}: its log-prob under the reference is {value}",
                    code="reference_not_finite",
                )
            digest = _digest(sequence)
            if digest in self._pending or self._index.find(_keys([digest]))[0][0]:
                continue
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending[digest] = float(value), tokens
            self._pending_tokens += count if self.per_token else 0
        is_due = self._pending and time.monotonic() - self._pending_since >= self._shard_seconds
        if is_due or len(self._pending) >= self._shard_rows or self._pending_tokens >= SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Writes what was added since the last shard as a new one."""
        if self.folder is not None and self._pending:
            self.refresh()  # others may have computed the same rows meanwhile
            known = self._index.find(_keys(list(self._pending)))[0]
            for digest, is_known in zip(list(self._pending), known.tolist(), strict=True):
                if is_known:
                    del self._pending[digest]
        shard, self._pending, self._pending_tokens = self._pending_shard(), {}, 0
        if not len(shard.keys):
            return
        if self.folder is None:
            self._unshared.append(shard)
            self._take_all([(shard, None)])
            return
        number = next_number(shard_names(self.folder, per_token=False))
        name = write_shard(self.folder, self.key, number, shard)
        self._unshared.append(name)
        self._read.add(name)
        self._take_all([(shard, self.folder / name)])

    def refresh(self, expected: Iterable[str] = ()) -> None:
        """Reads the shards that others have written since, at least those named."""
        if self.folder is None:
            return
        deadline = time.monotonic() + ARRIVAL_SECONDS
        missing = set(expected) - self._read
        names = [
            name for name in shard_names(self.folder, per_token=self.per_token) if name not in self._read
        ]
        while missing - set(names) and time.monotonic() < deadline:
            time.sleep(0.2)  # a network file system may show another machine's files late
            names = shard_names(self.folder, per_token=self.per_token)
        fresh = [name for name in names if name not in self._read]
        self._take_all((read_shard(self.folder / name, self.key), self.folder / name) for name in fresh)
        self._read.update(fresh)

    def exchange(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Makes what every rank added known to all. `gather` joins the lists of all ranks; with a folder only
        the names of shards go through it."""
        self.flush()
        mine, self._unshared = self._unshared, []
        parts = gather(mine)
        self.refresh(part for part in parts if isinstance(part, str))
        for part in parts:
            if isinstance(part, Shard) and not self._index.find(part.keys)[0].all():
                self._take_all([(part, None)])

    def _sums(self, wanted: list[tuple[Example, Sequence]]) -> NDArray[np.float64]:
        digests = [_digest(sequence) for _, sequence in wanted]
        is_known, values, _ = self._index.find(_keys(digests))
        for number in np.flatnonzero(~is_known).tolist():
            if digests[number] not in self._pending:
                raise self._lacks(wanted[number][0])
            values[number] = self._pending[digests[number]][0]
        return values

    def _lacks(self, example: Example) -> KeyError:
        return KeyError(f"row {example.id}: no log-prob of it in the reference store {self.folder or ''}")

    def _take_all(self, shards: Iterable[tuple[Shard, Path | None]]) -> None:
        """Takes up shards, each with its file, oldest first; all at once, since every addition may sort."""
        keys, sums, places = [_keys([])], [np.empty(0)], [np.empty(0, dtype=np.int64)]
        for shard, path in shards:
            keys.append(shard.keys)
            sums.append(shard.sums)
            if self.per_token:
                assert shard.ends is not None and shard.token_log_probs is not None
                places.append(np.concatenate([[0], shard.ends[:-1]])[: len(shard.ends)] + self._num_tokens)
                self._starts.append(self._num_tokens)
                self._tokens.append(path or shard.token_log_probs)
                self._num_tokens += len(shard.token_log_probs)
        found = np.concatenate(places) if self.per_token else None
        self._index.add(np.concatenate(keys), np.concatenate(sums), found)

    def _tokens_at(self, place: int, count: int) -> NDArray[np.float32]:
        if not count:
            return np.empty(0, dtype=np.float32)
        number = bisect.bisect_right(self._starts, place) - 1
        start, part = place - self._starts[number], self._tokens[number]
        if isinstance(part, np.ndarray):
            return part[start : start + count]
        if isinstance(part, Path):
            part = self._tokens[number] = safe_open(part, "np")  # mapped: only what is asked for is read
        return np.asarray(part.get_slice("token_log_probs")[start : start + count])

    def _pending_shard(self) -> Shard:
        keys = _keys(list(self._pending))
        sums = np.array([value for value, _ in self._pending.values()], dtype=np.float64)
        if not self.per_token:
            return Shard(keys, sums)
        parts = [tokens for _, tokens in self._pending.values() if tokens is not None]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return Shard(keys, sums, ends, np.concatenate([np.empty(0, dtype=np.float32), *parts]))


def _owned(examples: Iterable[Example]) -> list[tuple[Example, Sequence]]:
    return [(example, sequence) for example in examples for sequence in example.sequences]


def _keys(digests: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(digests), dtype="S16")
