"""Trees of a micro-step collated into the flat row that the model computes, with the targets that are
scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuning.forest.trie import IntArray, Sequence, Tree


@dataclass(frozen=True)
class Layout:
    """The visibility of a row as runs: consecutive queries whose keys are gathered, causal and aligned at the
    end.

    Run r computes queries `cu_q[r]:cu_q[r + 1]` against keys `key_index[cu_k[r]:cu_k[r + 1]]`; its last query
    sees all of them, the one before all but the last, and so on.
    """

    cu_q: Tensor
    """int32, (runs + 1,)"""
    cu_k: Tensor
    """int32, (runs + 1,)"""
    key_index: Tensor | None
    """int32, (keys,), or None when every run's keys are its own queries (plain packing)."""
    bounds: tuple[tuple[int, int, int, int], ...]
    """(first query, end, first key, end) per run, on the host: the CPU path loops over them without a
    sync."""
    max_q: int
    max_k: int

    def to(self, device: torch.device | str) -> Layout:
        return replace(self, **_moved(self, device))


@dataclass(frozen=True)
class ForestBatch:
    """One micro-row: packed trees and the flat list of what is predicted in them."""

    input_ids: Tensor
    """int64, (tokens,)"""
    position_ids: Tensor
    """int64, (tokens,)"""
    subtree_end: Tensor
    """int64, (tokens,); padding sees only itself"""
    layout: Layout
    target_position: Tensor
    """int64, (targets,): index of the state that predicts"""
    target_token: Tensor
    """int64, (targets,): what it predicts"""
    target_weight: Tensor
    """float32, (targets,): how much the step asks for it; the trainer's weights are divided by the step's
    total"""
    target_sequence: Tensor
    """int64, (targets,): which sequence of the row it belongs to"""
    num_sequences: int
    num_tokens: int
    """Tokens computed, without padding."""

    def to(self, device: torch.device | str) -> ForestBatch:
        return replace(self, **_moved(self, device))


def _moved(value: Layout | ForestBatch, device: torch.device | str) -> dict[str, Any]:
    """The fields of `value` that lie on a device, moved to `device`."""
    return {
        field.name: getattr(value, field.name).to(device)
        for field in fields(value)
        if isinstance(getattr(value, field.name), (Tensor, Layout))
    }


def collate(
    trees: Iterable[tuple[Tree, list[Sequence]]],
    *,
    merge_targets: bool,
    weight_scale: float = 1.0,
    pad_to_multiple_of: int = 1,
    pad_token: int = 0,
) -> ForestBatch:
    """The micro-row of these trees; sequences are numbered through in the order given.

    `merge_targets` adds up the weights of a target that several sequences of a tree share (SFT); without it
    each sequence keeps its own (preference losses). Every weight is the sequence's times `weight_scale`. No
    tree at all gives a row of one token whose single target weighs nothing, so that a rank without work still
    takes part.
    """
    input_ids: list[IntArray] = []
    position_ids: list[IntArray] = []
    subtree_end: list[IntArray] = []
    run_start: list[IntArray] = []
    run_keys: list[IntArray] = []
    targets: list[tuple[IntArray, IntArray, np.ndarray, IntArray]] = []
    offset = num_sequences = 0
    for tree, sequences in trees:
        input_ids.append(tree.input_ids)
        position_ids.append(tree.position_ids)
        subtree_end.append(tree.subtree_end + offset)
        run_start.append(tree.run_start + offset)
        run_keys.extend(keys + offset for keys in tree.run_keys)
        position, token, weight, sequence = _targets(tree, sequences, merge_targets)
        targets.append((position + offset, token, weight * weight_scale, sequence + num_sequences))
        offset += tree.num_tokens
        num_sequences += len(sequences)
    num_tokens = offset
    if not input_ids:
        one = np.zeros(1, dtype=np.int64)
        input_ids, position_ids, subtree_end = [one + pad_token], [one], [one + 1]
        run_start, run_keys = [one], [one]
        targets = [(one, one + pad_token, np.zeros(1), one)]
        offset, num_sequences = 1, 1
    padding = -offset % pad_to_multiple_of
    if padding:
        alone = np.arange(offset, offset + padding, dtype=np.int64)
        input_ids.append(np.full(padding, pad_token, dtype=np.int64))
        position_ids.append(np.zeros(padding, dtype=np.int64))
        subtree_end.append(alone + 1)
        run_start.append(alone)
        run_keys.extend(alone[index : index + 1] for index in range(padding))
    columns = [torch.from_numpy(np.concatenate(column)) for column in zip(*targets, strict=True)]
    return ForestBatch(
        input_ids=torch.from_numpy(np.concatenate(input_ids)),
        position_ids=torch.from_numpy(np.concatenate(position_ids)),
        subtree_end=torch.from_numpy(np.concatenate(subtree_end)),
        layout=_layout(np.concatenate(run_start), run_keys, offset + padding),
        target_position=columns[0],
        target_token=columns[1],
        target_weight=columns[2].to(torch.float32),
        target_sequence=columns[3],
        num_sequences=num_sequences,
        num_tokens=num_tokens,
    )


def _targets(
    tree: Tree, sequences: list[Sequence], merge: bool
) -> tuple[IntArray, IntArray, np.ndarray, IntArray]:
    """Positions, tokens, weights and sequence numbers of a tree's targets, in sequence order."""
    positions, tokens, weights, owners = [], [], [], []
    for number, (sequence, path) in enumerate(zip(sequences, tree.path, strict=True)):
        scored = np.flatnonzero(sequence.is_target)
        scored = scored[scored > 0]
        positions.append(path[scored - 1])
        tokens.append(tree.input_ids[path[scored]])
        weights.append(np.full(len(scored), sequence.weight))
        owners.append(np.full(len(scored), number, dtype=np.int64))
    position, token = np.concatenate(positions), np.concatenate(tokens)
    weight, owner = np.concatenate(weights), np.concatenate(owners)
    if not merge or len(sequences) == 1:
        return position, token, weight, owner
    # Within a tree, the state and the token it predicts name one trie token, so equal pairs are one shared
    # target.
    _, first, inverse = np.unique(np.stack([position, token]), axis=1, return_index=True, return_inverse=True)
    total = np.zeros(len(first))
    np.add.at(total, inverse.ravel(), weight)
    order = np.argsort(first, kind="stable")
    return position[first][order], token[first][order], total[order], owner[first][order]


def _layout(run_start: IntArray, run_keys: list[IntArray], num_tokens: int) -> Layout:
    cu_q = np.append(run_start, num_tokens)
    cu_k = np.concatenate([[0], np.cumsum([len(keys) for keys in run_keys])])
    keys = np.concatenate(run_keys)
    is_plain = len(keys) == num_tokens and bool((keys == np.arange(num_tokens)).all())
    return Layout(
        cu_q=torch.from_numpy(cu_q.astype(np.int32)),
        cu_k=torch.from_numpy(cu_k.astype(np.int32)),
        key_index=None if is_plain else torch.from_numpy(keys.astype(np.int32)),
        bounds=tuple(
            zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), cu_k[:-1].tolist(), cu_k[1:].tolist(), strict=True)
        ),
        max_q=int(np.diff(cu_q).max()),
        max_k=int(np.diff(cu_k).max()),
    )
