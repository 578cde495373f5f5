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

Where a step has pairs of several sources each figure also stands under `<name>/<source>`. An answer that was
judged by itself (KTO) counts as a chosen or as a rejected one, and in no figure that compares the two. Losses
without a reference have no drift; their rewards are what the loss itself compares.
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
    per_token: bool = False,
) -> Metrics:
    """This micro-row's part of the figures above, for the step's `Metrics`.

    `log_probs` are those of the row's targets, (targets,). `reference` holds the reference's sum of every
    sequence, float64, (sequences,); without one (None) the figures that compare with it are left out. `beta`
    is one number or one a pair, and a reward that of the mean `per_token` where the loss says so. `end_token`
    is the id that ends an answer; None leaves its figures out. The best and the worst answer of a ranking
    are its pair.
    """
    columns = preference_columns(
        micro_batch,
        log_probs,
        reference,
        beta=beta,
        end_token=end_token,
        weight=micro_batch.pair_weight,
        per_token=per_token,
    )
    return totals(columns, micro_batch)


@torch.no_grad()
def preference_columns(
    micro_batch: MicroBatch,
    log_probs: Tensor,
    reference: Tensor | None,
    *,
    beta: float | Tensor | None,
    end_token: int | None,
    weight: Tensor,
    per_token: bool = False,
) -> Columns:
    """The figures row by row; `weight`, float64, (pairs,), is how much each counts. Without a beta (None)
    there are no rewards."""
    forest, first, last = micro_batch.forest, *ends_of(micro_batch)
    is_good, is_bad = judgements_of(micro_batch)
    weights = {"chosen": weight * is_good, "rejected": weight * is_bad}
    weight_of_pair = weight * is_good * is_bad

    def sides(values: Tensor) -> tuple[Tensor, Tensor]:
        sums = sequence_sums(values, forest.target_sequence, forest.num_sequences)
        return sums[first], sums[last]

    log_probs = log_probs.detach()
    logps = sides(log_probs)
    tokens = sides(torch.ones_like(log_probs))
    nothing = torch.zeros_like(logps[0])
    before = (nothing, nothing) if reference is None else (reference[first], reference[last])
    # Without rewards nothing is known of margins: every pair pulls alike.
    margin, columns = nothing, Columns()
    if beta is not None:
        values = preference_metrics(
            *logps, *before, beta=cast(float, beta), tokens=tokens if per_token else None
        )
        of_each = {
            **{f"{kind}/{side}": weights[side] for kind in ("rewards", "logps") for side in weights},
            **dict.fromkeys(("rewards/margins", "rewards/accuracies"), weight_of_pair),
        }
        columns = {name: (of_each[name] * value, of_each[name]) for name, value in values.items()}
        margin = values["rewards/margins"]
    for (side, own), log_p, log_ref, count in zip(weights.items(), logps, before, tokens, strict=True):
        if reference is not None:
            columns[f"logratios/{side}"] = own * (log_p - log_ref), own
            columns[f"kl/{side}"] = own * (log_p - log_ref), own * count
        columns[f"logps_per_token/{side}"] = own * log_p, own * count
        columns[f"length/{side}"] = own * count, own
    pull = weight_of_pair * torch.sigmoid(-margin)
    columns["length/ratio"] = weight_of_pair * tokens[0], weight_of_pair * tokens[1]
    columns["length/ratio_pulled"] = pull * tokens[0], pull * tokens[1]
    for name, is_so in (("longer", tokens[0] > tokens[1]), ("shorter", tokens[0] < tokens[1])):
        among = weight_of_pair * is_so
        columns[f"length/chosen_{name}"] = among, weight_of_pair
        if beta is not None:
            columns[f"rewards/accuracies_{name}"] = among * values["rewards/accuracies"], among
    if end_token is not None:
        is_end = (forest.target_token == end_token).to(torch.float64)
        ends = zip(weights.items(), sides(log_probs.exp() * is_end), sides(is_end), strict=True)
        for (side, own), probability, count in ends:
            columns[f"end_token/{side}"] = own * probability, own * count
    columns["share"] = weight, weight
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
        for number, source in enumerate(micro_batch.sources):
            for name, pair in zip(columns, by_source, strict=True):
                figures[f"{name}/{source}"] = tuple(pair[:, number])
            figures[f"share/{source}"] = figures[f"share/{source}"][0], figures["share"][1]
    del figures["share"]
    return figures  # type: ignore[return-value]


def judgements_of(micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """float64, (pairs,) each: 1 where an example has a good answer, 1 where it has a bad one: a pair both."""
    known = [example.desirable for example in micro_batch.examples]
    good, bad = ([value is not other for value in known] for other in (False, True))
    device = micro_batch.sequence_source.device
    return (
        torch.tensor(good, dtype=torch.float64, device=device),
        torch.tensor(bad, dtype=torch.float64, device=device),
    )


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
