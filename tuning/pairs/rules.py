"""The rules of `tuning.rewards` as a command line names them, each a number between 0 and 1 for one answer.

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
from tuning.rewards import length_band, loop_free, pattern_found, same_script, stopped

DEFAULT_LENGTH = (20, 2000)


@dataclass(frozen=True)
class Rule:
    """A named function of (question, answer, whether the answer stopped by itself)."""

    name: str
    score: Callable[[str, str, bool], float]


def rule_of(name: str, value: str | None) -> Rule:
    """The rule behind `name=value`; raises `BuilderError`."""
    if name == "length":
        shortest, longest = _band(value)
        return Rule(
            name, lambda _, answer, __: length_band(len(answer.strip()), shortest=shortest, longest=longest)
        )
    if name in ("forbids", "requires"):
        return Rule(f"{name} {value}", _matching(name, value))
    simple: dict[str, Callable[[str, str, bool], float]] = {
        "stops": lambda _, __, is_finished: stopped(is_finished),
        "language": lambda question, answer, _: same_script(question, answer),
        "no_loop": lambda _, answer, __: loop_free(answer),
    }
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
    pattern = value[1:-1]
    try:
        re.compile(pattern)
    except re.error as error:
        raise BuilderError(f"score: {name}={value}: {error}", code="bad_rule") from None
    if name == "requires":
        return lambda _, answer, __: pattern_found(answer, pattern)
    return lambda _, answer, __: 1.0 - pattern_found(answer, pattern)
