"""The learning rate of every step, as a pure function."""

from __future__ import annotations

import math


def learning_rate_factor(
    step: int,
    *,
    schedule: str,
    num_steps: int,
    warmup_steps: int = 0,
    minimum: float = 0.0,
    hold_steps: int = 0,
) -> float:
    """Share of the peak learning rate at 0-based `step`: a linear rise, `schedule` down to `minimum`, a hold.

    The rise and the cosine and linear falls are those of transformers' schedules (step s of w warm-up steps
    gets s / w, so the first step's rate is 0 when there is a warm-up); `minimum` is a share of the peak.
    `constant` stays.

    With `hold_steps` = h > 0 the cosine is NeMo's `CosineAnnealing` with `constant_steps` = h: it falls over
    num_steps - w - h steps, and the last h steps of the run are at the minimum. A run of at most w + h steps
    has no fall: every step behind the peak, which is step w, is at the minimum. Without a warm-up such a run
    is at the minimum throughout.
    """
    if warmup_steps and step <= warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    fall_steps = num_steps - warmup_steps - hold_steps
    progress = min(1.0, (step - warmup_steps) / fall_steps) if fall_steps > 0 else 1.0
    fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}[schedule]
    return minimum + (1 - minimum) * fall


def warmup_steps_of(ratio: float, num_steps: int) -> int:
    """The warm-up steps that a `warmup_ratio` stands for: rounded up, as transformers does."""
    return math.ceil(ratio * num_steps)
