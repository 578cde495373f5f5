"""The exact global batch of a step, divided by tokens over ranks and micro-steps."""

from __future__ import annotations

import heapq
import math


def partition(sizes: list[int], num_ranks: int, budget: int) -> list[list[list[int]]]:
    """Which trees each rank computes in each micro-step: `result[rank][micro_step]` lists indices into
    `sizes`.

    `sizes` are tokens per tree, `budget` the most tokens of one micro-row. A tree larger than the budget runs
    alone. Every rank gets equally many micro-rows (some may be empty), as few as the budget allows, of nearly
    equal size. The division changes neither loss nor gradient; it depends on its arguments only.
    """
    if num_ranks < 1 or budget < 1:
        raise ValueError(f"num_ranks and budget are at least 1, saw {num_ranks} and {budget}")
    # An oversized tree fills one row, however large it is.
    micro_steps = max(1, math.ceil(sum(min(size, budget) for size in sizes) / (num_ranks * budget)))
    while True:
        bins = _longest_first(sizes, num_ranks * micro_steps)
        if all(len(items) <= 1 or sum(sizes[item] for item in items) <= budget for items in bins):
            break
        micro_steps += 1
    # Bins of similar size run in the same micro-step, so that ranks wait for each other as little as
    # possible.
    bins.sort(key=lambda items: (-sum(sizes[item] for item in items), items))
    return [
        [sorted(bins[step * num_ranks + rank]) for step in range(micro_steps)] for rank in range(num_ranks)
    ]


def _longest_first(sizes: list[int], num_bins: int) -> list[list[int]]:
    """Longest-processing-time packing: the next largest tree goes to the emptiest bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    heap = [(0, index) for index in range(num_bins)]
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        load, index = heapq.heappop(heap)
        bins[index].append(item)
        heapq.heappush(heap, (load + sizes[item], index))
    return bins
