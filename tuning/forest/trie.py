"""Token sequences of one group merged into a trie and laid out depth first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Sequence:
    """One encoded conversation, or one side of a pair."""

    input_ids: NDArray[np.int32]
    """(tokens,)"""
    is_target: NDArray[np.bool_]
    """(tokens,): whether token t is predicted (from token t - 1) and scored. Token 0 never is: nothing
    precedes it."""
    weight: float = 1.0


@dataclass(frozen=True)
class Tree:
    """The trie of a group as one flat stretch of tokens. Positions count from the start of this stretch."""

    input_ids: IntArray
    """(tokens,), depth first: a node's run of tokens, then its children in order of first appearance."""
    position_ids: IntArray
    """(tokens,): number of tokens before this one on its path."""
    subtree_end: IntArray
    """(tokens,): exclusive end of the stretch that descends from the token."""
    run_start: IntArray
    """(runs,): a run is a node followed by its first child, that child's first child and so on."""
    run_keys: tuple[IntArray, ...]
    """Per run, the positions of the path before it and then the run itself: what its last query sees."""
    path: tuple[IntArray, ...]
    """Per sequence, the positions of its tokens."""

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


def grow(sequences: list[Sequence]) -> Tree:
    """The tree (or trees: nothing need be shared) of a group.

    Common prefixes are merged by token equality alone, so a tree's tokens are at most the sum of its
    sequences'. Raises `ValueError` for an empty sequence, which has nothing to predict from.
    """
    if any(len(sequence.input_ids) == 0 for sequence in sequences):
        raise ValueError("an empty sequence cannot be laid out")
    ids = [np.asarray(sequence.input_ids, dtype=np.int64) for sequence in sequences]
    if len(ids) == 1:
        return _path(ids[0])
    tokens: list[IntArray] = []
    depths: list[IntArray] = []
    ends: list[tuple[int, int]] = []  # (start of a node, exclusive end of its run); subtree ends follow below
    run_start: list[int] = []
    run_before: list[IntArray] = []
    pieces: list[list[IntArray]] = [[] for _ in ids]
    subtree_end_of_node: list[int] = []
    cursor = 0

    def visit(members: list[int], depth: int, before: list[IntArray], opens_run: bool) -> None:
        nonlocal cursor
        length = _common_prefix([ids[member][depth:] for member in members])
        start, cursor = cursor, cursor + length
        here = np.arange(start, cursor, dtype=np.int64)
        tokens.append(ids[members[0]][depth : depth + length])
        depths.append(np.arange(depth, depth + length, dtype=np.int64))
        ends.append((start, cursor))
        subtree_end_of_node.append(0)
        node = len(subtree_end_of_node) - 1
        for member in members:
            pieces[member].append(here)
        if opens_run:
            run_start.append(start)
            run_before.append(np.concatenate(before) if before else np.empty(0, dtype=np.int64))
        path = [*before, here]
        for order, children in enumerate(_split(ids, members, depth + length)):
            visit(children, depth + length, path, opens_run=order > 0)
        subtree_end_of_node[node] = cursor

    for members in _split(ids, list(range(len(ids))), 0):
        visit(members, 0, [], opens_run=True)

    subtree_end = np.empty(cursor, dtype=np.int64)
    for (start, stop), end in zip(ends, subtree_end_of_node, strict=True):
        subtree_end[start:stop] = end
    run_stop = [*run_start[1:], cursor]
    return Tree(
        input_ids=np.concatenate(tokens),
        position_ids=np.concatenate(depths),
        subtree_end=subtree_end,
        run_start=np.asarray(run_start, dtype=np.int64),
        run_keys=tuple(
            np.concatenate([before, np.arange(start, stop, dtype=np.int64)])
            for before, start, stop in zip(run_before, run_start, run_stop, strict=True)
        ),
        path=tuple(np.concatenate(parts) for parts in pieces),
    )


def _path(ids: IntArray) -> Tree:
    """The tree of one sequence, which most groups are: what `grow` would make, without its search."""
    places = np.arange(len(ids), dtype=np.int64)
    return Tree(
        input_ids=ids,
        position_ids=places,
        subtree_end=np.full(len(ids), len(ids), dtype=np.int64),
        run_start=np.zeros(1, dtype=np.int64),
        run_keys=(places,),
        path=(places,),
    )


def _common_prefix(tails: list[IntArray]) -> int:
    """Number of tokens that all tails begin with."""
    first = tails[0]
    length = min(len(tail) for tail in tails)
    for tail in tails[1:]:
        differs = np.flatnonzero(first[:length] != tail[:length])
        if len(differs):
            length = int(differs[0])
    return length


def _split(ids: list[IntArray], members: list[int], depth: int) -> list[list[int]]:
    """The members that go on at `depth`, grouped by their next token in order of first appearance."""
    children: dict[int, list[int]] = {}
    for member in members:
        if depth < len(ids[member]):
            children.setdefault(int(ids[member][depth]), []).append(member)
    return list(children.values())
