"""Rules that score an answer by itself: pure functions of question and answer, each between 0 and 1.

length=20..2000   1 within so many characters, below and above them in proportion
stops             1 if the answer ended by itself, 0 if the limit of tokens ended it
language          1 if the answer is in the script of the question's language
no_loop           the share of the answer that does not repeat itself; 0 once a phrase repeats
forbids=/REGEX/   0 if the regular expression is found in the answer
requires=/REGEX/  1 if it is found
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from data_builders.lines import BuilderError
from data_builders.translation.flags import KANA, LATIN, LOOP_CHARACTERS, SCRIPTS, repetition
from data_builders.translation.protected import prose_of

DEFAULT_LENGTH = (20, 2000)
LEAST_KANA = 0.1
"""Share of kana among the letters of a Japanese text, which may quote many Latin names."""
CHINESE_LETTERS = 12
"""Fewer ideographs without kana may be a Japanese name or word."""


@dataclass(frozen=True)
class Rule:
    """A named function of (question, answer, whether the answer stopped by itself)."""

    name: str
    score: Callable[[str, str, bool], float]


def length(least: int, greatest: int) -> Callable[[str, str, bool], float]:
    """1 for an answer of `least` to `greatest` characters; half or twice as long as allowed is 0.5."""

    def score(_: str, answer: str, __: bool) -> float:
        count = len(answer.strip())
        return count / least if count < least else min(1.0, greatest / max(count, 1))

    return score


def stops(_: str, __: str, is_finished: bool) -> float:
    """1 if the end token came before the limit."""
    return float(is_finished)


def language(question: str, answer: str, _: bool) -> float:
    """1 if both are in one script, or one has no letters; German and English are not told apart."""
    asked, answered = script_of(question), script_of(answer)
    return float(asked is None or answered is None or asked == answered)


def no_loop(_: str, answer: str, __: bool) -> float:
    """One minus the share of repeated 12-grams; 0 for a loop, such as a decoder's end."""
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


def rule_of(name: str, value: str | None) -> Rule:
    """The rule behind `name=value`; raises `BuilderError`."""
    if name == "length":
        return Rule(name, length(*_band(value)))
    if name in ("forbids", "requires"):
        return Rule(f"{name} {value}", _matching(name, value))
    simple = {"stops": stops, "language": language, "no_loop": no_loop}
    if name not in simple:
        known = "length, stops, language, no_loop, forbids=/REGEX/, requires=/REGEX/"
        raise BuilderError(f"score: no rule {name!r}; accepted: {known}", code="unknown_rule")
    if value is not None:
        raise BuilderError(f"score: {name}={value}: this rule takes no value", code="bad_rule")
    return Rule(name, simple[name])


def _band(value: str | None) -> tuple[int, int]:
    if value is None:
        return DEFAULT_LENGTH
    found = re.fullmatch(r"(\d+)\.\.(\d+)", value)
    if not found or not 0 < int(found[1]) <= int(found[2]):
        raise BuilderError(
            f"score: length={value}; accepted: characters such as length=20..2000", code="bad_rule"
        )
    return int(found[1]), int(found[2])


def _matching(name: str, value: str | None) -> Callable[[str, str, bool], float]:
    if value is None or len(value) < 3 or value[0] != "/" or value[-1] != "/":
        raise BuilderError(f"score: {name}={value}; accepted: {name}=/REGEX/", code="bad_rule")
    try:
        pattern = re.compile(value[1:-1])
    except re.error as error:
        raise BuilderError(f"score: {name}={value}: {error}", code="bad_rule") from None
    wanted = name == "requires"
    return lambda _, answer, __: float((pattern.search(answer) is not None) == wanted)
