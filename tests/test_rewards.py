"""What an answer is rewarded for: values worked out by hand."""

from __future__ import annotations

import pytest

from tuning.rewards import exact_match, length_band, pattern_found, stopped


@pytest.mark.parametrize(
    ("num_tokens", "value"),
    [(0, 0.0), (2, 0.5), (4, 1.0), (8, 1.0), (10, 0.75), (12, 0.5), (16, 0.0), (40, 0.0)],
)
def test_length_has_full_reward_in_its_band_and_a_slope_on_both_sides(num_tokens: int, value: float) -> None:
    """Below 4 tokens n / 4; above 8 tokens 2 - n / 8, and never less than 0."""
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
