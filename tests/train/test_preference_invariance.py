"""The gradient of a preference step, element by element, however the step is divided and for every loss.

Ranks are played one after the other in this process: the same code, without waiting for processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import llama, pair_examples, preferences
from tuning.forest import Sequence
from tuning.mixture import with_strangers
from tuning.model.adapters import attach_lora
from tuning.model.head import TargetModel
from tuning.model.loading import use_forest_attention
from tuning.train.live_reference import LiveReference
from tuning.train.objectives import sequence_sums
from tuning.train.preference_losses import PREFERENCE_LOSSES, RANKED, Divergence
from tuning.train.reference import ReferenceStore
from tuning.train.step_objectives import PreferenceObjective
from tuning.train.steps import Division, Example, MicroBatch, divide

LOSSES: dict[str, dict[str, Any]] = {
    name: {
        "terms": {name: 1.0},
        "sft_weight": loss.sft_weight,
        "options": {option: 0.1 for option in loss.options if option in ("label_smoothing", "alphapo_alpha")},
    }
    for name, loss in PREFERENCE_LOSSES.items()
}
JUDGED = [name for name, loss in PREFERENCE_LOSSES.items() if loss.takes_single]
METHODS = {
    **LOSSES,
    "RPO": {"terms": {"sigmoid": 1.0}, "sft_weight": 0.7},
    "MPO": {"terms": {"sigmoid": 0.8, "bco_pair": 0.2}, "sft_weight": 1.0},
    "AOT with SFT": {"terms": {"aot": 1.0}, "sft_weight": 0.5},
    "LD-DPO": {"terms": {"sigmoid": 1.0}, "ld_alpha": 0.4},
    "WPO": {"terms": {"sigmoid": 1.0}, "weighs_by_policy": True},
    "forward KL": {"terms": {"hinge": 1.0}, "options": {"divergence": Divergence("forward_kl")}},
}


def target_model(model: Any) -> TargetModel:
    use_forest_attention(model)
    return TargetModel(model)


def tricky(tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Ordinary pairs, one whose chosen answer begins the rejected one, one whose answers begin alike, and
    pairs with a weight and a beta of their own."""
    examples = pair_examples(preferences(9, seed=3), tokenizer)
    first, second = examples[0].sequences
    shared = int(np.argmax(first.is_target))
    body = first.input_ids[shared:-1]

    def answer(ids: Any) -> Sequence:
        whole = np.concatenate([first.input_ids[:shared], ids]).astype(np.int32)
        return Sequence(whole, np.arange(len(whole)) >= shared)

    longer = np.concatenate([body, second.input_ids[-6:]])
    examples.append(Example("begins", "pairs", "begins", (answer(body), answer(longer))))
    other = np.concatenate([body[:2], second.input_ids[-4:]])
    examples.append(Example("alike", "pairs", "alike", (answer(longer), answer(other)), 1.0, 0.9))
    return examples


def weighted(examples: list[Example]) -> list[Example]:
    return [replace(example, weight=1.0 + index % 3) for index, example in enumerate(examples)]


