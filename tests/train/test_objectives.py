"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tuning.forest import Sequence
from tuning.train.held_out import wilson_interval
from tuning.train.objectives import preference_metrics, sequence_sums, sft_loss, wins
from tuning.train.schedule import learning_rate_factor
from tuning.train.steps import Division, Example, divide


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_sft_loss_is_the_weighted_negative_sum() -> None:
    """Weights 0.5, 0.25, 0.25 of ln 1/2, ln 1/4, ln 1/8: ln 2 * (0.5 + 0.25 * 2 + 0.25 * 3) = 1.75 ln 2."""
    log_probs = t(math.log(0.5), math.log(0.25), math.log(0.125))
    assert sft_loss(log_probs, t(0.5, 0.25, 0.25)).item() == pytest.approx(1.75 * math.log(2), abs=1e-15)


def test_sequence_sums_add_up_each_sequence_alone() -> None:
    sums = sequence_sums(t(-1.0, -2.0, -4.0, -8.0), torch.tensor([0, 1, 0, 2]), 4)
    assert sums.tolist() == [-5.0, -2.0, -8.0, 0.0]
    assert sums.dtype == torch.float64


def test_rewards_are_beta_times_the_gain_over_the_reference() -> None:
    metrics = preference_metrics(t(-10, -5), t(-20, -6), t(-12, -5), t(-19, -6), beta=0.1)
    assert metrics["rewards/chosen"].tolist() == pytest.approx([0.2, 0.0])
    assert metrics["rewards/rejected"].tolist() == pytest.approx([-0.1, 0.0])
    assert metrics["rewards/margins"].tolist() == pytest.approx([0.3, 0.0])
    assert metrics["rewards/accuracies"].tolist() == [1.0, 0.5]  # a tie counts half


def test_a_win_is_strict_and_a_tie_counts_half() -> None:
    assert wins(t(2, 1, 1), t(1, 1, 2)).tolist() == [1.0, 0.5, 0.0]


def test_wilson_interval_of_eight_in_ten() -> None:
    """z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415 = 0.7167, half width 0.3136 / 1.38415 = 0.2266."""
    low, high = wilson_interval(0.8, 10)
    assert low == pytest.approx(0.4902, abs=2e-4)
    assert high == pytest.approx(0.9433, abs=2e-4)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.0),  # a warm-up of 2: s / 2
        ("cosine", 1, 0.5),
        ("cosine", 2, 1.0),
        ("cosine", 6, 0.55),  # half-way down: 0.1 + 0.9 * (1 + cos(pi / 2)) / 2
        ("cosine", 10, 0.1),
        ("linear", 4, 0.775),  # a quarter of the way: 0.1 + 0.9 * 0.75
        ("constant", 9, 1.0),
    ],
)
def test_learning_rate_of_a_run_of_ten_steps(schedule: str, step: int, expected: float) -> None:
    factor = learning_rate_factor(step, schedule=schedule, num_steps=10, warmup_steps=2, minimum=0.1)
    assert factor == pytest.approx(expected, abs=1e-12)


def test_an_answer_that_was_judged_bad_is_not_imitated_by_the_sft_term() -> None:
    """A good answer of 2 targets with weight 3 and a bad one of 4 with weight 1: the term is the mean over
    3 * 2 weighted targets, all of the good one."""

    def judged(name: str, num_targets: int, weight: float, desirable: bool) -> Example:
        ids = np.arange(1, 3 + num_targets, dtype=np.int32)
        sequence = Sequence(ids, ids > 2)
        return Example(name, "s", name, (sequence,), weight, desirable=desirable)

    rows = [judged("good", 2, 3.0, True), judged("bad", 4, 1.0, False)]
    [micro_batch] = divide([[row] for row in rows], Division(100), is_preference=True).micro_batches
    order = [example.id for example in micro_batch.examples]
    assert dict(zip(order, micro_batch.sft_weight.tolist(), strict=True)) == {"good": 3 / 6, "bad": 0.0}
