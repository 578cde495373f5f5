"""Objectives as pure functions of target log-probs: no model, no trainer, no normalisation by micro-batch.

Weights arrive already divided by the total of the whole optimizer step, so that the sum of an objective over
all micro-rows and ranks is the step's loss, however the step was divided.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sft_loss(log_probs: Tensor, target_weight: Tensor) -> Tensor:
    """Weighted negative log-likelihood, a scalar in nats: `-sum(target_weight * log_probs)`, both
    (targets,)."""
    return -(target_weight.to(log_probs.dtype) * log_probs).sum()


def sequence_sums(log_probs: Tensor, target_sequence: Tensor, num_sequences: int) -> Tensor:
    """log p(answer | prompt) of each sequence, float64, (num_sequences,): the sum of its targets' log-probs.

    In float64 so that the sum does not depend on the order in which a row happened to be packed.
    """
    sums = torch.zeros(num_sequences, dtype=torch.float64, device=log_probs.device)
    return sums.index_add(0, target_sequence, log_probs.to(torch.float64))


def preference_metrics(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float | Tensor,
    tokens: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Per-pair values under TRL's names, (pairs,) each. A tie counts half in `rewards/accuracies`.

    With the numbers of scored `tokens` of both answers a reward is that of the mean per token, as SimPO's and
    ORPO's are.
    """
    per_chosen, per_rejected = (1.0, 1.0) if tokens is None else (1 / count.clamp(min=1) for count in tokens)
    reward_chosen = beta * (chosen - reference_chosen) * per_chosen
    reward_rejected = beta * (rejected - reference_rejected) * per_rejected
    return {
        "rewards/chosen": reward_chosen,
        "rewards/rejected": reward_rejected,
        "rewards/margins": reward_chosen - reward_rejected,
        "rewards/accuracies": wins(reward_chosen, reward_rejected),
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }


def wins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where chosen is larger, 0.5 for a tie, 0 elsewhere; float64."""
    return (chosen > rejected).to(torch.float64) + 0.5 * (chosen == rejected).to(torch.float64)
