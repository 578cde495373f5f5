"""Figures that tell whether preference training is healthy, from a micro-row's log-probs: pure functions.

    rewards/*, logps/*                TRL's, here for each source
    logps_per_token/chosen|rejected   log p per scored token, nats
    logratios/chosen|rejected         drift: log p - log p_ref of an answer, nats
    kl/chosen|rejected                the same per token: the estimator k1 of KL(policy || reference), a plain
                                      mean of log p / p_ref. Its answers are those of the data, not samples of
                                      the policy, so it may be negative: then they became less likely
    length/chosen|rejected            scored tokens of an answer
    length/ratio                      tokens of all chosen answers over those of all rejected ones
    length/ratio_pulled               the same with each pair weighted by sigmoid(-margin), its share of the
                                      sigmoid loss's gradient: the length that the loss still pulls towards
    length/chosen_longer|shorter      share of the pairs in which the chosen answer is the longer, the shorter
    rewards/accuracies_longer|shorter accuracy over those pairs: far apart when length is what is learnt
    end_token/chosen|rejected         mean probability of the end token where an answer ends
    share/<source>                    the source's share of the pairs, by weight

Where a step has pairs of several sources each figure also stands under `<name>/<source>`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from tuning.train.objectives import preference_metrics, sequence_sums
from tuning.train.steps import MicroBatch

if TYPE_CHECKING:
    from tuning.train.step_objectives import Metrics

Columns = dict[str, tuple[Tensor, Tensor]]
"""Per figure (numerator, denominator), float64, (pairs,) each: the figure is the ratio of their sums."""


def preference_health(
    micro_batch: MicroBatch,
    log_probs: Tensor,
    reference: Tensor | None,
    *,
    beta: float | Tensor,
    end_token: int | None,
) -> Metrics:
    """This micro-row's part of the figures above, for the step's `Metrics`.

    `log_probs` are those of the row's targets, (targets,). `reference` holds the reference's sum of every
    sequence, float64, (sequences,); without one (None) the figures that compare with it are left out. `beta`
    is one number or one a pair. `end_token` is the id that ends an answer; None leaves its figures out. The
    best and the worst answer of a ranking are its pair.
    """
    columns = preference_columns(
        micro_batch, log_probs, reference, beta=beta, end_token=end_token, weight=micro_batch.pair_weight
    )
    figures = totals(columns, micro_batch)
    # Those of the whole step are the objective's own.
    own = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen")
    return {name: pair for name, pair in figures.items() if name not in (*own, "logps/rejected")}


@torch.no_grad()
def preference_columns(
    micro_batch: MicroBatch,
    log_probs: Tensor,
    reference: Tensor | None,
    *,
    beta: float | Tensor,
    end_token: int | None,
    weight: Tensor,
) -> Columns:
    """The figures pair by pair; `weight`, float64, (pairs,), is how much each counts."""
    forest, first, last = micro_batch.forest, *ends_of(micro_batch)

    def sides(values: Tensor) -> tuple[Tensor, Tensor]:
        sums = sequence_sums(values, forest.target_sequence, forest.num_sequences)
        return sums[first], sums[last]

    log_probs = log_probs.detach()
    logps = sides(log_probs)
    tokens = sides(torch.ones_like(log_probs))
    # Without a reference nothing is known of margins: every pair pulls alike.
    margin, columns = torch.zeros_like(logps[0]), Columns()
    if reference is not None:
        before = reference[first], reference[last]
        values = preference_metrics(*logps, *before, beta=cast(float, beta))
        columns = {name: (weight * value, weight) for name, value in values.items()}
        margin = values["rewards/margins"]
        for name, log_p, log_ref, count in zip(("chosen", "rejected"), logps, before, tokens, strict=True):
            columns[f"logratios/{name}"] = weight * (log_p - log_ref), weight
            columns[f"kl/{name}"] = weight * (log_p - log_ref), weight * count
    for name, log_p, count in zip(("chosen", "rejected"), logps, tokens, strict=True):
        columns[f"logps_per_token/{name}"] = weight * log_p, weight * count
        columns[f"length/{name}"] = weight * count, weight
    pull = weight * torch.sigmoid(-margin)
    columns["length/ratio"] = weight * tokens[0], weight * tokens[1]
    columns["length/ratio_pulled"] = pull * tokens[0], pull * tokens[1]
    for name, is_so in (("longer", tokens[0] > tokens[1]), ("shorter", tokens[0] < tokens[1])):
        columns[f"length/chosen_{name}"] = weight * is_so, weight
        if reference is not None:
            among = weight * is_so
            columns[f"rewards/accuracies_{name}"] = among * values["rewards/accuracies"], among
    if end_token is not None:
        is_end = (forest.target_token == end_token).to(torch.float64)
        ends = zip(("chosen", "rejected"), sides(log_probs.exp() * is_end), sides(is_end), strict=True)
        for name, probability, count in ends:
            columns[f"end_token/{name}"] = weight * probability, weight * count
    return columns


def totals(columns: Columns, micro_batch: MicroBatch) -> Metrics:
    """Each figure over all pairs, and over those of each source where there are several."""
    stacked = torch.stack([torch.stack(pair) for pair in columns.values()])
    overall = stacked.sum(-1)
    figures = dict(zip(columns, (tuple(pair) for pair in overall), strict=True))
    if len(micro_batch.sources) > 1:
        first, _ = ends_of(micro_batch)
        owner = torch.nn.functional.one_hot(
            micro_batch.sequence_source[first], num_classes=len(micro_batch.sources)
        ).to(torch.float64)
        by_source = stacked @ owner
        weight = columns["length/chosen"][1]
        for number, source in enumerate(micro_batch.sources):
            for name, pair in zip(columns, by_source, strict=True):
                figures[f"{name}/{source}"] = tuple(pair[:, number])
            figures[f"share/{source}"] = (weight @ owner)[number], weight.sum()
    return figures  # type: ignore[return-value]


def ends_of(micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """int64, (pairs,) each: the numbers of every example's first and last answer; the same where it has
    one."""
    sizes = [len(example.sequences) for example in micro_batch.examples]
    starts = [end - size for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    lasts = [
        start + len(example.answers) - 1 for start, example in zip(starts, micro_batch.examples, strict=True)
    ]
    first, last = torch.tensor([starts, lasts], dtype=torch.int64, device=micro_batch.sequence_source.device)
    return first, last
