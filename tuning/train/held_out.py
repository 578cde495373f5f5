"""Held-out loss and preference accuracy: the same figures during training and in the final evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tuning.train.health import ends_of, preference_columns, totals
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
    beta: float = 1.0,
    end_token: int | None = None,
    device: torch.device | str,
    reduce: Reduce = lambda tensor: tensor,
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, Any]:
    """`accuracy`: share of pairs with log p(chosen) > log p(rejected), sums over targets, no reference; of a
    ranking, the best and the worst answer.

    With a reference store also `loss`, the sigmoid loss at `beta` whatever the run's own loss is, and the
    figures that compare with it; `rewards/accuracies` is the share in which the policy moved towards the
    chosen answer. A tie counts half in both. `pairs` is how many there were, `<figure>_interval` the 95 %
    interval of an accuracy. The other figures are those of `tuning.train.health`; every pair counts alike.
    Where there are several sources each also stands under `<figure>/<source>`.
    """
    collected: dict[str, Tensor] = {}
    for micro_batch in micro_batches(examples, division, preference=True):
        micro_batch = micro_batch.to(device)
        with context():
            _, log_probs = model(micro_batch.forest)
        reference = None if store is None else _reference(store, model, micro_batch)
        each = torch.ones_like(micro_batch.pair_weight)
        columns = preference_columns(
            micro_batch, log_probs, reference, beta=beta, end_token=end_token, weight=each
        )
        columns["pairs"] = each, torch.zeros_like(each)
        sums = sequence_sums(log_probs, micro_batch.forest.target_sequence, micro_batch.forest.num_sequences)
        first, last = ends_of(micro_batch)
        chosen, rejected = sums[first], sums[last]
        columns["accuracy"] = wins(chosen, rejected), each
        if store is not None:
            columns["loss"] = -functional.logsigmoid(columns["rewards/margins"][0]), each
        for name, pair in totals(columns, micro_batch).items():
            collected[name] = collected.get(name, 0) + torch.stack(pair).to(torch.float64)
    flat: list[list[float]] = reduce(torch.stack(list(collected.values()))).tolist()
    sums_of = dict(zip(collected, flat, strict=True))
    figures: dict[str, Any] = {name: int(total) for name, (total, _) in sums_of.items() if _is(name, "pairs")}
    for name, (total, count) in sums_of.items():
        if count:
            figures[name] = total / count
    for name, (total, count) in sums_of.items():
        for accuracy in ("accuracy", "rewards/accuracies"):
            if count and _is(name, accuracy):
                key = name.replace(accuracy, f"{accuracy}_interval", 1)
                figures[key] = wilson_interval(total / count, int(count))
    return figures


def _reference(store: ReferenceStore | LiveReference, model: nn.Module, micro_batch: MicroBatch) -> Tensor:
    """float64, (sequences,): log p_ref of each."""
    forest = micro_batch.forest
    if isinstance(store, LiveReference):
        return sequence_sums(store(model, forest), forest.target_sequence, forest.num_sequences)
    return store.sums(micro_batch.examples).to(micro_batch.pair_weight.device)


def _is(name: str, figure: str) -> bool:
    """Whether a name is the figure's, of all sources or of one."""
    return name == figure or name.startswith(f"{figure}/")


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share observed over `count` cases (Wilson 1927,
    doi:10.1080/01621459.1927.10502953)."""
    if count == 0:
        return 0.0, 1.0
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
