"""The learning rate of every step, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from tuning.train.schedule import learning_rate_factor, warmup_steps_of


def factors(num_steps: int, **settings: float | str) -> list[float]:
    return [learning_rate_factor(step, num_steps=num_steps, **settings) for step in range(num_steps)]  # type: ignore[arg-type]


def test_held_cosine_falls_before_the_hold_and_stays_at_the_minimum() -> None:
    """10 steps, 2 up, 4 held: the fall has 10 - 2 - 4 = 4 steps, from step 2 (1) by step 4 (half way, 0.6) to
    step 6 (the minimum, 0.2); a quarter of it is 0.2 + 0.8 (1 + cos 45°) / 2 = 0.8828."""
    found = factors(10, schedule="cosine", warmup_steps=2, hold_steps=4, minimum=0.2)
    assert found == pytest.approx([0, 0.5, 1, 0.88284271, 0.6, 0.31715729, 0.2, 0.2, 0.2, 0.2])


def test_linear_schedule_is_held_too() -> None:
    found = factors(6, schedule="linear", hold_steps=2, minimum=0.2)
    assert found == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(("num_steps", "warmup"), [(5, 2), (6, 2), (3, 2)])
def test_run_shorter_than_warm_up_and_hold_drops_to_the_minimum_behind_the_peak(
    num_steps: int, warmup: int
) -> None:
    found = factors(num_steps, schedule="cosine", warmup_steps=warmup, hold_steps=4, minimum=0.5)
    assert found == [0, 0.5, 1, 0.5, 0.5, 0.5][:num_steps]


def test_without_warm_up_a_run_that_is_all_hold_is_at_the_minimum() -> None:
    assert factors(3, schedule="cosine", hold_steps=3, minimum=0.5) == [0.5, 0.5, 0.5]


def test_warm_up_ratio_is_rounded_up() -> None:
    assert [warmup_steps_of(0.1, steps) for steps in (10, 11, 1)] == [1, 2, 1]
