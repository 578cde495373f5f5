"""Objectives as the trainer calls them: (model, micro-batch) -> this part of the loss and of the metrics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tuning.forest.batch import ForestBatch
from tuning.train.health import preference_health
from tuning.train.live_reference import LiveReference
from tuning.train.objectives import preference_metrics, sequence_sums
from tuning.train.preference_losses import (
    PREFERENCE_LOSSES,
    RANKED,
    SINGLE,
    Divergence,
    PairScores,
    kto,
    plackett_luce,
)
from tuning.train.reference import ReferenceStore
from tuning.train.steps import Example, MicroBatch

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
    (arXiv:2406.11827)."""
    end_token: int | None = None
    """The id that ends an answer, for the metrics."""
    _prepared: list[Tensor] = field(default_factory=list)
    """Per micro-row, (sequences, 2): the step's loss by each sequence's log-prob, and the sequence's share of
    it."""

    @property
    def needs_reference(self) -> bool:
        return any(PREFERENCE_LOSSES[name].needs_reference for name in self.terms)

    @property
    def sees_step(self) -> bool:
        """Whether a step's rows are compared with each other, so that `prepare` has to see all of them."""
        return any(PREFERENCE_LOSSES[name].sees_step for name in self.terms)

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        forest, examples = micro_batch.forest, micro_batch.examples
        zero, log_probs, *collisions = model(
            forest, **({"with_collisions": True} if self.weighs_by_policy else {})
        )
        answers = _Answers(examples, zero.device)
        sums = answers.sums(log_probs, forest)
        scored = (
            sums if self.ld_alpha == 1 else answers.sums(log_probs * self._shares(forest, answers), forest)
        )
        reference, plain_reference = self._reference(model, micro_batch, answers)
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
            for name in self.terms:
                if name == RANKED:
                    per_row = plackett_luce(*answers.rankings(beta, scored - reference))
                else:
                    per_row = PREFERENCE_LOSSES[name].per_pair(scores, beta=beta, **self._options_of(name))
                parts[name] = (weight * per_row).sum()
            loss = zero + sum(self.terms[name] * part for name, part in parts.items())
        total = micro_batch.pair_weight.sum()
        if SINGLE in self.terms:
            metrics = answers.metrics_of_single(scored - reference, beta, micro_batch.pair_weight)
        else:
            metrics = _weighted_metrics(scores, beta, micro_batch.pair_weight)
            before = plain_reference if self.needs_reference else None
            metrics |= preference_health(micro_batch, log_probs, before, beta=beta, end_token=self.end_token)
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
            answers = _Answers(micro_batch.examples, log_probs.device)
            sums = answers.sums(log_probs * self._shares(micro_batch.forest, answers), micro_batch.forest)
            reference, _ = self._reference(model, micro_batch, answers)
            beta = micro_batch.pair_beta.nan_to_num(nan=self.beta)
            about = (values[answers.owner] for values in (micro_batch.pair_weight, beta))
            tables.append(torch.stack([sums, reference, *about, answers.role], dim=1))
        ranks = gather(torch.cat(tables))
        step = torch.cat(ranks)
        with torch.enable_grad():
            policy = step[:, 0].clone().requires_grad_()
            losses = [weight * self._loss_of_step(name, policy, step) for name, weight in self.terms.items()]
            loss = torch.stack(losses).sum()
            [slopes] = torch.autograd.grad(loss, policy)
        shares = (loss.detach() / len(step)).expand(len(step))
        first = sum(len(values) for values in ranks[:rank])
        own = torch.stack([slopes, shares], dim=1)[first : first + len(ranks[rank])]
        self._prepared = list(own.split([len(values) for values in tables]))

    def _loss_of_step(self, name: str, policy: Tensor, step: Tensor) -> Tensor:
        """The loss of a step from `policy`, log p of each of its sequences, and the table that `prepare`
        gathered: (sequences, 5) of log p, log p_ref, weight, beta and role."""
        _, reference, weight, beta, role = step.unbind(1)
        options = self._options_of(name)
        chosen, rejected = role == _CHOSEN, role == _REJECTED
        if name == SINGLE:
            is_own, ratio = chosen | rejected, policy - reference
            losses = kto(
                ratio[is_own], chosen[is_own], ratio[role == _STRANGER], beta=beta[is_own], **options
            )
            return (weight[is_own] * losses).sum() / weight[is_own].sum()
        nowhere = torch.zeros_like(weight[chosen])
        scores = PairScores(
            policy[chosen], policy[rejected], reference[chosen], reference[rejected], nowhere, nowhere
        )
        return PREFERENCE_LOSSES[name].per_pair(scores, beta=self.beta, **options).mean()

    def _options_of(self, name: str) -> dict[str, Any]:
        accepted = PREFERENCE_LOSSES[name].options
        return {option: value for option, value in self.options.items() if option in accepted}

    def _reference(
        self, model: nn.Module, micro_batch: MicroBatch, answers: _Answers
    ) -> tuple[Tensor, Tensor]:
        """log p_ref of each answer as the loss weighs its targets, and plain; float64, (answers,) each. Zeros
        where no loss asks for it."""
        forest = micro_batch.forest
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

    def _shares(self, forest: ForestBatch, answers: _Answers) -> Tensor:
        """float64, (targets,): 1 up to the length of the pair's shorter answer, `ld_alpha` beyond it."""
        if not answers.number or self.ld_alpha == 1:
            return torch.ones(len(forest.target_sequence), dtype=torch.float64, device=answers.device)
        counts = answers.counts(forest)
        shorter = torch.minimum(counts[answers.first], counts[answers.last]).repeat_interleave(2)
        place = torch.arange(len(forest.target_sequence), device=answers.device)
        place = place - (counts.cumsum(0) - counts)[forest.target_sequence]
        is_common = place < shorter[forest.target_sequence]
        return torch.where(is_common, 1.0, self.ld_alpha).to(torch.float64)


