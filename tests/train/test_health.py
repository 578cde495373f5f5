"""Health figures of a micro-row, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tuning.forest import Sequence
from tuning.train.health import preference_health
from tuning.train.steps import Division, Example, MicroBatch, divide

END = 9


def pair(name: str, source: str, chosen: list[int], rejected: list[int]) -> Example:
    sides = [np.array([1, 2, *answer], dtype=np.int32) for answer in (chosen, rejected)]
    return Example(name, source, name, tuple(Sequence(ids, np.arange(len(ids)) > 1) for ids in sides))


@pytest.fixture
def micro_batch() -> MicroBatch:
    """Pairs of source a with answers of 4 and 2 tokens, of source b with 1 and 3; all end with END."""
    pairs = [[pair("p", "a", [3, 4, 5, END], [6, END])], [pair("q", "b", [END], [7, 8, END])]]
    [made] = divide(pairs, Division(100, share_prefix=False), is_preference=True).micro_batches
    return made


def figures(micro_batch: MicroBatch, log_probs: Tensor, reference: Tensor | None) -> dict[str, float]:
    found = preference_health(micro_batch, log_probs, reference, beta=0.5, end_token=END)
    return {name: (total / weight).item() for name, (total, weight) in found.items() if weight}


def test_figures_of_two_pairs(micro_batch: MicroBatch) -> None:
    """log p is -1 for every token: answers have -4, -2, -1, -3. The reference has -2, -2, -3, -4, so the
    log-ratios are -2, 0 | 2, 1, the margins at beta 0.5 are -1 | 0.5, and the first pair is wrong."""
    log_probs = -torch.ones(10)
    reference = torch.tensor([-2.0, -2.0, -3.0, -4.0], dtype=torch.float64)
    found = figures(micro_batch, log_probs, reference)
    assert found["logratios/chosen"] == pytest.approx(0.0)  # (-2 + 2) / 2
    assert found["logratios/rejected"] == pytest.approx(0.5)  # (0 + 1) / 2
    assert found["kl/chosen"] == pytest.approx(0.0)  # (-2 + 2) / 5 tokens
    assert found["kl/rejected"] == pytest.approx(0.2)  # (0 + 1) / 5 tokens
    assert found["logps_per_token/chosen"] == pytest.approx(-1.0)
    assert (found["length/chosen"], found["length/rejected"]) == (2.5, 2.5)
    assert found["length/ratio"] == pytest.approx(1.0)  # (4 + 1) / (2 + 3)
    # sigmoid(1) = 0.7311 for the pair that is wrong, sigmoid(-0.5) = 0.3775 for the other:
    # (4 * 0.7311 + 0.3775) / (2 * 0.7311 + 3 * 0.3775) = 3.3018 / 2.5948
    assert found["length/ratio_pulled"] == pytest.approx(1.27248, abs=1e-4)
    assert (found["length/chosen_longer"], found["length/chosen_shorter"]) == (0.5, 0.5)
    assert (found["rewards/accuracies_longer"], found["rewards/accuracies_shorter"]) == (0.0, 1.0)
    assert found["end_token/chosen"] == pytest.approx(math.exp(-1))
    assert (found["rewards/margins/a"], found["rewards/margins/b"]) == (-1.0, 0.5)
    assert (found["kl/chosen/a"], found["kl/chosen/b"]) == (-0.5, 2.0)
    assert (found["share/a"], found["share/b"]) == (0.5, 0.5)
    assert (found["rewards/margins"], found["rewards/accuracies"]) == (-0.25, 0.5)


def test_end_token_counts_end_tokens_only(micro_batch: MicroBatch) -> None:
    """The end tokens of the chosen answers get 0.5 and 0.25, all other tokens 1."""
    log_probs = torch.zeros(10)
    ends = (micro_batch.forest.target_token == END).nonzero().flatten()
    log_probs[ends] = torch.log(torch.tensor([0.5, 1.0, 0.25, 1.0]))
    found = figures(micro_batch, log_probs, None)
    assert found["end_token/chosen"] == pytest.approx(0.375)
    assert found["end_token/rejected"] == pytest.approx(1.0)


def test_without_a_reference_rewards_are_the_losses_own(micro_batch: MicroBatch) -> None:
    """Answers have log p -4, -2 | -1, -3, and their means per token are all -1: ties. By sums at beta 0.5
    the margins are -1 | 1."""
    found = figures(micro_batch, -torch.ones(10), None)
    assert not [name for name in found if name.startswith(("kl", "logratios"))]
    assert (found["rewards/margins/a"], found["rewards/margins/b"]) == (-1.0, 1.0)
    per_token = preference_health(micro_batch, -torch.ones(10), None, beta=0.5, end_token=END, per_token=True)
    total, weight = per_token["rewards/margins"]
    assert (total.item(), weight.item()) == (0.0, 1.0)
    assert per_token["rewards/accuracies"][0].item() == 0.5
    assert per_token["length/ratio_pulled"][0].item() == pytest.approx(
        per_token["length/ratio"][0].item() / 2
    )


def test_answers_judged_by_themselves_count_on_their_side() -> None:
    """A good answer of 4 tokens (log p -4, -2 before) and a bad one of 1 (-1, -3 before), weight 1/2 each."""
    judged = [
        replace(pair("p", "a", [3, 4, 5, END], [6, END]), desirable=True),
        replace(pair("q", "b", [END], [6, END]), desirable=False),
    ]
    units = [[replace(example, sequences=example.sequences[:1])] for example in judged]
    [made] = divide(units, Division(100, share_prefix=False), is_preference=True).micro_batches
    order = [example.id for example in made.examples]
    reference = torch.tensor([{"p": -2.0, "q": -3.0}[name] for name in order], dtype=torch.float64)
    found = figures(made, -torch.ones(5), reference)
    assert (found["kl/chosen"], found["kl/rejected"]) == (-2 / 4, 2.0)
    assert (found["rewards/chosen"], found["rewards/rejected"]) == (-1.0, 1.0)
    assert (found["length/chosen"], found["length/rejected"]) == (4.0, 1.0)
    assert (found["logratios/chosen/a"], found["logratios/rejected/b"]) == (-2.0, 2.0)
    assert (found["share/a"], found["share/b"]) == (0.5, 0.5)
    comparing = ("rewards/margins", "rewards/accuracies", "length/ratio", "kl/chosen/b", "kl/rejected/a")
    assert not [name for name in comparing if name in found]


def test_divided_step_and_a_rank_without_work_sum_to_the_whole(micro_batch: MicroBatch) -> None:
    units = [[example] for example in micro_batch.examples]
    whole = preference_health(micro_batch, -torch.ones(10), torch.ones(4).double(), beta=1.0, end_token=END)
    sums: dict[str, Tensor] = {}
    for rank in range(3):
        division = Division(100, rank=rank, num_ranks=3, share_prefix=False)
        for part in divide(units, division, is_preference=True).micro_batches:
            count = 2 * len(part.examples)
            log_probs = -torch.ones(len(part.forest.target_token))
            found = preference_health(part, log_probs, torch.ones(count).double(), beta=1.0, end_token=END)
            for name, values in found.items():
                sums[name] = sums.get(name, torch.zeros(2)) + torch.stack(values)
    assert set(sums) == set(whole)
    for name, values in whole.items():
        assert torch.allclose(sums[name].double(), torch.stack(values).double()), name
