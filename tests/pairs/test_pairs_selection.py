"""Which answers become pairs, worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from data_builders import BuilderError
from data_builders.asking.answers import Answer
from data_builders.writing import KnownDrop
from tuning.pairs.prompts import Prompt
from tuning.pairs.selection import Scored, Selection
from tuning.pairs.writing import candidates_of, outcome_of
from tuning.schema import Message

ANSWERS = [Scored(0, 2.0), Scored(1, 5.0), Scored(2, 1.0), Scored(3, 5.0), Scored(4, 4.5)]


def numbers(selection: Selection, answers: list[Scored] = ANSWERS) -> list[tuple[int, int]]:
    return [(chosen.number, rejected.number) for chosen, rejected in selection.pairs(answers, "row-1")]


def reason(selection: Selection, answers: list[Scored]) -> str:
    with pytest.raises(KnownDrop) as dropped:
        selection.pairs(answers, "row-1")
    return dropped.value.code


def test_the_best_stands_against_the_worst_and_the_earlier_of_two_equals_counts() -> None:
    assert numbers(Selection()) == [(1, 2)]


def test_all_pairs_are_those_with_the_margin_the_widest_first() -> None:
    """5-1 = 4 twice, 4.5-1 = 3.5, 5-2 = 3 twice; 4.5-2 = 2.5, 2-1 and 5-4.5 are too narrow."""
    assert numbers(Selection("all", 3.0)) == [(1, 2), (3, 2), (4, 2), (1, 0), (3, 0)]


def test_a_random_rejected_answer_keeps_the_margin_and_is_the_same_again() -> None:
    found = Counter(
        chosen_and_rejected
        for seed in range(200)
        for chosen_and_rejected in numbers(Selection("best_random", 1.0, seed=seed))
    )
    assert set(found) == {(1, 0), (1, 2)}  # 4.5 is within the margin
    assert min(found.values()) > 60  # of 200, each about half
    assert numbers(Selection("best_random", seed=3)) == numbers(Selection("best_random", seed=3))


@pytest.mark.parametrize(
    ("answers", "min_margin", "code"),
    [
        ([], 0.0, "too_few_answers"),
        ([Scored(0, 1.0)], 0.0, "too_few_answers"),
        ([Scored(0, 1.0), Scored(1, 1.0)], 0.0, "tie"),
        ([Scored(0, 1.0), Scored(1, 1.5)], 0.6, "small_margin"),
        ([Scored(0, 1.0, False), Scored(1, 2.0, False)], 0.0, "no_finished_answer"),
        ([Scored(0, 1.0), Scored(1, 2.0, False)], 0.0, "best_is_unfinished"),
    ],
)
def test_a_prompt_without_a_pair_says_why(answers: list[Scored], min_margin: float, code: str) -> None:
    assert reason(Selection(min_margin=min_margin), answers) == code


def test_a_margin_of_exactly_the_least_is_enough() -> None:
    assert numbers(Selection(min_margin=0.5), [Scored(0, 1.0), Scored(1, 1.5)]) == [(1, 0)]


def test_an_answer_that_was_cut_off_is_rejected_only_unless_asked_otherwise() -> None:
    answers = [Scored(0, 9.0, False), Scored(1, 5.0), Scored(2, 3.0), Scored(3, 1.0, False)]
    assert numbers(Selection(unfinished="reject"), answers) == [(1, 3)]
    assert numbers(Selection(unfinished="keep"), answers) == [(0, 3)]
    assert numbers(Selection(unfinished="drop"), answers) == [(1, 2)]


@pytest.mark.parametrize(
    "settings", [{"how": "best"}, {"unfinished": "never"}, {"min_margin": -1.0}, {"min_margin": float("nan")}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(BuilderError, match="accepted"):
        Selection(**settings)  # type: ignore[arg-type]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text.strip()}


def test_an_answer_counts_once_and_only_if_it_is_one() -> None:
    """Full width and outer space make no other answer; what the server refused is none."""
    answers = [
        *(Answer("ABC"), Answer(" ＡＢＣ\n"), Answer("  "), Answer("", "refused"), Answer("x", "cut_off")),
        *(Answer("a\x00b"), Answer("abc")),
    ]
    found = candidates_of(answers, said)
    assert [one.number for one in found.kept] == [0, 4, 6]
    assert found.left_out == {1: "duplicate", 2: "empty", 3: "refused", 5: "nul_character"}
    assert [one.is_finished for one in found.kept] == [True, False, True]


def test_the_final_score_is_the_weighted_sum_and_an_answer_without_every_score_is_out() -> None:
    """2 * (1, 0, 5) + 0.5 * (6, 10, none) = (5, 5, none): what is left is a tie."""
    prompt = Prompt("row-1", "talks", (Message("user", "?"),), None, {})
    candidates = candidates_of([Answer("a"), Answer("b"), Answer("c")], said)
    scores: dict[str, list[float | None]] = {"stops": [1.0, 0.0, 5.0], "judge": [6.0, 10.0, None]}
    outcome = outcome_of(prompt, candidates, scores, {"stops": 2.0, "judge": 0.5}, Selection())
    assert outcome.totals == {0: 5.0, 1: 5.0}
    assert outcome.dropped == "tie"
    scores["judge"][1] = None
    outcome = outcome_of(prompt, candidates, scores, {"stops": 2.0, "judge": 0.5}, Selection())
    assert outcome.dropped == "too_few_scores"
