"""Objectives as the trainer calls them: (model, micro-batch) -> this part of the loss and of the metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tuning.train.health import preference_health
from tuning.train.objectives import preference_metrics, sequence_sums
from tuning.train.reference import ReferenceStore
from tuning.train.steps import MicroBatch

Metrics = dict[str, tuple[Tensor, Tensor]]
"""Per metric a (sum, weight): over all micro-rows and ranks of a step, their totals' ratio is the metric."""
Objective = Callable[[nn.Module, MicroBatch], tuple[Tensor, Metrics]]
"""(model, micro-batch) -> (this part of the step's loss, this part of its metrics)."""


def imitation(model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
    """The SFT objective: weighted negative log-likelihood; its metrics are the mean loss of each source."""
    forest = micro_batch.forest
    loss, log_probs = model(forest, as_nll=True)
    owner = micro_batch.sequence_source[forest.target_sequence]
    weight = forest.target_weight.to(torch.float64)
    empty = torch.zeros(len(micro_batch.sources), dtype=torch.float64, device=weight.device)
    by_source = torch.stack(
        [empty.index_add(0, owner, -weight * log_probs), empty.index_add(0, owner, weight)]
    )
    return loss, {
        f"loss/{name}": tuple(by_source[:, index]) for index, name in enumerate(micro_batch.sources)
    }


def preference_objective(
    loss_per_pair: Callable[..., Tensor],
    store: ReferenceStore,
    *,
    beta: float,
    end_token: int | None = None,
    **options: float,
) -> Objective:
    """A preference loss over pairs, with the reference's sums read from `store`; `end_token` is the id that
    ends an answer, for the metrics."""

    def objective(model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        forest = micro_batch.forest
        zero, log_probs = model(forest)
        num_pairs = len(micro_batch.examples)
        sums = sequence_sums(log_probs, forest.target_sequence, forest.num_sequences)[: 2 * num_pairs]
        chosen, rejected = sums[0::2], sums[1::2]
        reference = [store.of(micro_batch.examples, side).to(sums.device) for side in (0, 1)]
        weight = micro_batch.pair_weight
        loss = (weight * loss_per_pair(chosen, rejected, *reference, beta=beta, **options)).sum() + zero
        values = preference_metrics(chosen.detach(), rejected.detach(), *reference, beta=beta)
        metrics = {name: ((weight * value).sum(), weight.sum()) for name, value in values.items()}
        before = torch.stack(reference, dim=1).flatten()
        metrics |= preference_health(micro_batch, log_probs, before, beta=beta, end_token=end_token)
        return loss, metrics

    return objective
