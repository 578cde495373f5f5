"""Every registered loss and setting as `PreferenceObjective` runs it, all on one batch of a tiny model.

Each row of the batch has what any loss asks for: three ranked answers, since with two `plackett_luce` is
`sigmoid` by definition, and a stranger's answer for KTO. Losses of pairs take the best and the worst answer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import llama, pair_examples, preferences
from tests.train.test_preference_invariance import step, store_of, target_model
from tuning.config.losses import LOSSES, REQUIRED
from tuning.mixture import with_strangers
from tuning.model.head import TargetModel
from tuning.train.preference_losses import (
    PREFERENCE_LOSSES,
    RANKED,
    PairScores,
    plackett_luce,
)
from tuning.train.reference import ReferenceStore
from tuning.train.step_objectives import PreferenceObjective, divergence_of
from tuning.train.steps import Example

ROWS, BETA = 6, 0.3
PAIRWISE = [name for name, loss in PREFERENCE_LOSSES.items() if not loss.sees_step and name != RANKED]


@dataclass
class Batch:
    model: TargetModel
    rows: list[Example]
    """Three ranked answers and a stranger's each."""
    pairs: list[Example]
    """Their best and worst answers."""
    store: ReferenceStore
    pair_store: ReferenceStore

    def gradient(
        self, name: str, option: dict[str, Any] | None = None, *, pairs: bool = False, **settings: Any
    ) -> tuple[float, Tensor]:
        """Loss and gradient of one step with the loss's required settings, its `option`s as a recipe names
        them, and the objective's `settings`."""
        options = divergence_of({**required(name), **(option or {})})
        store, examples = (self.pair_store, self.pairs) if pairs else (self.store, self.rows)
        made: dict[str, Any] = {"terms": {name: 1.0}, "beta": BETA, "store": store, "options": options}
        return step(self.model, PreferenceObjective(**{**made, **settings}), examples)


def required(name: str) -> dict[str, float]:
    return {REQUIRED[name]: 0.1} if name in REQUIRED else {}


@pytest.fixture(scope="module")
def batch(tokenizer: PreTrainedTokenizerBase) -> Batch:
    others = [row["chosen"] for row in preferences(ROWS, seed=12)]
    rows = preferences(ROWS, seed=11)
    outer = pair_examples(rows, tokenizer)
    inner = pair_examples(
        [{**row, "rejected": other} for row, other in zip(rows, others, strict=True)], tokenizer
    )
    ranked = [
        replace(pair, sequences=(pair.sequences[0], other.sequences[1], pair.sequences[1]))
        for pair, other in zip(outer, inner, strict=True)
    ]
    ready = with_strangers(ranked, max_length=4096)
    model, reference = (target_model(llama(len(tokenizer), seed=seed)) for seed in (0, 5))
    return Batch(model, ready, outer, store_of(reference, ready), store_of(reference, outer))


def differ(one: Tensor, other: Tensor) -> bool:
    """By a thousandth of their size, far more than rounding and less than any two of the losses."""
    return bool((one - other).norm() > 1e-3 * torch.maximum(one.norm(), other.norm()))


