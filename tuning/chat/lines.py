"""Text -> tokens without offsets, where every line break is one token of its own: LLM-jp's tokenizers.

    text        <s> \\n \\n ###指示: \\n 1+1は？ \\n \\n ###応答: \\n 2です </s>
    landmarks   0   1  2          3         4  5         6       7
    targets                                                2です </s>     behind landmark 6, up to 7

Offsets cost as much as the tokens themselves. A template whose headers end with a line break starts every
answer behind one, and line breaks and the template's control tokens can be counted in the text and in the
ids alike. The ids are those of the whole text, as `apply_chat_template` makes them: a line by itself would
not do, since a Unigram tokenizer that has two best paths through a word (`o|oo` and `oo|o`) takes the one
that rounding prefers, and rounding depends on all that stands before. What does not fit is left to
`tokens`, which is the slow twin of this file.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .rendering import Binding, Rendered
from .stretches import Normalised, Stretches, can_be_remembered

CHECKED_ROWS = 200
"""Rows of each binding that are also encoded the slow way; a difference switches this way off."""

_SPACE = "▁"
_NORMALIZERS = (
    {"type": "Replace", "pattern": {"Regex": "(?<!\\n)^"}, "content": _SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
    {"type": "Replace", "pattern": {"Regex": " "}, "content": _SPACE},
)
"""One ▁ before the text, and one for every space: `_normalised` does the same."""


class Lines:
    """The tokenizer of a binding, without offsets."""

    def __init__(
        self, binding: Binding, plain: Tokenizer, line_break: int, stretches: Stretches | None
    ) -> None:
        self.is_trusted = True
        self.unchecked = CHECKED_ROWS
        self._binding, self._plain, self.stretches = binding, plain, stretches
        self._is_landmark = np.zeros(plain.get_vocab_size(with_added_tokens=True), dtype=bool)
        self._is_landmark[[line_break, *binding.control_ids.values()]] = True

    def encode(self, rows: Sequence[Rendered]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Per row ids int32 and is_target bool, (tokens,), or None where it has to be encoded with
        offsets."""
        marks = [self._marks(row) for row in rows]
        # One array for all rows: what numpy does costs less than asking it to.
        tokens, ends = self._ids(
            [_normalised(row) for row, places in zip(rows, marks, strict=True) if places is not None]
        )
        is_target = np.zeros(len(tokens), dtype=bool)
        landmarks = np.flatnonzero(self._is_landmark[tokens]).tolist()
        stretches = iter(itertools.pairwise([0, *ends]))
        results: list[tuple[np.ndarray, np.ndarray] | None] = []
        at = 0
        for row, places in zip(rows, marks, strict=True):
            if places is None:
                results.append(None)
                continue
            start, end = next(stretches)
            following = bisect_left(landmarks, end, at)
            is_sound = following - at == row.text.count("\n") + len(row.controls)
            for first, behind, last in places if is_sound else []:
                is_target[landmarks[at + first] + behind : landmarks[at + last] + 1] = True
            results.append((tokens[start:end], is_target[start:end]) if is_sound else None)
            at = following
        return results

    def _ids(self, rows: Sequence[Normalised]) -> tuple[np.ndarray, list[int]]:
        """The ids of all rows, int32 (tokens,), and where in them each row ends."""
        if self.stretches is not None:
            return self.stretches.encode(rows)
        texts = [row.text for row in rows]
        ids = [found.ids for found in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
        ends = list(itertools.accumulate(map(len, ids)))
        return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=sum(ends[-1:])), ends

    def _marks(self, row: Rendered) -> list[tuple[int, int, int]] | None:
        """Each span as (a landmark, 1 if the span begins behind it and 0 if with it, the landmark that ends
        it), or None if it lies otherwise or a text spells a control token."""
        position = 0
        for start, end, _ in [*row.controls, (len(row.text), len(row.text), -1)]:
            piece = row.text[position:start]
            if "<" in piece and ("<0x" in piece or self._binding.controls.search(piece)):
                return None
            position = end
        begins = [start for start, _, _ in row.controls]
        ends = [end for _, end, _ in row.controls]
        marks = []
        for start, end in row.spans:
            before = row.text.count("\n", 0, start) + bisect_right(ends, start)
            last = row.text.count("\n", 0, end) + bisect_right(ends, end) - 1
            is_behind = start in ends or row.text[start - 1 : start] == "\n"
            if end not in ends or not (is_behind or start in begins):
                return None
            marks.append((before - is_behind, int(is_behind), last))
        return marks


def _normalised(row: Rendered) -> Normalised:
    """What the tokenizer's normalizer makes of the text between control tokens, which it does at a third of
    the cost of the tokens because it keeps track of every character."""
    parts: list[str] = []
    controls = []
    position = length = 0
    for start, end, _ in row.controls:
        if start > position:
            parts += [_SPACE, row.text[position:start].replace(" ", _SPACE)]
            length += 1 + start - position
        parts.append(row.text[start:end])
        controls.append((length, length + end - start))
        length += end - start
        position = end
    if position < len(row.text):
        parts += [_SPACE, row.text[position:].replace(" ", _SPACE)]
    return Normalised("".join(parts), controls)


def lines_of(binding: Binding) -> Lines | None:
    """The one `Lines` of a binding; None for a tokenizer or a control token that it cannot speak for."""
    if not binding.is_line_by_line_tried:
        binding.is_line_by_line_tried = True
        binding.lines = _lines(binding)
    return binding.lines


def _lines(binding: Binding) -> Lines | None:
    plan: dict[str, Any] = json.loads(binding.tokenizer.backend_tokenizer.to_str())
    model, normalizer = plan["model"], plan["normalizer"] or {}
    steps = normalizer.get("normalizers", [])
    added = binding.tokenizer.added_tokens_decoder.values()
    is_known_kind = (
        model["type"] == "Unigram"
        and model.get("byte_fallback")
        and plan["pre_tokenizer"] is None
        and len(steps) == 2
        and steps[0] == _NORMALIZERS[0]
        and steps[1] in _NORMALIZERS[1:]
        and not any("\n" in piece and piece != "\n" for piece, _ in model["vocab"])
        and all(str(token) in binding.control_ids for token in added)
        and all("<" in str(token) for token in added)
        and not any(token.lstrip or token.rstrip or token.normalized for token in added)
    )
    if not is_known_kind:
        return None
    plan["normalizer"] = plan["post_processor"] = plan["truncation"] = plan["padding"] = None
    copies = binding.copies
    if "without offsets" not in copies:
        copies["without offsets"] = Tokenizer.from_str(json.dumps(plan))
    plain: Tokenizer = copies["without offsets"]
    line_break = plain.encode("\n", add_special_tokens=False).ids
    if len(line_break) != 1:
        return None
    key = ("stretches", *sorted(binding.control_ids))
    if key not in copies:
        is_exact = can_be_remembered(model["vocab"])
        copies[key] = Stretches(plain, model["vocab"], binding.control_ids) if is_exact else None
    return Lines(binding, plain, line_break[0], copies[key])
