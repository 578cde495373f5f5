"""Ids put together from remembered stretches are those of the whole row."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models

from tuning.chat import stretches
from tuning.chat.stretches import Normalised, Stretches, can_be_remembered

CONTROLS = {"</s>": 1}
ALPHABET = "ab▁の。𠮷é"

PIECES = st.dictionaries(
    st.text(st.sampled_from(ALPHABET), min_size=1, max_size=4),
    # Few different scores, so that many words have two best paths.
    st.integers(-16, -1).map(lambda score: score / 2),
    min_size=1,
    max_size=20,
)
TEXTS = st.lists(st.text(st.sampled_from(ALPHABET + "z\n\0"), max_size=30), min_size=1, max_size=6)


class Recording:
    """A tokenizer that notes which texts it was given whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        self.texts.append(text)
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def token_to_id(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)


def float32(score: float) -> float:
    return float(struct.unpack("f", struct.pack("f", score))[0])


def made(pieces: dict[str, float]) -> tuple[Recording, Stretches]:
    vocabulary = [("<unk>", 0.0), *((token, 0.0) for token in CONTROLS)]
    vocabulary += [(f"<0x{value:02X}>", 0.0) for value in range(256)]
    vocabulary += [*pieces.items()]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROLS])
    recording = Recording(tokenizer)
    assert can_be_remembered(vocabulary)
    return recording, Stretches(recording, vocabulary, CONTROLS)  # type: ignore[arg-type]


def rows_of(texts: list[str]) -> list[Normalised]:
    """Each text with a control token before, in its middle and behind."""
    rows = []
    for text in texts:
        half = len(text) // 2
        ends = (4, 8 + half, 12 + len(text))
        row = f"</s>{text[:half]}</s>{text[half:]}</s>"
        rows.append(Normalised(row, [(end - 4, end) for end in ends]))
    return rows


def assert_equals_whole_rows(whole: Recording, fast: Stretches, rows: list[Normalised]) -> None:
    tokens, ends = fast.encode(rows)
    starts = [0, *ends[:-1]]
    for row, start, end in zip(rows, starts, ends, strict=True):
        assert tokens[start:end].tolist() == whole.encode(row.text, add_special_tokens=False).ids
    assert ends[-1] == len(tokens)


@given(PIECES, TEXTS)
def test_random_texts_under_random_vocabularies_equal_whole_rows(
    pieces: dict[str, float], texts: list[str]
) -> None:
    whole, fast = made(pieces)
    for _ in range(2):  # the second time from memory
        assert_equals_whole_rows(whole, fast, rows_of(texts))


def test_the_best_path_is_found_by_stretches_alone() -> None:
    # ab▁a: ab + ▁a is -1.5 - 2, a + b + ▁ + a is -4, so [ab][▁a]; no piece holds b▁, which is the cut.
    whole, fast = made({"a": -1.0, "b": -1.0, "▁": -1.0, "ab": -1.5, "▁a": -1.5})
    tokens, ends = fast.encode([Normalised("ab▁a", [])])
    assert [whole.token_to_id(piece) for piece in ("ab", "▁a")] == tokens.tolist()
    assert ends == [2]
    assert whole.texts == []


def test_only_rows_with_two_best_paths_are_given_to_the_tokenizer_whole() -> None:
    # ab is -2, and so are a + b.
    whole, fast = made({"a": -1.0, "b": -1.0, "ab": -2.0, "▁": -1.0})
    fast.encode([Normalised("a▁b", []), Normalised("a▁ab▁b", []), Normalised("b▁", [])])
    assert whole.texts == ["a▁ab▁b"]


def test_a_tie_that_the_best_path_does_not_take_is_no_tie() -> None:
    # abc is -1; ab has two best paths, but ab + c is -3.
    whole, fast = made({"a": -1.0, "b": -1.0, "c": -1.0, "ab": -2.0, "abc": -1.0})
    assert fast.encode([Normalised("abc", [])])[0].tolist() == [whole.token_to_id("abc")]
    assert whole.texts == []


def test_ties_that_rounding_decides_are_decided_as_in_the_whole_row() -> None:
    # o|oo and oo|o, with scores misread by their last bit: which wins depends on how often z stands before.
    o, oo = math.nextafter(float32(-9.9), 0), math.nextafter(float32(-11.7), -99)
    whole, fast = made({"z": math.nextafter(float32(-7.3), 0), "o": o, "oo": oo})
    rows = [Normalised("z" * length + "ooo", []) for length in range(40)]
    cuts = {tuple(whole.encode(row.text, add_special_tokens=False).ids[-2:]) for row in rows}
    assert len(cuts) == 2
    assert_equals_whole_rows(whole, fast, rows)


def test_unknown_characters_become_their_bytes() -> None:
    whole, fast = made({"a": -1.0})
    row = Normalised("a𠮷\na", [])
    expected = [f"<0x{value:02X}>" for value in "𠮷\n".encode()]
    names = ["a", *expected, "a"]
    assert fast.encode([row])[0].tolist() == [whole.token_to_id(name) for name in names]
    assert whole.texts == []


def test_what_no_bound_covers_is_given_to_the_tokenizer_whole() -> None:
    whole, fast = made({"a": -(2.0**20), "aa": -1.0, "b": -1.0})
    assert fast.max_characters == 3  # 2^22 nats at 2^20 + 10 each
    rows = [Normalised(text, []) for text in ("b" * 3, "b" * 4, "a" * 65)]
    assert_equals_whole_rows(whole, fast, rows)
    assert whole.texts[:2] == ["b" * 4, "a" * 65]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "MAX_REMEMBERED", 10)
    whole, fast = made({"a": -1.0, "▁": -2.0, "ab": -1.5})
    for number in range(60):
        rows = rows_of([f"ab▁{chr(0x4E00 + number)}▁{chr(0x5E00 + number)}"])
        assert_equals_whole_rows(whole, fast, rows)
        assert len(fast._number) <= 10 + 8  # and the stretches of one call


def test_scores_that_round_when_added_are_refused() -> None:
    assert can_be_remembered([("a", -9.5), ("b", float32(-9.9)), ("c", math.nextafter(float32(-9.9), 0))])
    assert not can_be_remembered([("a", -9.9)])
    assert not can_be_remembered([("a\0", -1.0)])
