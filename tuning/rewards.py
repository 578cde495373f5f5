"""What an answer can be rewarded for, as pure functions of it: a number from 0 to 1, 1 for what is wanted.

GRPO learns from these and `tuning pairs build` chooses pairs by them. Answers come as `tuning.evaluate` reads
them: outer white space removed, without the end token.
"""

from __future__ import annotations

import re

from data_builders.translation.flags import KANA, LATIN, LOOP_CHARACTERS, SCRIPTS, repetition
from data_builders.translation.protected import prose_of

LEAST_KANA = 0.1
"""Share of kana among the letters of a Japanese text, which may quote many Latin names."""
CHINESE_LETTERS = 12
"""Fewer ideographs without kana may be a Japanese name or word."""


def length_band(length: int, *, shortest: int | None = None, longest: int | None = None) -> float:
    """1 for an answer of `shortest` to `longest` tokens or characters (None = no bound), else the smaller of
    the two over the larger: half or twice the length that is allowed is 0.5.

    Everywhere outside the band there is a slope to climb.
    """
    if shortest is not None and length < shortest:
        return length / shortest
    if longest is not None and length > longest:
        return longest / length
    return 1.0


def stopped(has_end_token: bool) -> float:
    """1 for an answer that ended by itself, 0 for one that was cut at the limit of tokens."""
    return float(has_end_token)


def exact_match(answer: str, expected: str) -> float:
    """1 for the expected text, outer white space aside, else 0."""
    return float(answer.strip() == expected.strip())


def pattern_found(answer: str, pattern: str) -> float:
    """1 where the regular expression is found somewhere in the answer, else 0; `^` and `$` are the answer's
    own ends."""
    return float(re.search(pattern, answer) is not None)


def same_script(question: str, answer: str) -> float:
    """1 if both are in one script, or one has no letters; German and English are not told apart."""
    asked, answered = script_of(question), script_of(answer)
    return float(asked is None or answered is None or asked == answered)


def loop_free(answer: str) -> float:
    """One minus the share of repeated 12-grams of characters; 0 for a phrase that goes round, as a decoder's
    end does."""
    repeated, loop = repetition(answer)
    return 0.0 if loop >= LOOP_CHARACTERS else 1.0 - repeated


def script_of(text: str) -> str | None:
    """The language of a text's script, code left out: `ja` once there are kana, `latin` for all of Europe.

    None for a text without letters, and for a few ideographs, which may be Chinese or Japanese.
    """
    prose = prose_of(text)
    num_letters = sum(map(str.isalpha, prose))
    if not num_letters:
        return None
    if len(KANA.findall(prose)) >= LEAST_KANA * num_letters:
        return "ja"
    for code in ("zh", "ko", "ru", "th", "ar"):
        if 2 * len(SCRIPTS[code].findall(prose)) > num_letters:
            return None if code == "zh" and num_letters < CHINESE_LETTERS else code
    return "latin" if LATIN.search(prose) else None