def test_no_two_losses_have_the_same_gradient(batch: Batch) -> None:
    """A loss that quietly ran as another (ms-swift trained hinge and IPO as sigmoid) is found here."""
    gradients = {name: batch.gradient(name)[1] for name in PREFERENCE_LOSSES}
    for one, other in itertools.combinations(gradients, 2):
        assert differ(gradients[one], gradients[other]), (one, other)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_a_loss_is_its_equation_of_the_answers_log_probs(
    name: str, batch: Batch, tokenizer: PreTrainedTokenizerBase
) -> None:
    """In value and gradient, the log-probs being those of plain forward passes in float64."""
    plain, reference = (llama(len(tokenizer), seed=seed).double() for seed in (0, 5))
    policy = torch.stack([log_probs(plain, row) for row in batch.rows])
    with torch.no_grad():
        before = torch.stack([log_probs(reference, row) for row in batch.rows])
    tokens = torch.tensor(
        [[int(s.is_target[1:].sum()) for s in row.sequences] for row in batch.rows]
    ).double()
    ratios, ends = policy - before, (0, 2)
    if name == RANKED:
        loss = plackett_luce(BETA * ratios[:, :3], torch.ones(ROWS, 3, dtype=torch.bool))
    elif PREFERENCE_LOSSES[name].takes_single:
        is_desirable = torch.tensor([True, False]).repeat(ROWS)
        assert ratios[:, 3].mean() > 0.01  # so that the KL is part of what is compared
        strangers = [ratios[:, 3]] if PREFERENCE_LOSSES[name].needs_strangers else []
        loss = PREFERENCE_LOSSES[name].per_pair(
            ratios[:, ends].flatten(), is_desirable, *strangers, beta=BETA
        )
    else:
        scores = PairScores(*(values[:, end] for values in (policy, before, tokens) for end in ends))
        loss = PREFERENCE_LOSSES[name].per_pair(scores, beta=BETA, **required(name))
    loss.mean().backward()
    expected = torch.cat([part.grad.flatten() for part in plain.parameters() if part.grad is not None])
    value, gradient = batch.gradient(name)
    assert value == pytest.approx(loss.mean().item(), rel=1e-6)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def log_probs(model: Any, row: Example) -> Tensor:
    """(sequences,): log p of the targets of each sequence, computed alone."""
    sums = []
    for sequence in row.sequences:
        ids = torch.tensor(sequence.input_ids.tolist())
        each = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        sums.append(each[torch.tensor(sequence.is_target[1:])].sum())
    return torch.stack(sums)


TWO_VALUES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "label_smoothing": ({"label_smoothing": 0.1}, {"label_smoothing": 0.3}),
    "gamma": ({}, {"gamma": 0.9}),
    "alphapo_alpha": ({"alphapo_alpha": 0.1}, {"alphapo_alpha": -0.3}),
    "discopop_tau": ({}, {"discopop_tau": 0.5}),
    "divergence": ({}, {"divergence": "js_divergence"}),
    "divergence_alpha": (
        {"divergence": "alpha_divergence"},
        {"divergence": "alpha_divergence", "divergence_alpha": 0.2},
    ),
    "desirable_weight": ({}, {"desirable_weight": 1.5}),
    "undesirable_weight": ({}, {"undesirable_weight": 1.5}),
}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, options in LOSSES.items() for option in options]
)
def test_every_setting_of_a_loss_changes_its_gradient(name: str, option: str, batch: Batch) -> None:
    one, other = (batch.gradient(name, values)[1] for values in TWO_VALUES[option])
    assert differ(one, other)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_beta_and_the_sft_weight_change_the_gradient_of_every_loss(name: str, batch: Batch) -> None:
    plain = batch.gradient(name)[1]
    assert differ(plain, batch.gradient(name, beta=2 * BETA)[1])
    halves = [batch.gradient(name, sft_weight=weight)[1] for weight in (0.5, 1.0)]
    assert differ(plain, halves[0])
    assert not differ(halves[1] - plain, 2 * (halves[0] - plain))


@pytest.mark.parametrize("name", PAIRWISE)
def test_ld_dpo_and_wpo_change_the_gradient_of_every_loss_of_pairs(name: str, batch: Batch) -> None:
    plain = batch.gradient(name, pairs=True)[1]
    discounted = batch.gradient(name, pairs=True, ld_alpha=0.4)[1]
    weighed = batch.gradient(name, pairs=True, weighs_by_policy=True)[1]
    assert differ(plain, discounted)
    assert differ(plain, weighed)
    assert differ(discounted, weighed)


def test_wpo_does_not_weigh_the_sft_term(batch: Batch) -> None:
    terms = []
    for is_wpo in (False, True):
        without, with_sft = (
            batch.gradient("sigmoid", pairs=True, weighs_by_policy=is_wpo, sft_weight=weight)[1]
            for weight in (0.0, 1.0)
        )
        terms.append(with_sft - without)
    assert not differ(*terms)


@pytest.mark.parametrize(
    "terms", [{"sigmoid": 0.8, "orpo": 0.2}, {"hinge": 1.5, RANKED: 0.5}, {"aot": 0.3, "aot_unpaired": 0.7}]
)
def test_the_gradient_of_several_losses_is_their_weighted_sum(terms: dict[str, float], batch: Batch) -> None:
    together = batch.gradient(next(iter(terms)), terms=terms)[1]
    parts = [weight * batch.gradient(name)[1] for name, weight in terms.items()]
    assert (together - sum(parts)).norm() < 1e-5 * together.norm()
