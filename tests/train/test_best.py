"""The best evaluation, by name, and how long ago it was."""

from __future__ import annotations

import pytest

from tuning.train.best import Best, best_of

LINES = [
    {"step": 2, "loss": 0.7, "loss/a": 0.5, "accuracy": 0.5},
    {"step": 4, "loss": 0.4, "loss/a": 0.6, "accuracy": 0.9},
    {"step": 6, "loss": 0.4, "loss/a": 0.4, "accuracy": 0.6},
]


@pytest.mark.parametrize(
    ("name", "step", "figure", "since"),
    [("loss", 4, 0.4, 1), ("loss/a", 6, 0.4, 0), ("accuracy", 4, 0.9, 1)],
)
def test_losses_are_best_low_all_else_high_and_the_first_of_equals_wins(
    name: str, step: int, figure: float, since: int
) -> None:
    assert best_of(LINES, name) == Best(name, step, figure, evaluations=3, since=since)


def test_before_the_first_evaluation_nothing_is_best() -> None:
    assert best_of([], "loss") is None


def test_figure_that_no_evaluation_has_is_named_with_those_that_there_are() -> None:
    with pytest.raises(
        KeyError, match="no 'f1' in the evaluation of step 2; it has step, loss, loss/a, accuracy"
    ):
        best_of(LINES, "f1")


def test_a_figure_that_is_not_a_number_is_never_best() -> None:
    lines = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 3.0}, {"step": 3, "loss": float("nan")}]
    best = best_of(lines, "loss")
    assert best is not None
    assert (best.step, best.since) == (2, 1)
