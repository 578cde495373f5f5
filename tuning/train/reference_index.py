"""Which sequences a reference store knows: sorted arrays, merged as they grow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tuning.train.reference_shards import Keys

Run = tuple[Keys, NDArray[np.float64], NDArray[np.int64] | None]
"""Sorted keys, their sums, the places of their values per token."""


class Index:
    """Key -> (sum, place of the values per token). A key that comes twice keeps what came first.

    A few sorted runs, each at least twice as long as the next: finding is a binary search in each of them,
    adding costs no sort of everything, and a row takes 24 bytes (32 with places).
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def __len__(self) -> int:
        return sum(len(keys) for keys, _, _ in self._runs)

    def find(self, keys: Keys) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
        """(is it known, its sum, its place) of each key; sum and place mean nothing where it is not known."""
        is_known = np.zeros(len(keys), dtype=np.bool_)
        sums = np.zeros(len(keys), dtype=np.float64)
        places = np.zeros(len(keys), dtype=np.int64)
        for run_keys, run_sums, run_places in self._runs:
            at = np.minimum(np.searchsorted(run_keys, keys), len(run_keys) - 1)
            is_here = run_keys[at] == keys
            is_known |= is_here
            sums[is_here] = run_sums[at[is_here]]
            if run_places is not None:
                places[is_here] = run_places[at[is_here]]
        return is_known, sums, places

    def add(self, keys: Keys, sums: NDArray[np.float64], places: NDArray[np.int64] | None) -> None:
        """Takes up rows, except those that are known."""
        _, first = np.unique(keys, return_index=True)
        first = first[~self.find(keys[first])[0]]
        if not len(first):
            return
        self._runs.append((keys[first], sums[first], None if places is None else places[first]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_merged(*self._runs[-2:])]


def _merged(one: Run, other: Run) -> Run:
    keys = np.concatenate([one[0], other[0]])
    order = np.argsort(keys, kind="stable")
    sums = np.concatenate([one[1], other[1]])[order]
    if one[2] is None or other[2] is None:
        return keys[order], sums, None
    return keys[order], sums, np.concatenate([one[2], other[2]])[order]
