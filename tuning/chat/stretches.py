"""Text -> tokens of a Unigram model, a stretch at a time, remembering every stretch.

    text        次▁の▁質問に答えてください。▁The▁answer
    stretches   [次][▁の][▁質問に][答えてください。][▁The][▁answer]         each tokenised once

A path through a Unigram lattice cannot cross between two neighbouring characters that no piece of the
vocabulary holds side by side. What lies between two such places is tokenised by itself, and since people
repeat themselves, mostly from memory.

Where two paths share the best score, the model's choice hangs on rounding, and that on everything that stands
before; a row with such a stretch is given to the tokenizer whole. To find every such stretch takes scores
that add up without rounding: multiples of 2^-24, as the float32 scores of SentencePiece are (but for the last
bit, in which tokenizers misreads some: the cause of those choices). Two sums that differ then differ by 2^-24
at least, and the model's own float64 sums by less than that from the true ones: in a row of `max_characters`
none reaches 2^22, where an addition errs by 2^-32, and two paths through a stretch are 128 additions at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from .viterbi import Pieces

UNKNOWN_PENALTY = 10.0
"""What a character without a piece costs more than the rarest piece: `K_UNK_PENALTY` of tokenizers."""

MAX_STRETCH = 64
"""Characters; a longer stretch is given to the tokenizer with its whole row."""

MAX_REMEMBERED = 200_000
"""Stretches, about 40 MB; then memory starts anew."""

_GRID = 2.0**24
_MISREAD = 2.0**-40
_LARGEST_SUM = 2.0**22
_PAIR_BITS = 22


class Normalised(NamedTuple):
    """A row's text behind the tokenizer's normalizer, and where its control tokens stand in it."""

    text: str
    controls: list[tuple[int, int]]


class Stretches:
    """A Unigram tokenizer with byte pieces and without offsets, for rows of text."""

    def __init__(
        self, whole: Tokenizer, vocabulary: Sequence[tuple[str, float]], controls: Mapping[str, int]
    ) -> None:
        """`whole` encodes normalised text with its control tokens; `vocabulary` is the model's, which
        `can_be_remembered`."""
        self._whole = whole
        scores = {piece: _on_grid(score) for piece, score in vocabulary}
        unknown = min(scores.values()) - UNKNOWN_PENALTY
        self.max_characters = int(_LARGEST_SUM / max(abs(unknown), *map(abs, scores.values())))
        self._pieces = Pieces(scores, {piece: id for id, (piece, _) in enumerate(vocabulary)}, unknown)
        self._is_joined = _pairs_within(scores)
        self._controls = controls
        self.forget()

    def forget(self) -> None:
        """Makes the next rows as dear as the first ones."""
        self._number = {text: number for number, text in enumerate(self._controls, start=1)}
        """The stretches that are remembered; 0 stands for those whose ids depend on the row."""
        self._ids = np.array([*self._controls.values()], dtype=np.int32)
        self._ends = np.arange(len(self._controls) + 1)
        """Where the ids of stretch n end, which begin where those of the one before end."""

    def encode(self, rows: Sequence[Normalised]) -> tuple[np.ndarray, list[int]]:
        """The ids of all rows, int32 (tokens,), and where in them each row ends."""
        text = "".join(row.text for row in rows)
        row_ends = list(itertools.accumulate(len(row.text) for row in rows))
        cuts = self._cuts(text, rows, row_ends)
        numbers = self._numbers([text[start:end] for start, end in itertools.pairwise(cuts.tolist())])
        starts, ends = self._ends[numbers - 1], self._ends[numbers]
        widths = np.where(numbers > 0, ends - starts, 0)
        width_so_far = np.concatenate([[0], np.cumsum(widths)])
        tokens = self._ids[np.repeat(starts - width_so_far[:-1], widths) + np.arange(width_so_far[-1])]
        stretch_ends = np.searchsorted(cuts, row_ends)
        undecided = {*np.searchsorted(stretch_ends, np.flatnonzero(numbers == 0), side="right").tolist()}
        undecided |= {at for at, row in enumerate(rows) if len(row.text) > self.max_characters}
        return self._with_whole_rows(rows, undecided, tokens, width_so_far[stretch_ends])

    def _with_whole_rows(
        self, rows: Sequence[Normalised], undecided: set[int], tokens: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, list[int]]:
        if undecided:
            parts = np.split(tokens, ends[:-1])
            for at in undecided:
                whole = self._whole.encode(rows[at].text, add_special_tokens=False).ids
                parts[at] = np.array(whole, dtype=np.int32)
            tokens, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])
        return tokens, ends.tolist()

    def _cuts(self, text: str, rows: Sequence[Normalised], row_ends: Sequence[int]) -> np.ndarray:
        """int64, (stretches + 1,): where a stretch begins or ends, in characters."""
        characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        is_cut = np.ones(len(characters) + 1, dtype=bool)
        is_cut[1:-1] = ~self._is_joined[_pair(characters[:-1], characters[1:])]
        row_start = 0
        for row, row_end in zip(rows, row_ends, strict=True):
            for start, end in row.controls:
                is_cut[row_start + start : row_start + end] = False
                is_cut[row_start + start] = is_cut[row_start + end] = True
            is_cut[row_end] = True
            row_start = row_end
        return np.flatnonzero(is_cut)

    def _numbers(self, stretches: Sequence[str]) -> np.ndarray:
        """int64, (stretches,): where each is remembered; new ones are learned."""
        if len(self._number) > MAX_REMEMBERED:
            self.forget()
        known = map(self._number.get, stretches, itertools.repeat(-1))
        numbers = np.fromiter(known, dtype=np.int64, count=len(stretches))
        unknown = np.flatnonzero(numbers < 0).tolist()
        if unknown:
            short = {stretches[at] for at in unknown if len(stretches[at]) <= MAX_STRETCH}
            if short:
                self._learn(short)
            numbers[unknown] = [self._number.get(stretches[at], 0) for at in unknown]
        return numbers

    def _learn(self, stretches: Collection[str]) -> None:
        ids, widths = self._pieces.best_paths(stretches)
        spelled = [self._byte_ids(chr(-1 - unknown)) for unknown in ids[ids < 0].tolist()]
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids < 0] = [len(byte_ids) for byte_ids in spelled]
        is_byte = np.repeat(ids < 0, repeats)
        all_ids = np.repeat(ids, repeats).astype(np.int32)
        all_ids[is_byte] = list(itertools.chain.from_iterable(spelled))
        ends = np.concatenate([[0], np.cumsum(repeats)])[np.cumsum(widths)]
        is_decided = widths > 0
        numbers = np.where(is_decided, len(self._ends) - 1 + np.cumsum(is_decided), 0)
        self._number.update(zip(stretches, numbers.tolist(), strict=True))
        self._ends = np.concatenate([self._ends, len(self._ids) + ends[is_decided]])
        self._ids = np.concatenate([self._ids, all_ids])

    def _byte_ids(self, character: str) -> list[int]:
        found = (self._whole.token_to_id(f"<0x{value:02X}>") for value in character.encode())
        return [byte_id for byte_id in found if byte_id is not None]


def can_be_remembered(vocabulary: Iterable[tuple[str, float]]) -> bool:
    """Whether the scores lie on the grid, so that they add up without rounding, and no piece holds the NUL
    that `_pairs_within` sets between them."""
    return all(abs(score - _on_grid(score)) < _MISREAD and "\0" not in piece for piece, score in vocabulary)


def _on_grid(score: float) -> float:
    return round(score * _GRID) / _GRID


def _pairs_within(pieces: Iterable[str]) -> np.ndarray:
    """bool, (2^22,): at `_pair` of two characters, whether a piece may hold them side by side. Other pairs
    that fall on the same place only make a stretch longer."""
    characters = np.frombuffer("\0".join(pieces).encode("utf-32-le"), dtype=np.uint32)
    first, second = characters[:-1], characters[1:]
    is_joined = np.zeros(2**_PAIR_BITS, dtype=bool)
    is_joined[_pair(first, second)[(first != 0) & (second != 0)]] = True
    return is_joined


def _pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint32: where two neighbouring characters stand in a table of 2^22, by Fibonacci hashing (Knuth,
    volume 3, section 6.4)."""
    return ((first * np.uint32(40503) + second) * np.uint32(2654435769)) >> np.uint32(32 - _PAIR_BITS)
