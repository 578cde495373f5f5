"""Where the answers of a micro-row's examples stand among its sequences, and what is added up by answer.

example      pair              ranking of three        judged answer
sequences    chosen rejected   best between worst      answer (stranger)
role         0      1          0    2       1          0 or 1  3
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from tuning.forest.batch import ForestBatch
from tuning.train.objectives import sequence_sums
from tuning.train.preference_losses import PairScores
from tuning.train.steps import Example

CHOSEN, REJECTED, BETWEEN, STRANGER = 0.0, 1.0, 2.0, 3.0
"""What a sequence is to its row."""


class Answers:
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

    def policy_weights(self, log_probs: Tensor, collisions: Tensor, forest: ForestBatch) -> Tensor:
        """float64, (pairs,): exp of the mean of log p(t) - log sum_v p(v)^2 over each answer's targets,
        multiplied over the pair; without gradient."""
        aligned = self.sums(log_probs.detach() - collisions, forest) / self.counts(forest).clamp(min=1)
        return torch.exp(aligned[self.first] + aligned[self.last])


def _roles(example: Example) -> list[float]:
    number = len(example.answers)
    if number == 1:
        roles = [CHOSEN if example.desirable is not False else REJECTED]
    else:
        roles = [CHOSEN, *[BETWEEN] * (number - 2), REJECTED]
    return roles + [STRANGER] * example.has_stranger