_CHOSEN, _REJECTED, _BETWEEN, _STRANGER = 0.0, 1.0, 2.0, 3.0
"""What a sequence is to its row."""


class _Answers:
    """Where the answers of a micro-row's examples stand among its sequences: best first within an example."""

    def __init__(self, examples: Sequence[Example], device: torch.device) -> None:
        self.device = device
        self.sizes = [len(example.answers) for example in examples]
        all_sizes = [len(example.sequences) for example in examples]
        self.number = sum(all_sizes)
        self.owner = torch.repeat_interleave(torch.tensor(all_sizes, dtype=torch.int64)).to(device)
        """int64, (sequences,): the example that each belongs to."""
        starts = [end - size for end, size in zip(itertools.accumulate(all_sizes), all_sizes, strict=True)]
        self.first = torch.tensor(starts, dtype=torch.int64, device=device)
        self.last = self.first + torch.tensor(self.sizes, dtype=torch.int64, device=device) - 1
        self.role = torch.tensor(
            [role for example in examples for role in _roles(example)], dtype=torch.float64, device=device
        )

    def sums(self, values: Tensor, forest: ForestBatch) -> Tensor:
        """float64, (answers,): values of targets, (targets,), added up by answer."""
        return sequence_sums(values, forest.target_sequence, forest.num_sequences)[: self.number]

    def counts(self, forest: ForestBatch) -> Tensor:
        """int64, (answers,): targets of each answer."""
        return torch.bincount(forest.target_sequence, minlength=forest.num_sequences)[: self.number]

    def pair_scores(self, sums: Tensor, reference: Tensor, forest: ForestBatch) -> PairScores:
        """The best and the worst answer of each example, which are a pair's two."""
        counts = self.counts(forest).to(torch.float64)
        columns = (values[side] for values in (sums, reference, counts) for side in (self.first, self.last))
        return PairScores(*columns)

    def rankings(self, beta: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        """(rewards, is_answer), both (examples, most answers of one), as `plackett_luce` takes them."""
        most = max(self.sizes, default=1)
        column = torch.arange(most, device=self.device)
        index = self.first[:, None] + column
        is_answer = index <= self.last[:, None]
        return beta[:, None] * ratios[index.clamp(max=max(0, self.number - 1))], is_answer

    def metrics_of_single(self, ratios: Tensor, beta: Tensor, weight: Tensor) -> Metrics:
        """Mean rewards of desirable and of undesirable answers under TRL's names, and the KL estimate."""
        rewards, weights = beta[self.owner] * ratios.detach(), weight[self.owner]
        named = {"rewards/chosen": _CHOSEN, "rewards/rejected": _REJECTED}
        metrics = {
            name: ((weights * rewards)[self.role == role].sum(), weights[self.role == role].sum())
            for name, role in named.items()
        }
        strange = self.role == _STRANGER
        metrics["kl"] = ((weights * ratios.detach())[strange].sum(), weights[strange].sum())
        return metrics

    def policy_weights(self, log_probs: Tensor, collisions: Tensor, forest: ForestBatch) -> Tensor:
        """float64, (pairs,): exp of the mean of log p(t) - log sum_v p(v)^2 over each answer's targets,
        multiplied over the pair; without gradient."""
        aligned = self.sums(log_probs.detach() - collisions, forest) / self.counts(forest).clamp(min=1)
        return torch.exp(aligned[self.first] + aligned[self.last])


def _roles(example: Example) -> list[float]:
    number = len(example.answers)
    if number == 1:
        roles = [_CHOSEN if example.desirable is not False else _REJECTED]
    else:
        roles = [_CHOSEN, *[_BETWEEN] * (number - 2), _REJECTED]
    return roles + [_STRANGER] * example.has_stranger


def _weighted_metrics(scores: PairScores, beta: Tensor, weight: Tensor) -> Metrics:
    values = (scores.chosen, scores.rejected, scores.reference_chosen, scores.reference_rejected)
    metrics = preference_metrics(*(value.detach() for value in values), beta=beta)
    return {name: ((weight * value).sum(), weight.sum()) for name, value in metrics.items()}


def divergence_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The losses' settings from a recipe's: `divergence` and `divergence_alpha` become one."""
    given = {name: value for name, value in options.items() if value is not None}
    name, alpha = given.pop("divergence", None), given.pop("divergence_alpha", None)
    if name is not None:
        given["divergence"] = Divergence(name) if alpha is None else Divergence(name, alpha)
    return given
