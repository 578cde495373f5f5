"""Held-out figures of preferences: the run's own loss, for every loss, and what has no place among pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import llama
from tests.train.test_preference_invariance import (
    JUDGED,
    METHODS,
    judged,
    rows_for,
    step,
    store_of,
    target_model,
    tricky,
)
from tuning.train.held_out import held_out_preferences
from tuning.train.step_objectives import PreferenceObjective
from tuning.train.steps import Division, Example


def evaluated(
    method: str, tokenizer: PreTrainedTokenizerBase, budget: int, examples: list[Example] | None = None
) -> tuple[dict[str, Any], float]:
    """The figures, and the loss of one training step over the same rows."""
    examples = rows_for(method, tokenizer) if examples is None else examples
    model, other = (target_model(llama(len(tokenizer), seed=seed)) for seed in (0, 5))
    settings = {"store": store_of(other, examples), "beta": 0.3, **METHODS[method]}
    objective = PreferenceObjective(**settings)
    figures = held_out_preferences(model, examples, Division(budget), objective=objective, device="cpu")
    trained = PreferenceObjective(**{**settings, "weighs_by_policy": False})
    return figures, step(model, trained, examples)[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_held_out_loss_is_that_of_a_training_step_over_the_same_rows(
    method: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    for budget in (100_000, 90):
        figures, loss = evaluated(method, tokenizer, budget)
        assert figures["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("method", ["sigmoid", "RPO", "aot", *JUDGED])
def test_each_source_has_its_own_loss(method: str, tokenizer: PreTrainedTokenizerBase) -> None:
    examples = rows_for(method, tokenizer)
    sources = [replace(row, source=("one", "two")[number % 2]) for number, row in enumerate(examples)]
    figures, _ = evaluated(method, tokenizer, 200, sources)
    for name in ("one", "two"):
        own = [row for row in sources if row.source == name]
        alone, _ = evaluated(method, tokenizer, 200, own)
        assert figures[f"loss/{name}"] == pytest.approx(alone["loss"], rel=1e-6)


def test_answers_judged_one_by_one_are_no_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = judged(tokenizer)
    pairs = [row for row in examples if len(row.answers) == 2]
    assert 0 < len(pairs) < len(examples)
    figures, _ = evaluated("kto", tokenizer, 300)
    alone, _ = evaluated("kto", tokenizer, 300, pairs)
    assert figures["pairs"] == alone["pairs"] == len(pairs)
    for name in ("accuracy", "accuracy_interval", "rewards/accuracies", "length/ratio"):
        assert figures[name] == alone[name]
    assert figures["loss"] != alone["loss"]
    only_single, _ = evaluated("kto", tokenizer, 300, [row for row in examples if row not in pairs])
    assert only_single["pairs"] == 0
    assert "accuracy" not in only_single
    assert only_single["rewards/chosen"] != only_single["rewards/rejected"]


def test_without_a_reference_nothing_is_said_of_drift(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = tricky(tokenizer)
    model = target_model(llama(len(tokenizer)))
    objective = PreferenceObjective({"simpo": 1.0}, None, beta=2.0)
    figures = held_out_preferences(model, examples, Division(300), objective=objective, device="cpu")
    assert figures["loss"] == pytest.approx(step(model, objective, examples)[0], rel=1e-6)
    assert not any(name.startswith(("kl/", "logratios/")) for name in figures)
    assert figures["rewards/margins"] == pytest.approx(
        figures["rewards/chosen"] - figures["rewards/rejected"]
    )
    per_token = 2.0 * figures["logps_per_token/chosen"]
    lengths = {int(example.sequences[0].is_target[1:].sum()) for example in examples}
    assert len(lengths) > 1 and figures["rewards/chosen"] == pytest.approx(per_token, rel=0.2)  # not the sum
    assert torch.isfinite(torch.tensor(figures["loss"]))
