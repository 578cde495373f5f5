"""The best paths through the Unigram lattices of many short texts at once, and whether each is the only one.

    places   0 h 1 u 2 g 3 s 4        edges: the pieces that match, here h, u, g, s, ug, gs, hug
    best     of a place is the greatest of  best[where the edge begins] + score of its piece   (Viterbi 1967)

All texts advance together, one character of each at a time, so that numpy does the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import numpy as np

_CHARACTER_BITS = 21


class Pieces:
    """The pieces of a vocabulary as a trie: an edge is the node it leaves and a character, in one number."""

    def __init__(self, scores: Mapping[str, float], ids: Mapping[str, int], unknown: float) -> None:
        """`unknown` is the score of a character that is no piece. No piece may hold NUL."""
        nodes = {"": 0}
        keys: list[int] = []
        for piece in scores:
            node = 0
            for length, character in enumerate(piece, start=1):
                parent, node = node, nodes.setdefault(piece[:length], len(nodes))
                if node == len(keys) + 1:
                    keys.append(parent << _CHARACTER_BITS | ord(character))
        in_order = np.argsort(np.array(keys, dtype=np.int64), kind="stable")
        self._keys = np.array(keys, dtype=np.int64)[in_order]
        self._node = in_order + 1
        # The last row stands for a character without a piece.
        self._score = np.full(len(nodes) + 1, -np.inf)
        self._id = np.full(len(nodes) + 1, -1, dtype=np.int64)
        at = [nodes[piece] for piece in scores]
        self._score[at] = list(scores.values())
        self._id[at] = [ids[piece] for piece in scores]
        self._score[-1] = unknown
        self._longest = max(map(len, scores))

    def best_paths(self, texts: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids on the best paths through texts that are not empty, int64 (tokens,), and how many belong to
        each, int64 (texts,): none where another path has the same score.

        -1 - c stands for a character c without a piece. Scores have to add up without rounding.
        """
        joined = "\0".join([*texts, ""])
        characters = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
        # A place is a character's index; a text ends at the NUL behind it.
        last = np.cumsum([len(text) + 1 for text in texts]) - 1
        first = np.concatenate([[0], last[:-1] + 1])
        begin, end, node = self._edges(characters, last)
        depth = np.arange(len(characters)) - np.repeat(first, last - first + 1)
        order = np.argsort(depth[end], kind="stable")
        begin, end, node = begin[order], end[order], node[order]
        best = np.full(len(characters), -np.inf)
        best[first] = 0.0
        edge_to, num_best = np.zeros((2, len(characters)), dtype=np.int64)
        levels = np.flatnonzero(np.diff(depth[end], prepend=0))
        for start, stop in itertools.pairwise([*levels.tolist(), len(end)]):
            to = end[start:stop]
            total = best[begin[start:stop]] + self._score[node[start:stop]]
            np.maximum.at(best, to, total)
            is_best = total == best[to]
            edge_to[to[is_best]] = np.flatnonzero(is_best) + start
            np.add.at(num_best, to[is_best], 1)
        ids = np.where(self._id[node] < 0, -1 - characters[begin], self._id[node])
        return self._paths(first, last, begin, ids, edge_to, num_best > 1)

    def _edges(self, characters: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each match of a piece begins and ends, and its node."""
        is_text = np.ones(len(characters), dtype=bool)
        is_text[last] = False
        begin = np.flatnonzero(is_text)
        node = np.zeros(len(begin), dtype=np.int64)
        unknown = is_text.copy()
        found = []
        for length in range(1, self._longest + 1):
            key = node << _CHARACTER_BITS | characters[begin + length - 1]
            place = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            is_there = self._keys[place] == key
            begin, node = begin[is_there], self._node[place[is_there]]
            is_piece = self._score[node] > -np.inf
            found.append((begin[is_piece], begin[is_piece] + length, node[is_piece]))
            if length == 1:
                unknown[begin[is_piece]] = False
        alone = np.flatnonzero(unknown)
        found.append((alone, alone + 1, np.full(len(alone), len(self._score) - 1)))
        begins, ends, nodes = zip(*found, strict=True)
        return np.concatenate(begins), np.concatenate(ends), np.concatenate(nodes)

    def _paths(
        self,
        first: np.ndarray,
        last: np.ndarray,
        begin: np.ndarray,
        ids: np.ndarray,
        edge_to: np.ndarray,
        is_tied: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The edges that lead to each text's end, followed back to its beginning."""
        text, place = np.arange(len(first)), last
        is_undecided = np.zeros(len(first), dtype=bool)
        texts, found = [text[:0]], [ids[:0]]
        while len(text):
            is_undecided[text] |= is_tied[place]
            edge = edge_to[place]
            texts.append(text)
            found.append(ids[edge])
            is_open = begin[edge] > first[text]
            text, place = text[is_open], begin[edge][is_open]
        text_of, ids = np.concatenate(texts[::-1]), np.concatenate(found[::-1])
        order = np.argsort(text_of, kind="stable")
        order = order[~is_undecided[text_of[order]]]
        return ids[order], np.bincount(text_of[order], minlength=len(first))
