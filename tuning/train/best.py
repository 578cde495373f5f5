"""The best evaluation of a run so far, and whether it has gone on long enough without a better one.

Both follow from the lines of `evaluation.jsonl` alone, so a resumed run needs no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Best:
    """The evaluation that the figure `name` prefers: the first of equal ones, never one that is no number."""

    name: str
    step: int
    figure: float
    evaluations: int
    """How many there have been."""
    since: int
    """How many of them came after the best."""

    def as_dict(self) -> dict[str, Any]:
        """What the record says of it."""
        return {"by": self.name, "step": self.step, "figure": self.figure, "evaluations": self.evaluations}


def is_loss(name: str) -> bool:
    """Whether less of a figure is better: of losses, those of one source too. Of all others more is."""
    return name.split("/")[0] == "loss"


def best_of(lines: Sequence[Mapping[str, Any]], name: str) -> Best | None:
    """The best of these evaluations by the figure `name`; None when there is none yet."""
    sign = -1.0 if is_loss(name) else 1.0
    best: tuple[int, float] | None = None
    for index, line in enumerate(lines):
        if name not in line:
            raise KeyError(f"no {name!r} in the evaluation of step {line['step']}; it has {', '.join(line)}")
        is_better = best is None or math.isnan(best[1]) or sign * line[name] > sign * best[1]
        if is_better and not (best is not None and math.isnan(line[name])):
            best = index, line[name]
    if best is None:
        return None
    index, figure = best
    return Best(name, int(lines[index]["step"]), figure, len(lines), len(lines) - 1 - index)
