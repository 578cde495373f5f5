"""What an answer can be rewarded for, as pure functions of it: a number, 1 for what is wanted.

Answers come as `tuning.evaluate` reads them: outer white space removed, without the end token.
"""

from __future__ import annotations

import re


def length_band(num_tokens: int, *, shortest: int | None = None, longest: int | None = None) -> float:
    """1 for an answer of `shortest` to `longest` tokens (None = no bound), less the further it is outside.

    Below the band it is the share of the shortest length, so 0 for no token at all; above it falls at the
    same pace to 0 at twice the longest length. Everywhere there is a slope to climb.
    """
    if shortest is not None and num_tokens < shortest:
        return num_tokens / shortest
    if longest is not None and num_tokens > longest:
        return max(0.0, 2.0 - num_tokens / longest)
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
