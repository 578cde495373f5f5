"""CPO with its hinge and IPO forms, SimPO, AlphaPO and ORPO are TRL's, step by step, on the ids that TRL
makes of the same pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from tests.train.conftest import llama, pair_examples, preferences
from tests.train.running import order_of, train
from tests.train.test_against_trl import COMMON, ROWS, Recorder, assert_equal_steps
from tuning.train.steps import Example

STEPS = 3
BATCH = {"per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "max_steps": STEPS}


def pairs(tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], list[dict[str, Any]]]:
    """Ours in the order of the file, TRL's rows in the order in which we train them."""
    rows = preferences(STEPS * ROWS)
    examples = pair_examples(rows, tokenizer)
    return examples, [rows[int(example.id.split("-")[1])] for _, example in order_of(examples).epoch(0)]


def of_trl(trainer: type, args: Any, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, float]]:
    """What the trainer logs, once its ids and targets are seen to be ours."""
    examples, rows = pairs(tokenizer)
    recorder = Recorder()
    made = trainer(
        model=llama(len(tokenizer)),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    for (_, example), row in zip(order_of(examples).epoch(0), made.train_dataset, strict=True):
        for side, sequence in zip(("chosen", "rejected"), example.sequences, strict=True):
            assert row[f"{side}_input_ids"] == sequence.input_ids.tolist()
            assert [token != -100 for token in row[f"{side}_labels"]] == sequence.is_target.tolist()
    made.train()
    return recorder.lines


def of_ours(folder: Path, tokenizer: PreTrainedTokenizerBase, **method: Any) -> list[dict[str, Any]]:
    examples, _ = pairs(tokenizer)
    lines = train(
        llama(len(tokenizer)),
        examples,
        folder,
        num_steps=STEPS,
        batch_rows=ROWS,
        preference=True,
        budget=200,
        method={"store": None, **method},
    )
    assert lines[0]["micro_steps"] > 1
    return lines


METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # TRL's settings, ours
    "CPO": ({}, {"terms": {"cpo": 1.0}, "sft_weight": 1.0}),
    "CPO, smoothed": (
        {"label_smoothing": 0.1, "cpo_alpha": 0.4},
        {"terms": {"cpo": 1.0}, "sft_weight": 0.4, "options": {"label_smoothing": 0.1}},
    ),
    "SimPO": ({"loss_type": "simpo", "cpo_alpha": 0.0}, {"terms": {"simpo": 1.0}}),
    "SimPO's gamma, smoothed": (
        {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 1.3, "label_smoothing": 0.1},
        {"terms": {"simpo": 1.0}, "options": {"gamma": 1.3, "label_smoothing": 0.1}},
    ),
    "CPO-SimPO": (
        {"loss_type": "simpo", "simpo_gamma": 1.3},
        {"terms": {"simpo": 1.0}, "sft_weight": 1.0, "options": {"gamma": 1.3}},
    ),
    "AlphaPO": (
        {"loss_type": "alphapo", "alpha": 0.25, "simpo_gamma": 0.3},
        {"terms": {"alphapo": 1.0}, "options": {"alphapo_alpha": 0.25, "gamma": 0.3}},
    ),
    "CPO's hinge": (
        {"loss_type": "hinge", "cpo_alpha": 0.3},
        {"terms": {"cpo_hinge": 1.0}, "sft_weight": 0.3},
    ),
    "CPO's IPO": ({"loss_type": "ipo"}, {"terms": {"cpo_ipo": 1.0}, "sft_weight": 1.0}),
}


@pytest.mark.parametrize("method", METHODS)
def test_cpo_and_simpo_equal_trl(method: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    theirs, ours = METHODS[method]
    args = CPOConfig(output_dir=str(tmp_path / "trl"), **{**COMMON, **BATCH, "beta": 2.0, **theirs})
    expected = of_trl(CPOTrainer, args, tokenizer)
    lines = of_ours(tmp_path / "ours", tokenizer, beta=2.0, **ours)
    assert_equal_steps(lines, expected, steps=STEPS)


class AnswerOnly(ORPOTrainer):  # type: ignore[misc]
    """TRL's, but its negative log-likelihood is over the batch's own labels, which mask the prompt as
    CPOTrainer does."""

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        *forward, chosen_logits, rejected_logits, _ = super().concatenated_forward(model, batch)
        labels = batch["chosen_labels"][:, 1:].flatten()
        logits = chosen_logits[:, : batch["chosen_labels"].shape[1] - 1]
        likelihood = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels)
        return (*forward, chosen_logits, rejected_logits, likelihood)


ORPO: dict[str, Any] = {"terms": {"orpo": 1.0}, "sft_weight": 1.0, "beta": 2.0}


def orpo_arguments(folder: Path) -> ORPOConfig:
    return ORPOConfig(output_dir=str(folder), **{**COMMON, **BATCH, "beta": 2.0})


def test_orpo_equals_trl_whose_likelihood_leaves_the_prompt_out(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    expected = of_trl(AnswerOnly, orpo_arguments(tmp_path / "trl"), tokenizer)
    lines = of_ours(tmp_path / "ours", tokenizer, **ORPO)
    assert_equal_steps(lines, expected, "nll_loss", steps=STEPS)


def test_orpo_differs_from_trl_by_the_likelihood_of_the_prompt_alone(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """On the first step, where the weights are the same: each logged likelihood is its float64 reference, of
    the answers for us and of the whole sequences for TRL, and what is left of the loss is the same."""
    theirs = of_trl(ORPOTrainer, orpo_arguments(tmp_path / "trl"), tokenizer)[0]
    ours = of_ours(tmp_path / "ours", tokenizer, **ORPO)[0]
    examples, _ = pairs(tokenizer)
    chosen = [example.sequences[0] for _, example in order_of(examples).epoch(0)][:ROWS]
    model = llama(len(tokenizer)).double()
    answers, wholes = [], []
    with torch.no_grad():
        for sequence in chosen:
            ids = torch.tensor(sequence.input_ids.tolist())
            log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            answers.append(log_probs[torch.tensor(sequence.is_target[1:])])
            wholes.append(log_probs)
    assert ours["nll_loss"] == pytest.approx(-torch.cat(answers).mean().item(), rel=1e-6)
    assert theirs["nll_loss"] == pytest.approx(-torch.cat(wholes).mean().item(), rel=1e-6)
    assert abs(ours["nll_loss"] - theirs["nll_loss"]) > 1e-3
    odds = ours["loss"] - ours["nll_loss"]
    assert odds == pytest.approx(theirs["loss"] - theirs["nll_loss"], rel=1e-5)
    assert odds == pytest.approx(-2.0 * theirs["log_odds_ratio"], rel=1e-5)
