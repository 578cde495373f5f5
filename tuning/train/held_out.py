"""Held-out loss and preference accuracy: the same figures during training and in the final evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tuning.train.health import Columns, ends_of, judgements_of, preference_columns, totals
from tuning.train.objectives import sequence_sums, wins
from tuning.train.step_objectives import Gather, PreferenceObjective
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
    division: Division,
    *,
    objective: PreferenceObjective | None = None,
    end_token: int | None = None,
    device: torch.device | str,
    reduce: Reduce = lambda tensor: tensor,
    gather: Gather = lambda tensor: [tensor],
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, Any]:
    """`accuracy`: share of pairs with log p(chosen) > log p(rejected), sums over targets, no reference; of a
    ranking, the best and the worst answer.

    With the run's objective also `loss`, its own, every row counting alike (WPO's weights left out), and
    rewards; `rewards/accuracies` is the share in which the policy moved towards the chosen answer, and for a
    loss without a reference in which it rewards that one more. A tie counts half in both. `pairs` is how many
    there were, `<figure>_interval` the 95 % interval of an accuracy. The other figures are those of
    `tuning.train.health`. Answers judged one by one count in `loss` and the figures of their side. Where
    there are several sources each also stands under `<figure>/<source>`.
    """
    collected: dict[str, Tensor] = {}
    tables: list[Tensor] = []
    for micro_batch in micro_batches(examples, division, preference=True):
        micro_batch = micro_batch.to(device)
        micro_batch = replace(micro_batch, pair_weight=torch.ones_like(micro_batch.pair_weight))
        with context():
            _, log_probs = model(micro_batch.forest)
            references = None if objective is None else objective.reference(model, micro_batch)
        columns = _columns(micro_batch, log_probs, objective, references, end_token)
        if objective is not None and references is not None:
            if objective.sees_step:
                table = objective.table(micro_batch, log_probs, references[0])
                tables.append(_with_sources(micro_batch, table))
            else:
                losses = objective.losses_of_pairs(micro_batch, log_probs, references[0])
                columns["loss"] = losses, torch.ones_like(losses)
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
    if objective is not None and tables:
        figures |= _figures_of_tables(objective, torch.cat(gather(torch.cat(tables))), micro_batch.sources)
    if objective is not None and objective.sft_weight:
        for name in [name for name in figures if _is(name, "loss")]:
            figures[name] += objective.sft_weight * figures[name.replace("loss", "nll_loss", 1)]
    return figures


def _columns(
    micro_batch: MicroBatch,
    log_probs: Tensor,
    objective: PreferenceObjective | None,
    references: tuple[Tensor, Tensor] | None,
    end_token: int | None,
) -> Columns:
    """The figures of the micro-row's rows; an answer that stands alone counts in those of its side."""
    first, last = ends_of(micro_batch)
    is_good, is_bad = judgements_of(micro_batch)
    is_pair, every = is_good * is_bad, torch.ones_like(is_good)
    has_reference = objective is not None and references is not None and objective.needs_reference
    columns = preference_columns(
        micro_batch,
        log_probs,
        references[1] if references is not None and has_reference else None,
        beta=None if objective is None else micro_batch.pair_beta.nan_to_num(nan=objective.beta),
        end_token=end_token,
        weight=every,
        per_token=objective is not None and objective.rewards_per_token,
    )
    forest = micro_batch.forest
    sums = sequence_sums(log_probs, forest.target_sequence, forest.num_sequences)
    columns["pairs"] = is_pair, torch.zeros_like(is_pair)
    columns["accuracy"] = is_pair * wins(sums[first], sums[last]), is_pair
    if objective is not None and objective.sft_weight:
        count = torch.bincount(forest.target_sequence, minlength=forest.num_sequences)
        columns["nll_loss"] = -is_good * sums[first], is_good * count[first].to(torch.float64)
    return columns


def _with_sources(micro_batch: MicroBatch, table: Tensor) -> Tensor:
    """The table with one more column, the number of each sequence's source."""
    return torch.cat([table, micro_batch.sequence_source[: len(table), None].to(table.dtype)], dim=1)


def _figures_of_tables(
    objective: PreferenceObjective, table: Tensor, sources: tuple[str, ...]
) -> dict[str, float]:
    """The loss of all rows as if they were one step; where there are several sources that of each too."""
    figures: dict[str, float] = {}
    for number, source in enumerate(["", *(f"/{source}" for source in sources if len(sources) > 1)], -1):
        rows = table[:, :-1] if number < 0 else table[table[:, -1] == number, :-1]
        if len(rows):
            figures[f"loss{source}"] = objective.loss_of_table(rows).item()
    return figures


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
