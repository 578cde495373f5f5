"""Objectives as the trainer calls them: (model, micro-batch) -> this part of the loss and of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tuning.forest.batch import ForestBatch
from tuning.train.answers import CHOSEN, REJECTED, STRANGER, Answers
from tuning.train.health import preference_health
from tuning.train.live_reference import LiveReference
from tuning.train.objectives import preference_metrics
from tuning.train.preference_losses import (
    PREFERENCE_LOSSES,
    RANKED,
    Divergence,
    PairScores,
    plackett_luce,
)
from tuning.train.reference import ReferenceStore
from tuning.train.steps import MicroBatch

Metrics = dict[str, tuple[Tensor, Tensor]]
"""Per metric a (sum, weight): over all micro-rows and ranks of a step, their totals' ratio is the metric."""
Objective = Callable[[nn.Module, MicroBatch], tuple[Tensor, Metrics]]
"""(model, micro-batch) -> (this part of the step's loss, this part of its metrics)."""
Gather = Callable[[Tensor], list[Tensor]]
"""A tensor of this rank -> those of all ranks, in their order."""


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


@dataclass
class PreferenceObjective:
    """A weighted sum of preference losses and an SFT term on the chosen answers.

    The SFT term is the mean negative log-likelihood of the optimizer step's chosen target tokens, pairs
    weighted as elsewhere: the same whatever micro-rows and ranks the step is divided into. A loss that
    compares the rows of a step with each other needs `prepare` before the step's first micro-row.
    """

    terms: Mapping[str, float]
    """Weight of each loss, by its name in `PREFERENCE_LOSSES`."""
    store: ReferenceStore | LiveReference | None
    """The reference's log-probs, per token for an `ld_alpha` below 1; None where no loss asks for them."""
    beta: float
    """Of pairs that do not bring their own."""
    sft_weight: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the losses; each loss gets those it has."""
    ld_alpha: float = 1.0
    """Weight of an answer's targets beyond the length of the pair's shorter answer: LD-DPO, Liu et al. 2024
    (arXiv:2409.06411)."""
    weighs_by_policy: bool = False
    """Weighs each pair by how likely the policy is to write its answers: WPO, equation 2 of Zhou et al. 2024
    (arXiv:2406.11827). The SFT term is not weighed, unlike TRL's."""
    end_token: int | None = None
    """The id that ends an answer, for the metrics."""
    _prepared: list[Tensor] = field(default_factory=list)
    """Per micro-row, (sequences, 2): the step's loss by each sequence's log-prob, and the sequence's share of
    it."""

    @property
    def needs_reference(self) -> bool:
        return any(PREFERENCE_LOSSES[name].needs_reference for name in self.terms)

    @property
    def rewards_per_token(self) -> bool:
        return all(PREFERENCE_LOSSES[name].rewards_per_token for name in self.terms)

    @property
    def sees_step(self) -> bool:
        """Whether a step's rows are compared with each other, so that `prepare` has to see all of them."""
        return any(PREFERENCE_LOSSES[name].sees_step for name in self.terms)

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        forest, examples = micro_batch.forest, micro_batch.examples
        zero, log_probs, *collisions = model(
            forest, **({"with_collisions": True} if self.weighs_by_policy else {})
        )
        answers = Answers(examples, zero.device)
        sums = answers.sums(log_probs, forest)
        scored = (
            sums if self.ld_alpha == 1 else answers.sums(log_probs * self._shares(forest, answers), forest)
        )
        reference, plain_reference = self.reference(model, micro_batch)
        scores = answers.pair_scores(scored, reference, forest)
        beta = micro_batch.pair_beta.nan_to_num(nan=self.beta)
        weight = micro_batch.pair_weight
        parts: dict[str, Tensor] = {}
        if self.sees_step:
            slopes, shares = self._prepared[micro_batch.number].unbind(1)
            linear = (slopes * scored).sum()
            loss = zero + linear - linear.detach() + shares.sum()
        else:
            if self.weighs_by_policy:
                weight = weight * answers.policy_weights(log_probs, collisions[0], forest)
            each = self._losses_of_pairs(answers, scores, scored - reference, beta)
            parts = {name: (weight * losses).sum() for name, losses in each.items()}
            loss = zero + sum(self.terms[name] * part for name, part in parts.items())
        total = micro_batch.pair_weight.sum()
        before = plain_reference if self.needs_reference else None
        metrics = preference_health(
            micro_batch,
            log_probs,
            before,
            beta=beta,
            end_token=self.end_token,
            per_token=self.rewards_per_token,
        )
        if any(PREFERENCE_LOSSES[name].needs_strangers for name in self.terms):
            metrics["kl"] = _kl_of_strangers(answers, scored - reference, micro_batch.pair_weight)
        elif self.ld_alpha != 1:  # rewards of the step are the loss's own
            metrics |= _weighted_metrics(scores, beta, micro_batch.pair_weight, self.rewards_per_token)
        if self.sft_weight:
            likelihood = -(micro_batch.sft_weight * sums[answers.first]).sum()
            loss = loss + self.sft_weight * likelihood
            metrics["nll_loss"] = (likelihood.detach(), total)
        if len(parts) > 1:
            metrics |= {f"loss/{name}": (part.detach(), total) for name, part in parts.items()}
        return loss, metrics

    @torch.no_grad()
    def prepare(
        self, model: nn.Module, micro_batches: Sequence[MicroBatch], gather: Gather, rank: int = 0
    ) -> None:
        """Reads the log-probs of the whole step's answers, those of other ranks through `gather`, and keeps
        the loss's derivative by each of this rank's.

        The gradient of the step is then, micro-row by micro-row, derivative times gradient of the sums: one
        forward pass more, and exact however the step is divided.
        """
        tables = []
        for micro_batch in micro_batches:
            _, log_probs = model(micro_batch.forest)
            tables.append(self.table(micro_batch, log_probs, self.reference(model, micro_batch)[0]))
        ranks = gather(torch.cat(tables))
        step = torch.cat(ranks)
        with torch.enable_grad():
            policy = step[:, 0].clone().requires_grad_()
            loss = self.loss_of_table(torch.cat([policy[:, None], step[:, 1:]], dim=1))
            [slopes] = torch.autograd.grad(loss, policy)
        shares = (loss.detach() / len(step)).expand(len(step))
        first = sum(len(values) for values in ranks[:rank])
        own = torch.stack([slopes, shares], dim=1)[first : first + len(ranks[rank])]
        self._prepared = list(own.split([len(values) for values in tables]))

    def losses_of_pairs(self, micro_batch: MicroBatch, log_probs: Tensor, reference: Tensor) -> Tensor:
        """The loss of each pair or ranking, float64, (pairs,), from the targets' log-probs and the answers'
        under the reference: without the SFT term and WPO's weights. Not for a loss that sees the whole
        step."""
        forest, answers = micro_batch.forest, Answers(micro_batch.examples, log_probs.device)
        scored = answers.sums(log_probs * self._shares(forest, answers), forest)
        beta = micro_batch.pair_beta.nan_to_num(nan=self.beta)
        scores = answers.pair_scores(scored, reference, forest)
        each = self._losses_of_pairs(answers, scores, scored - reference, beta)
        return torch.stack([self.terms[name] * losses for name, losses in each.items()]).sum(0)

    def _losses_of_pairs(
        self, answers: Answers, scores: PairScores, ratios: Tensor, beta: Tensor
    ) -> dict[str, Tensor]:
        return {
            name: plackett_luce(*answers.rankings(beta, ratios))
            if name == RANKED
            else PREFERENCE_LOSSES[name].per_pair(scores, beta=beta, **self._options_of(name))
            for name in self.terms
        }

    def table(self, micro_batch: MicroBatch, log_probs: Tensor, reference: Tensor) -> Tensor:
        """What a loss that sees the whole step needs to know of a micro-row: float64, (sequences, 5) of
        log p, log p_ref, weight, beta and role."""
        answers = Answers(micro_batch.examples, log_probs.device)
        sums = answers.sums(log_probs * self._shares(micro_batch.forest, answers), micro_batch.forest)
        beta = micro_batch.pair_beta.nan_to_num(nan=self.beta)
        about = (values[answers.owner] for values in (micro_batch.pair_weight, beta))
        return torch.stack([sums, reference, *about, answers.role], dim=1)

    def loss_of_table(self, table: Tensor) -> Tensor:
        """The loss of a whole step, from the tables of all its micro-rows."""
        losses = [weight * self._loss_of_step(name, table) for name, weight in self.terms.items()]
        return torch.stack(losses).sum()

    def _loss_of_step(self, name: str, table: Tensor) -> Tensor:
        policy, reference, weight, beta, role = table.unbind(1)
        options = self._options_of(name)
        chosen, rejected = role == CHOSEN, role == REJECTED
        form = PREFERENCE_LOSSES[name]
        if form.takes_single:
            is_own, ratio = chosen | rejected, policy - reference
            strangers = [ratio[role == STRANGER]] if form.needs_strangers else []
            losses = form.per_pair(ratio[is_own], chosen[is_own], *strangers, beta=beta[is_own], **options)
            return (weight[is_own] * losses).sum() / weight[is_own].sum()
        nowhere = torch.zeros_like(weight[chosen])
        scores = PairScores(
            policy[chosen], policy[rejected], reference[chosen], reference[rejected], nowhere, nowhere
        )
        return form.per_pair(scores, beta=self.beta, **options).mean()

    def _options_of(self, name: str) -> dict[str, Any]:
        accepted = PREFERENCE_LOSSES[name].options
        return {option: value for option, value in self.options.items() if option in accepted}

    def reference(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """log p_ref of each answer as the loss weighs its targets, and plain; float64, (answers,) each. Zeros
        where no loss asks for it."""
        forest = micro_batch.forest
        answers = Answers(micro_batch.examples, micro_batch.pair_weight.device)
        if isinstance(self.store, LiveReference):
            log_probs = self.store(model, forest)  # of an empty row too, for sharded models
        elif self.store is None or not self.needs_reference or not answers.number:
            nothing = torch.zeros(answers.number, dtype=torch.float64, device=answers.device)
            return nothing, nothing
        elif self.ld_alpha == 1:
            sums = self.store.sums(micro_batch.examples).to(answers.device)
            return sums, sums
        else:
            log_probs = self.store.token_log_probs(micro_batch.examples).to(answers.device)
        return answers.sums(log_probs * self._shares(forest, answers), forest), answers.sums(
            log_probs, forest
        )

    def _shares(self, forest: ForestBatch, answers: Answers) -> Tensor:
        """float64, (targets,): 1 up to the length of the pair's shorter answer, `ld_alpha` beyond it."""
        if not answers.number or self.ld_alpha == 1:
            return torch.ones(len(forest.target_sequence), dtype=torch.float64, device=answers.device)
        counts = answers.counts(forest)
        shorter = torch.minimum(counts[answers.first], counts[answers.last]).repeat_interleave(2)
        place = torch.arange(len(forest.target_sequence), device=answers.device)
        place = place - (counts.cumsum(0) - counts)[forest.target_sequence]
        is_common = place < shorter[forest.target_sequence]
        return torch.where(is_common, 1.0, self.ld_alpha).to(torch.float64)


def _kl_of_strangers(answers: Answers, ratios: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """KTO's estimate of the KL, from other prompts' answers."""
    strange, weights = answers.role == STRANGER, weight[answers.owner]
    return (weights * ratios.detach())[strange].sum(), weights[strange].sum()


def _weighted_metrics(scores: PairScores, beta: Tensor, weight: Tensor, per_token: bool) -> Metrics:
    values = (scores.chosen, scores.rejected, scores.reference_chosen, scores.reference_rejected)
    tokens = (scores.chosen_tokens, scores.rejected_tokens) if per_token else None
    metrics = preference_metrics(*(value.detach() for value in values), beta=beta, tokens=tokens)
    return {name: ((weight * value).sum(), weight.sum()) for name, value in metrics.items()}


def divergence_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The losses' settings from a recipe's: `divergence` and `divergence_alpha` become one."""
    given = {name: value for name, value in options.items() if value is not None}
    name, alpha = given.pop("divergence", None), given.pop("divergence_alpha", None)
    if name is not None:
        given["divergence"] = Divergence(name) if alpha is None else Divergence(name, alpha)
    return given
