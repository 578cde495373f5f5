"""Alarms on lines made by hand: which ring, when, with which numbers; none on a healthy run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tuning.train.alarms import Alarm, Watch, diverged


def line(step: int, **figures: float) -> dict[str, Any]:
    """A line of a healthy DPO run; names are given with `__` for `/`."""
    progress = step / 100
    healthy: dict[str, Any] = {
        "step": step,
        "pairs": 64,
        "loss": math.log(2) * (1 - progress / 2),
        "grad_norm": 1.0,
        "learning_rate": 1e-6,
        "rewards/margins": progress,
        "rewards/accuracies": 0.5 + progress / 3,
        "rewards/accuracies_longer": 0.55 + progress / 3,
        "rewards/accuracies_shorter": 0.45 + progress / 3,
        "length/ratio": 1.2,
        "length/chosen_longer": 0.6,
        "length/chosen_shorter": 0.4,
        "logps_per_token/chosen": -1.2 - progress / 5,
        "kl/chosen": -progress / 5,
        "kl/rejected": -progress,
        "end_token/chosen": 0.9,
    }
    return healthy | {name.replace("__", "/"): value for name, value in figures.items()}


def rung(lines: list[dict[str, Any]], num_steps: int = 100) -> list[Alarm]:
    watch = Watch(num_steps, learning_rate=1e-6)
    return [alarm for each in lines for alarm in watch.see(each)]


def test_healthy_run_is_silent() -> None:
    assert rung([line(step) for step in range(1, 101)]) == []


def test_falling_chosen_likelihood_is_told_with_its_numbers_and_where_it_began() -> None:
    """From step 41 on kl falls by 0.5 a step: -0.5, -1.0, -1.5 ... The mean of steps 38 to 42 is
    (0 + 0 + 0 - 0.5 - 1.0) / 5 = -0.3, of 39 to 43 -0.6, of 40 to 44 -1.0: it rings at 44. The mean
    of log p is then -1.2 - 1.0 = -2.2."""
    falls = [min(0.0, -0.5 * (step - 40)) for step in range(1, 61)]
    lines = [
        line(step, kl__chosen=fall, logps_per_token__chosen=-1.2 + fall) for step, fall in enumerate(falls, 1)
    ]
    alarm = rung(lines)[0]
    assert (alarm.code, alarm.step, alarm.since) == ("chosen_collapses", 44, 41)
    assert "fell from -1.2 to -2.2 since step 41" in alarm.seen
    assert "learning_rate 2e-07" in alarm.advice


@pytest.mark.parametrize("kl", [4.0, -4.0])
def test_leaving_the_reference_on_rejected_answers_rings_in_both_directions(kl: float) -> None:
    [alarm] = rung([line(step, kl__rejected=kl if step > 10 else 0.0) for step in range(1, 30)])
    # 4 of the 5 lines up to step 14 make a mean of 3.2.
    assert (alarm.code, alarm.step, alarm.since) == ("kl_explodes", 14, 11)
    assert f"{kl * 0.8:+.1f} nats" in alarm.seen


def test_pairs_that_do_not_separate_ring_in_the_middle_of_the_run() -> None:
    flat = {"rewards__margins": 0.001, "rewards__accuracies": 0.52}
    [alarm] = rung([line(step, **flat) for step in range(1, 101)])
    assert (alarm.code, alarm.step) == ("pairs_never_separate", 50)
    assert "five times as much" in alarm.advice
    assert rung([line(step, **flat) for step in range(1, 11)], num_steps=10) == []  # hardly begun
    stopped = [line(step, **flat, learning_rate=0.0) for step in range(1, 101)]
    assert "has been 0 throughout" in rung(stopped)[0].advice


def test_small_margins_of_a_small_beta_are_no_alarm_where_pairs_are_ordered_rightly() -> None:
    assert rung([line(step, rewards__margins=0.001, rewards__accuracies=0.9) for step in range(1, 101)]) == []


def test_forgotten_end_token_rings_against_the_first_line() -> None:
    """The window is all 0.4 five lines after step 30, and below half of 0.9 with four (0.5) not yet."""
    [alarm] = rung([line(step, end_token__chosen=0.9 if step <= 30 else 0.4) for step in range(1, 60)])
    assert (alarm.code, alarm.step, alarm.since) == ("end_token_falls", 35, 31)
    assert "probability 0.90 at the start and has 0.40" in alarm.seen
    unknown = [line(step, end_token__chosen=0.04 if step == 1 else 0.0) for step in range(1, 60)]
    assert rung(unknown) == []  # it never knew the token


def test_accuracy_that_follows_length_rings_and_says_which_way() -> None:
    gap = {"rewards__accuracies_longer": 0.95, "rewards__accuracies_shorter": 0.2}
    [alarm] = rung([line(step, **gap) for step in range(1, 40)])
    assert (alarm.code, alarm.step) == ("length_runs_away", 20)
    assert "95% of the pairs where that is the longer one, and in 20% where it is the shorter" in alarm.seen
    [alarm] = rung(
        [
            line(step, rewards__accuracies_longer=0.2, rewards__accuracies_shorter=0.95)
            for step in range(1, 40)
        ]
    )
    assert "shorter and shorter answers" in alarm.means
    # 20 lines of 4 pairs, of which 0.4 have the shorter chosen answer, are 32 pairs: too few to say.
    assert rung([line(step, **gap, pairs=4) for step in range(1, 21)]) == []


def test_accuracy_below_chance_rings_with_enough_pairs_and_names_the_source() -> None:
    """Of 20 lines with 64 pairs each 1,280 pairs: four standard errors are 4 * 0.5 / sqrt(1280) = 0.056."""
    assert rung([line(step, rewards__accuracies=0.45) for step in range(1, 41)]) == []
    [alarm] = rung([line(step, rewards__accuracies=0.44) for step in range(1, 41)])
    assert (alarm.code, alarm.step, alarm.since) == ("below_chance", 20, 1)
    # A quarter of the pairs is of source b: 320 pairs, 0.112.
    few = [line(step, rewards__accuracies__b=0.4, share__b=0.25) for step in range(1, 41)]
    assert rung(few) == []
    many = [line(step, rewards__accuracies__b=0.38, share__b=0.25) for step in range(1, 41)]
    [alarm] = rung(many)
    assert alarm.code == "below_chance/b"
    assert "rejected answers of b: only 38%" in alarm.seen


def alone(step: int, **figures: float) -> dict[str, Any]:
    """A line of a healthy run without a reference, which began with a taste for short answers."""
    without = ("kl/chosen", "kl/rejected")
    made = {name: value for name, value in line(step).items() if name not in without}
    own: dict[str, float] = {
        "rewards/margins": -20 + step / 5,
        "rewards/accuracies": 0.2 + step / 200,
        "rewards/accuracies_longer": 0.05 + step / 200,
        "rewards/accuracies_shorter": 0.9,
    }
    return made | own | {name.replace("__", "/"): value for name, value in figures.items()}


def test_a_taste_that_a_run_without_a_reference_began_with_is_no_alarm() -> None:
    assert rung([alone(step) for step in range(1, 101)]) == []


def test_without_a_reference_drift_is_told_against_the_first_lines() -> None:
    """log p per token falls by 0.1 a step from -1.2 on: the mean of the first five lines is -1.2 - 0.3 and of
    lines n - 4 to n it is -1.2 - 0.1 (n - 2); they differ by 1.0 at n = 15."""
    lines = [alone(step, logps_per_token__chosen=-1.2 - 0.1 * step) for step in range(1, 40)]
    alarms = rung(lines)
    assert [alarm.code for alarm in alarms] == ["chosen_collapses", "kl_explodes"]
    assert alarms[0].step == 15
    assert "fell from -1.5 to -2.5" in alarms[0].seen
    assert alarms[1].step == 35 and "has left where it started" in alarms[1].seen


def test_without_a_reference_pairs_that_never_separate_ring_in_spite_of_scatter() -> None:
    """Margins of -20 give or take 3, as batches scatter, and no growth; 40 lines are needed to say so."""
    lines = [
        alone(step, rewards__margins=-20 + 3 * (-1) ** step, rewards__accuracies=0.2)
        for step in range(1, 101)
    ]
    [alarm] = rung(lines)
    assert (alarm.code, alarm.step) == ("pairs_never_separate", 50)
    assert "the mean reward margin has moved by +0.0000" in alarm.seen


def test_without_a_reference_accuracy_is_held_against_its_start() -> None:
    """From 0.8 to 0.2 over 20 * 64 pairs: far more than 4 standard errors of a difference."""
    lines = [alone(step, rewards__accuracies=0.8 if step <= 30 else 0.2) for step in range(1, 60)]
    [alarm] = rung(lines)
    assert alarm.code == "below_chance"
    assert "Less than the 80% of the first steps is no accident" in alarm.means


def test_without_a_reference_a_length_gap_rings_where_it_grew() -> None:
    grown = [alone(step, rewards__accuracies_shorter=0.9 if step <= 20 else 0.1) for step in range(1, 60)]
    [alarm] = rung(grown)
    assert alarm.code == "length_runs_away"
    assert "in 10% where it is the shorter" in alarm.seen


def judged_line(step: int, **figures: float) -> dict[str, Any]:
    """A line of a healthy KTO run: answers judged one by one, none compared with another."""
    comparing = ("rewards/margins", "rewards/accuracies", "length/ratio", "length/chosen")
    made = {name: value for name, value in line(step).items() if not name.startswith(comparing)}
    made |= {"rewards/chosen": step / 100, "rewards/rejected": -step / 100, "pairs": 64, "loss": 0.5}
    return made | {name.replace("__", "/"): value for name, value in figures.items()}


def test_answers_judged_one_by_one_ring_for_drift_and_where_nothing_is_learnt() -> None:
    assert rung([judged_line(step) for step in range(1, 101)]) == []
    [alarm] = rung(
        [judged_line(step, rewards__chosen=0.001, rewards__rejected=0.0) for step in range(1, 101)]
    )
    assert (alarm.code, alarm.step) == ("pairs_never_separate", 50)
    codes = [alarm.code for alarm in rung([judged_line(step, kl__chosen=-4.0) for step in range(1, 101)])]
    assert codes == ["chosen_collapses", "kl_explodes"]


def test_loss_that_quadruples_and_a_gradient_that_is_no_number_ring() -> None:
    [alarm] = rung([line(step, loss=0.7 if step <= 10 else 3.5) for step in range(1, 30)])
    # Steps 11 to 15 are the first window above 4 * 0.7 = 2.8; with four of 3.5 the mean is 2.94 already.
    assert (alarm.code, alarm.step, alarm.since) == ("loss_explodes", 14, 11)
    [alarm] = rung([line(step, grad_norm=math.inf if step == 7 else 1.0) for step in range(1, 9)])
    assert (alarm.step, alarm.seen) == (7, "the gradient of step 7 is inf")


def test_each_alarm_rings_once_and_sft_lines_without_preference_figures_do_not_disturb() -> None:
    assert len(rung([line(step, kl__rejected=-9.0) for step in range(1, 90)])) == 1
    sft = [
        {"step": step, "rows": 8, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-5}
        for step in range(1, 99)
    ]
    assert rung(sft) == []


def test_alarm_reads_as_sentences() -> None:
    text = str(diverged(7, math.nan, 1e-5))
    assert text.startswith("ALARM at step 7 (diverged): the loss of step 7 is nan. The run has stopped;")
    assert "Try learning_rate 2e-06" in text
