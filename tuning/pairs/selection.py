"""Which two answers of a prompt become a pair: a pure function of their scores.

    best_worst    the highest against the lowest
    best_random   the highest against a random one that is lower by the margin
    all           every two that differ by the margin, the widest first

Of equal scores the earlier answer counts. An answer that the limit of tokens cut off would be trained on as
if it ended there, so by default it is never chosen: `unfinished` is `reject`, `keep` or `drop`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data_builders.lines import BuilderError
from data_builders.writing import KnownDrop

SELECTIONS = ("best_worst", "best_random", "all")
UNFINISHED = ("reject", "keep", "drop")


@dataclass(frozen=True)
class Scored:
    """An answer by its number, its final score, and whether it stopped by itself."""

    number: int
    score: float
    is_finished: bool = True


@dataclass(frozen=True)
class Selection:
    """How pairs are chosen; raises `BuilderError` for settings that mean nothing."""

    how: str = "best_worst"
    min_margin: float = 0.0
    unfinished: str = "reject"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, accepted in (
            ("select", self.how, SELECTIONS),
            ("unfinished", self.unfinished, UNFINISHED),
        ):
            if value not in accepted:
                raise BuilderError(f"{name}: saw {value!r}; accepted: {', '.join(accepted)}")
        if not self.min_margin >= 0:
            raise BuilderError(f"min_margin: saw {self.min_margin}; accepted: a number from 0")

    def pairs(self, answers: Sequence[Scored], prompt_id: str) -> list[tuple[Scored, Scored]]:
        """(chosen, rejected) pairs; raises `KnownDrop` with the reason why there are none.

        Two answers need a margin above 0 and of at least `min_margin`.
        """
        if self.unfinished == "drop":
            answers = [answer for answer in answers if answer.is_finished]
        if len(answers) < 2:
            raise KnownDrop("too_few_answers")
        may_win = [answer for answer in answers if answer.is_finished or self.unfinished == "keep"]
        if not may_win:
            raise KnownDrop("no_finished_answer")
        best_first = sorted(may_win, key=lambda answer: (-answer.score, answer.number))
        lower = [
            (chosen, rejected)
            for chosen in (best_first if self.how == "all" else best_first[:1])
            for rejected in answers
            if rejected.score < chosen.score
        ]
        if not lower:
            raise KnownDrop("tie" if len({answer.score for answer in answers}) == 1 else "best_is_unfinished")
        wide = [pair for pair in lower if margin(*pair) >= self.min_margin]
        if not wide:
            raise KnownDrop("small_margin")
        if self.how == "best_random":
            return [random.Random(f"{self.seed}/{prompt_id}").choice(wide)]
        wide.sort(key=lambda pair: (-margin(*pair), pair[0].number, pair[1].number))
        return wide if self.how == "all" else wide[:1]


def margin(chosen: Scored, rejected: Scored) -> float:
    """By how much the chosen answer is better."""
    return chosen.score - rejected.score
