"""The learning rate of every step, as a pure function."""

from __future__ import annotations

import math


def learning_rate_factor(
    step: int, *, schedule: str, num_steps: int, warmup_steps: int = 0, minimum: float = 0.0
) -> float:
    """Share of the peak learning rate at 0-based `step`: a linear rise, then `schedule` down to `minimum`.

    The rise and the cosine and linear falls are those of transformers' schedules (step s of w warm-up steps
    gets s / w, so the first step's rate is 0 when there is a warm-up); `minimum` is a share of the peak.
    `constant` stays.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}[schedule]
    return minimum + (1 - minimum) * fall
