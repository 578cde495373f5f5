"""The trie, its layout and its targets against the definition: what a token's path says it may see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning.forest import Sequence, grow, partition
from tuning.forest.batch import ForestBatch, collate
from tuning.forest.mask import dense_mask

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=7)  # few symbols, so that prefixes are shared often


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    ids = draw(tokens)
    targets = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    weight = draw(st.sampled_from([1.0, 0.5, 3.0]))
    return Sequence(np.asarray(ids, dtype=np.int32), np.asarray(targets), weight)


groups = st.lists(sequences(), min_size=1, max_size=5)
forests = st.lists(groups, min_size=1, max_size=4)


def batch_of(forest: list[list[Sequence]], *, merge: bool, pad: int = 1) -> ForestBatch:
    return collate([(grow(group), group) for group in forest], merge_targets=merge, pad_to_multiple_of=pad)


@given(sequences())
def test_one_sequence_grows_into_the_tree_of_two_equal_ones(sequence: Sequence) -> None:
    one, two = grow([sequence]), grow([sequence, sequence])
    for name in ("input_ids", "position_ids", "subtree_end", "run_start"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()
        assert getattr(one, name).dtype == getattr(two, name).dtype
    assert [keys.tolist() for keys in one.run_keys] == [keys.tolist() for keys in two.run_keys]
    assert [path.tolist() for path in one.path] * 2 == [path.tolist() for path in two.path]


def paths_of(batch: ForestBatch) -> list[tuple[int, ...]]:
    """For each token the tokens from its root to it, followed through parents: the last token one position
    up."""
    ends, depths = batch.subtree_end.tolist(), batch.position_ids.tolist()
    paths: list[tuple[int, ...]] = []
    for index in range(len(ends)):
        parents = [p for p in range(index) if ends[p] > index and depths[p] == depths[index] - 1]
        assert len(parents) == (0 if depths[index] == 0 else 1)
        paths.append((*paths[parents[0]], index) if parents else (index,))
    return paths


def visible_by_layout(batch: ForestBatch) -> torch.Tensor:
    """What the runs of the layout let each query see, written out."""
    size = len(batch.input_ids)
    seen = torch.zeros(size, size, dtype=torch.bool)
    keys = batch.layout.key_index if batch.layout.key_index is not None else torch.arange(size)
    cu_q, cu_k = batch.layout.cu_q.tolist(), batch.layout.cu_k.tolist()
    for run in range(len(cu_q) - 1):
        queries, run_keys = range(cu_q[run], cu_q[run + 1]), keys[cu_k[run] : cu_k[run + 1]]
        for order, query in enumerate(queries):
            hidden = len(queries) - 1 - order
            seen[query, run_keys[: len(run_keys) - hidden].long()] = True
    return seen


@given(forests, st.sampled_from([1, 4, 8]))
@settings(max_examples=150, deadline=None)
def test_a_query_sees_its_path_and_nothing_else(forest: list[list[Sequence]], pad: int) -> None:
    batch = batch_of(forest, merge=False, pad=pad)
    expected = torch.zeros(len(batch.input_ids), len(batch.input_ids), dtype=torch.bool)
    for query, path in enumerate(paths_of(batch)):
        expected[query, list(path)] = True
    assert torch.equal(dense_mask(batch.subtree_end), expected)
    assert torch.equal(visible_by_layout(batch), expected)


@given(forests)
@settings(max_examples=100, deadline=None)
def test_nothing_leaks_between_trees(forest: list[list[Sequence]]) -> None:
    mask = dense_mask(batch_of(forest, merge=False).subtree_end)
    start = 0
    for group in forest:
        stop = start + grow(group).num_tokens
        assert not mask[start:stop, :start].any()
        assert not mask[start:stop, stop:].any()
        start = stop


@given(groups)
@settings(max_examples=150, deadline=None)
def test_every_sequence_is_a_path_of_its_tree(group: list[Sequence]) -> None:
    tree = grow(group)
    for sequence, path in zip(group, tree.path, strict=True):
        assert tree.input_ids[path].tolist() == sequence.input_ids.tolist()
        assert tree.position_ids[path].tolist() == list(range(len(path)))
    prefixes = {tuple(s.input_ids[: n + 1].tolist()) for s in group for n in range(len(s.input_ids))}
    assert tree.num_tokens == len(prefixes)  # merged exactly: one token per distinct prefix


@given(forests)
@settings(max_examples=150, deadline=None)
def test_every_target_appears_with_the_weight_that_its_sequences_give_it(
    forest: list[list[Sequence]],
) -> None:
    expected: dict[tuple[int, tuple[int, ...]], float] = {}
    for number, group in enumerate(forest):
        for sequence in group:
            for index in np.flatnonzero(sequence.is_target):
                if index > 0:
                    key = (number, tuple(sequence.input_ids[: index + 1].tolist()))
                    expected[key] = expected.get(key, 0.0) + sequence.weight
    batch = batch_of(forest, merge=True)
    paths, ids = paths_of(batch), batch.input_ids.tolist()
    bounds = np.cumsum([0, *(grow(group).num_tokens for group in forest)])
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    for position, token, weight in zip(
        batch.target_position.tolist(), batch.target_token.tolist(), batch.target_weight.tolist(), strict=True
    ):
        tree = int(np.searchsorted(bounds, position, side="right")) - 1
        key = (tree, (*(ids[p] for p in paths[position]), token))
        assert key not in found  # merged: each target once
        found[key] = weight
    assert found == pytest.approx(expected)


@given(forests)
@settings(max_examples=60, deadline=None)
def test_unmerged_targets_can_be_summed_by_sequence(forest: list[list[Sequence]]) -> None:
    batch = batch_of(forest, merge=False)
    counts = torch.bincount(batch.target_sequence, minlength=batch.num_sequences).tolist()
    assert counts == [int(s.is_target[1:].sum()) for group in forest for s in group]


def test_the_pair_of_the_module_picture_is_laid_out_as_drawn() -> None:
    pair = [
        Sequence(np.asarray([1, 2, 3, 4, 5], dtype=np.int32), np.arange(5) >= 3),
        Sequence(np.asarray([1, 2, 3, 6, 7, 8], dtype=np.int32), np.arange(6) >= 3),
    ]
    batch = batch_of([pair], merge=False)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert batch.subtree_end.tolist() == [8, 8, 8, 5, 5, 8, 8, 8]
    assert batch.layout.cu_q.tolist() == [0, 5, 8]  # [prompt chosen] and [rejected]
    assert batch.layout.key_index is not None
    assert batch.layout.key_index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7]
    # Position 2, the prompt's end, predicts the first token of both answers.
    assert batch.target_position.tolist() == [2, 3, 2, 5, 6]
    assert batch.target_token.tolist() == [4, 5, 6, 7, 8]
    assert batch.target_sequence.tolist() == [0, 0, 1, 1, 1]


def test_plain_packing_needs_no_key_index() -> None:
    path = [Sequence(np.asarray([1, 2], dtype=np.int32), np.asarray([False, True]))]
    assert batch_of([path, path], merge=True).layout.key_index is None


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="empty sequence"):
        grow([Sequence(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.bool_))])


def test_no_tree_gives_a_row_whose_only_target_weighs_nothing() -> None:
    batch = collate([], merge_targets=True)
    assert batch.num_tokens == 0
    assert batch.target_weight.tolist() == [0.0]


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 4), st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_a_partition_holds_each_tree_once_within_the_budget(
    sizes: list[int], ranks: int, budget: int
) -> None:
    parts = partition(sizes, ranks, budget)
    assert len(parts) == ranks
    assert len({len(part) for part in parts}) == 1  # every rank takes equally many micro-steps
    placed = [item for part in parts for row in part for item in row]
    assert sorted(placed) == list(range(len(sizes)))
    for part in parts:
        for row in part:
            assert len(row) <= 1 or sum(sizes[item] for item in row) <= budget


def test_a_tree_larger_than_the_budget_runs_alone() -> None:
    [rows] = partition([5, 100, 5], num_ranks=1, budget=10)
    assert [1] in rows
    assert sorted(map(sorted, rows)) == [[0, 2], [1]]
