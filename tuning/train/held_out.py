"""Held-out loss and preference accuracy: the same figures during training and in the final evaluation."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tuning.train.live_reference import LiveReference
from tuning.train.objectives import sequence_sums, wins
from tuning.train.reference import ReferenceStore
from tuning.train.steps import Division, Example, MicroBatch, divide

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over ranks."""


def micro_batches(examples: list[Example], division: Division, *, preference: bool) -> tuple[MicroBatch, ...]:
    """This rank's micro-rows of a held-out set; rows of a group share their beginning as in training."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    return divide(list(groups.values()), division, is_preference=preference, total_weight=1.0).micro_batches


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    dev: Mapping[str, list[Example]],
    division: Division,
    *,
    device: torch.device | str,
    reduce: Reduce = lambda tensor: tensor,
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, float]:
    """Mean negative log-likelihood per target token in nats: `loss` over all sources, `loss/<source>` for
    each."""
    totals: dict[str, Tensor] = {}
    for source, examples in dev.items():
        total = torch.zeros(2, dtype=torch.float64, device=device)
        for micro_batch in micro_batches(examples, division, preference=False):
            forest = micro_batch.forest.to(device)
            with context():
                _, log_probs = model(forest)
            weight = forest.target_weight.to(torch.float64)
            total += torch.stack([-(weight * log_probs).sum(), weight.sum()])
        totals[source] = reduce(total)
    figures = {f"loss/{source}": (total[0] / total[1]).item() for source, total in totals.items()}
    everything = torch.stack(list(totals.values())).sum(0)
    return {"loss": (everything[0] / everything[1]).item(), **figures}


@torch.no_grad()
def held_out_preferences(
    model: nn.Module,
    examples: list[Example],
    store: ReferenceStore | LiveReference | None,
    division: Division,
    *,
    device: torch.device | str,
    reduce: Reduce = lambda tensor: tensor,
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, float]:
    """`accuracy`: share of pairs with log p(chosen) > log p(rejected), sums over targets, no reference; of a
    ranking, the best and the worst answer.

    With a reference store also `rewards/accuracies`: the share in which the policy moved towards the chosen
    answer. A tie counts half in both. `pairs` is how many there were.
    """
    total = torch.zeros(3, dtype=torch.float64, device=device)
    for micro_batch in micro_batches(examples, division, preference=True):
        pairs = len(micro_batch.examples)
        forest = micro_batch.forest.to(device)
        with context():
            _, log_probs = model(forest)
        sums = sequence_sums(log_probs, forest.target_sequence, forest.num_sequences)
        ends = list(itertools.accumulate(len(example.sequences) for example in micro_batch.examples))
        firsts, lasts = [0, *ends][: len(ends)], [end - 1 for end in ends]
        chosen, rejected = sums[firsts], sums[lasts]
        figures = [
            torch.tensor(float(pairs), dtype=torch.float64, device=device),
            wins(chosen, rejected).sum(),
        ]
        if store is None:
            figures.append(torch.zeros_like(figures[0]))
        else:
            if isinstance(store, LiveReference):
                live = store(model, forest)
                sums = sequence_sums(live, forest.target_sequence, forest.num_sequences)
                before = [sums[firsts], sums[lasts]]
            else:
                before = [store.of(micro_batch.examples, side).to(device) for side in (0, -1)]
            figures.append(wins(chosen - before[0], rejected - before[1]).sum())
        total += torch.stack(figures)
    pairs_seen, right, moved = reduce(total).tolist()
    result = {"pairs": int(pairs_seen), "accuracy": right / pairs_seen}
    return result if store is None else {**result, "rewards/accuracies": moved / pairs_seen}


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share observed over `count` cases (Wilson 1927,
    doi:10.1080/01621459.1927.10502953)."""
    if count == 0:
        return 0.0, 1.0
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