def rankings(tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Two to four answers to one prompt, best first."""
    examples = []
    for number, row in enumerate(preferences(7, seed=8)):
        rows = [
            {**row, "rejected": other["chosen"]} for other in preferences(number % 3 + 1, seed=50 + number)
        ]
        pairs = pair_examples(rows, tokenizer)
        answers = (pairs[0].sequences[0], *(pair.sequences[1] for pair in pairs))
        examples.append(Example(f"ranked-{number}", "ranked", f"ranked-{number}", answers))
    return examples


def judged(tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Pairs, and answers judged one by one, each with another row's answer for the KL estimate."""
    single = [
        replace(pair, id=f"judged-{number}", sequences=pair.sequences[:1], desirable=number % 3 > 0)
        for number, pair in enumerate(pair_examples(preferences(6, seed=21), tokenizer))
    ]
    return with_strangers([*tricky(tokenizer), *single], max_length=4096)


def rows_for(method: str, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Rows of the kind that a method learns from."""
    if method in JUDGED:
        return judged(tokenizer)
    return rankings(tokenizer) if method == RANKED else tricky(tokenizer)


def store_of(reference: TargetModel, examples: list[Example]) -> ReferenceStore:
    store = ReferenceStore(per_token=True)
    [micro_batch] = batches(examples, Division(100_000))
    with torch.no_grad():
        forest = micro_batch.forest
        log_probs = reference(forest)[1]
        sums = sequence_sums(log_probs, forest.target_sequence, forest.num_sequences)
    store.add(micro_batch.examples, sums.tolist(), log_probs.numpy())
    return store


def batches(examples: list[Example], division: Division) -> list[MicroBatch]:
    units = [[example] for example in examples]
    return list(divide(units, division, is_preference=True).micro_batches)


def step(
    model: TargetModel, objective: PreferenceObjective, examples: list[Example], **options: Any
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one optimizer step, summed over its ranks and micro-rows."""
    num_ranks = options.pop("num_ranks", 1)
    options = {"tokens_per_device": 100_000, **options}
    ranks = [
        batches(examples, Division(rank=rank, num_ranks=num_ranks, **options)) for rank in range(num_ranks)
    ]
    model.zero_grad()
    total = 0.0
    for rank, micro_batches in enumerate(ranks):
        if objective.sees_step:
            objective.prepare(model, micro_batches, everyone(objective, model, ranks), rank)
        for micro_batch in micro_batches:
            loss, _ = objective(model, micro_batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
    gradients = [part.grad.flatten() for part in model.parameters() if part.grad is not None]
    return total, torch.cat(gradients)


def everyone(
    objective: PreferenceObjective, model: TargetModel, ranks: list[list[MicroBatch]]
) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """What gathering from all ranks gives: each rank's own values, as it would send them."""
    sent: list[torch.Tensor] = []
    for micro_batches in ranks:
        objective.prepare(model, micro_batches, lambda own: [sent.append(own) or own])  # type: ignore[func-returns-value]
    return lambda own: sent


def assert_same(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> None:
    assert other[0] == pytest.approx(one[0], rel=1e-6, abs=1e-9)
    scale = one[1].abs().max()
    assert scale > 1e-6
    assert (one[1] - other[1]).abs().max() <= 1e-6 * max(1.0, float(scale))


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_the_same_however_the_step_is_divided(
    method: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    settings = METHODS[method]
    size = len(tokenizer)
    model, other = (target_model(llama(size, seed=seed)) for seed in (0, 5))
    examples = rows_for(method, tokenizer)
    if method in JUDGED or not any(PREFERENCE_LOSSES[name].sees_step for name in settings["terms"]):
        examples = weighted(examples)  # a sorted pair has no weight of its own
    store = store_of(other, examples)
    objective = PreferenceObjective(**{"store": store, "beta": 0.3, **settings})
    whole = step(model, objective, examples)
    assert_same(whole, step(model, objective, examples, tokens_per_device=70))
    assert_same(whole, step(model, objective, examples, tokens_per_device=1))
    assert_same(whole, step(model, objective, examples, share_prefix=False, tokens_per_device=120))
    assert_same(whole, step(model, objective, examples, num_ranks=2, tokens_per_device=90))
    assert_same(whole, step(model, objective, examples, num_ranks=4))
    assert_same(whole, step(model, objective, examples, num_ranks=16))  # five ranks have nothing to do
    if objective.needs_reference:
        live = PreferenceObjective(**{"store": LiveReference(other), "beta": 0.3, **settings})
        assert_same(whole, step(model, live, examples, tokens_per_device=120))
    model.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert_same(whole, step(model, objective, examples, tokens_per_device=120))


def test_a_live_reference_of_an_adapter_is_the_model_without_it(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = tricky(tokenizer)
    base = llama(len(tokenizer))
    adapted: Any = attach_lora(base, rank=4, alpha=8, seed=1)
    use_forest_attention(adapted.get_base_model())
    policy = TargetModel(adapted)
    store = store_of(target_model(llama(len(tokenizer))), examples)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    stored = PreferenceObjective({"sigmoid": 1.0}, store, beta=0.3)
    live = PreferenceObjective({"sigmoid": 1.0}, LiveReference(policy), beta=0.3)
    one = step(policy, stored, examples)
    assert abs(one[0] - 0.6931) > 1e-4
    assert_same(one, step(policy, live, examples))


def test_two_ranked_answers_are_a_pair(tokenizer: PreTrainedTokenizerBase) -> None:
    size = len(tokenizer)
    model, other = (target_model(llama(size, seed=seed)) for seed in (0, 5))
    examples = tricky(tokenizer)
    store = store_of(other, examples)
    one, two = (
        step(model, PreferenceObjective({name: 1.0}, store, beta=0.3), examples)
        for name in ("sigmoid", RANKED)
    )
    assert_same(one, two)
