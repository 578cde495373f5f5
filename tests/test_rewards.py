"""What an answer is rewarded for: values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tuning.config import RuleConfig
from tuning.evaluate.answers import Answer
from tuning.prompts import Prompt
from tuning.reward_functions import judges
from tuning.rewards import (
    exact_match,
    length_band,
    loop_free,
    pattern_found,
    same_script,
    script_of,
    stopped,
)
from tuning.schema import Message


@pytest.mark.parametrize(
    ("num_tokens", "value"),
    [(0, 0.0), (2, 0.5), (4, 1.0), (8, 1.0), (10, 0.8), (16, 0.5), (40, 0.2)],
)
def test_length_has_full_reward_in_its_band_and_a_slope_on_both_sides(num_tokens: int, value: float) -> None:
    """Below 4 tokens n / 4, above 8 tokens 8 / n."""
    assert length_band(num_tokens, shortest=4, longest=8) == value


def test_a_bound_that_is_not_given_does_not_bind() -> None:
    assert length_band(10_000, shortest=4) == 1.0
    assert length_band(0, longest=8) == 1.0


def test_exact_match_forgives_outer_white_space_alone() -> None:
    assert exact_match(" 東京です\n", "東京です") == 1.0
    assert exact_match("東京です。", "東京です") == 0.0
    assert exact_match("Tokyo", "tokyo") == 0.0


def test_pattern_is_searched_for_unless_it_is_anchored() -> None:
    assert pattern_found("答えは42です", r"\d+") == 1.0
    assert pattern_found("答えは42です", r"^\d+$") == 0.0
    assert pattern_found("42", r"^\d+$") == 1.0


def test_an_answer_that_ends_by_itself_is_rewarded() -> None:
    assert (stopped(True), stopped(False)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("首都はどこですか。", "東京です。", 1.0),
        ("首都はどこですか。", "It is Tokyo.", 0.0),
        ("What is the capital?", "東京です。", 0.0),
        ("What is the capital?", "Tokyo (東京).", 1.0),
        ("OpenAIのAPIとは何ですか", "OpenAIが提供するAPIです", 1.0),
        ("1+1は？", "2", 1.0),
        ("首都はどこですか。", "東京", 1.0),
        ("首都はどこですか。", "日本的首都是东京，它位于关东地区。", 0.0),
        ("수도는 어디입니까?", "It is Seoul.", 0.0),
        ("数を足すPythonは？", "`a + b`", 1.0),
    ],
)
def test_language_compares_scripts_and_what_has_none_passes(
    question: str, answer: str, expected: float
) -> None:
    assert same_script(question, answer) == expected


def test_the_script_of_a_text_leaves_code_out() -> None:
    assert script_of("```python\nprint('hello world')\n```\nと書きます") == "ja"
    assert script_of("12 + 3") is None


def test_loop_free_is_zero_for_a_phrase_that_goes_round_and_one_for_prose() -> None:
    assert loop_free("私は海が好きです。" * 12) == 0.0
    assert loop_free("The sea is wide, and the river runs to it past a town.") == 1.0
    # 30 different letters twice: 49 12-grams, of which the last 19 stood there before
    twice = "abcdefghijklmnopqrstuvwxyz0123" * 2
    assert loop_free(twice) == pytest.approx(1 - 19 / 49)


def test_a_recipe_rewards_the_language_and_what_does_not_repeat_itself() -> None:
    rules = {"language": RuleConfig(rule="language"), "no_loop": RuleConfig(rule="no_loop")}
    made = judges(rules, None, device="cpu")
    asked = (Message("user", "Hello."), Message("assistant", "Hi."), Message("user", "首都はどこですか。"))
    prompts = [Prompt("1", "own", "1", asked, "", np.zeros(1, np.int32))] * 2
    answers = [Answer("東京です。", 4, True), Answer("It is Tokyo. " * 12, 60, False)]
    assert made["language"](prompts, answers) == [1.0, 0.0]
    assert made["no_loop"](prompts, answers) == [1.0, 0.0]
