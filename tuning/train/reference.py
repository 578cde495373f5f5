"""Log-probs under the reference model, computed once per sequence and stored by content.

A sequence's sum depends on its tokens, its targets and the reference's weights, on nothing else of the
recipe; so the store is keyed by those, and changing beta, the learning rate or the schedule reuses it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from tuning.forest import Sequence
from tuning.model.loading import compute_dtype
from tuning.records import fingerprint, sha256_of_folder
from tuning.train.steps import Example

VERSION = 1


def reference_key(start: str, *, precision: str) -> str:
    """Hex digest of what the reference computes: the checkpoint's files (a hub id: its resolved revision),
    the precision."""
    folder = Path(start)
    if folder.is_dir():
        contents = sha256_of_folder(folder)
    else:
        config = AutoConfig.from_pretrained(start)
        contents = f"{start}@{getattr(config, '_commit_hash', None)}"
    return fingerprint([VERSION, contents, str(compute_dtype(precision))])


def sequence_key(sequence: Sequence) -> str:
    """Hex digest of a sequence's tokens and targets."""
    digest = hashlib.sha256(np.asarray(sequence.input_ids, dtype=np.int32).tobytes())
    digest.update(np.packbits(np.asarray(sequence.is_target, dtype=np.bool_)).tobytes())
    return digest.hexdigest()


class ReferenceStore:
    """Sums of target log-probs, float64 nats, by sequence content; kept in one safetensors file."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.sums: dict[str, float] = {}
        if path is not None and path.is_file():
            saved = load_file(path)
            keys = [bytes(row).hex() for row in saved["keys"].numpy()]
            self.sums = dict(zip(keys, saved["sums"].tolist(), strict=True))

    def __contains__(self, example: Example) -> bool:
        return all(sequence_key(sequence) in self.sums for sequence in example.sequences)

    def of(self, examples: Iterable[Example], side: int) -> torch.Tensor:
        """float64, (examples,): sums of the chosen (side 0) or rejected (side 1) answers."""
        return torch.tensor(
            [self.sums[sequence_key(example.sequences[side])] for example in examples], dtype=torch.float64
        )

    def sums_of(self, examples: Iterable[Example]) -> torch.Tensor:
        """float64, (sequences,): sums of all sequences of the examples, in their order."""
        return torch.tensor(
            [self.sums[sequence_key(sequence)] for example in examples for sequence in example.sequences],
            dtype=torch.float64,
        )

    def add(self, examples: Iterable[Example], sums: list[float]) -> None:
        """Takes up the sums of these examples' sequences, in order."""
        sequences = [sequence for example in examples for sequence in example.sequences]
        self.sums.update(zip(map(sequence_key, sequences), sums, strict=True))

    def save(self) -> None:
        """Writes the file anew, atomically."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(bytes.fromhex("".join(self.sums)), dtype=np.uint8).reshape(-1, 32)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        tensors = {
            "keys": torch.from_numpy(keys.copy()),
            "sums": torch.tensor(list(self.sums.values()), dtype=torch.float64),
        }
        save_file(tensors, temporary)
        os.replace(temporary, self.path)
