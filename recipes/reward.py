"""A reward model: one number for a conversation, larger for the answer that people preferred.

The story: tokenizer and template -> pairs -> model with a fresh head -> TRL's trainer -> a complete model.
The trainer gets our ids, so the model is trained on what it is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer  # type: ignore[attr-defined]

from tuning.borrowed_stage import borrowed_arguments, open_plan, rows_from, save_borrowed, with_adapter
from tuning.config import Recipe
from tuning.model.scoring import new_reward_model, scores
from tuning.prompts import refuse_loss_weight
from tuning.stage import Paths, open_mixture, open_tokenizer
from tuning.train.borrowed import BorrowedRun
from tuning.train.held_out import wilson_interval
from tuning.train.objectives import wins
from tuning.train.steps import Example


class RewardRun(BorrowedRun, RewardTrainer):  # type: ignore[misc]
    """TRL's trainer with the steps, records and checkpoints of this library."""


def train(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """Trains from `paths.start` and writes `model/`, `metrics.jsonl`, `evaluation.jsonl` and `checkpoints/`;
    returns what the record keeps."""
    config = recipe.reward
    assert config is not None

    tokenizer, template = open_tokenizer(recipe, paths.start)
    mixture = open_mixture(recipe, config, paths, tokenizer, template, stage="reward")
    dev = [example for examples in mixture.dev.values() for example in examples]
    plan = open_plan(
        config,
        paths,
        mixture.order,
        name="reward",
        unit="pairs",
        batch_rows=config.batch_pairs,
        evaluate=(lambda model: held_out_accuracy(model, dev, config.pairs_per_device)) if dev else None,
    )
    model = new_reward_model(
        paths.start,
        pad_token_id=tokenizer.pad_token_id,
        seed=recipe.seed,
        trust_remote_code=recipe.trust_remote_code,
    )
    arguments = borrowed_arguments(
        recipe, config, plan, at_once=config.pairs_per_device, batch=config.batch_pairs
    )
    trainer = RewardRun(
        model=with_adapter(recipe, config, model, "SEQ_CLS"),
        args=RewardConfig(**arguments, max_length=None, train_sampling_strategy="sequential"),
        train_dataset=pairs_for_trl(rows_from(mixture.order, plan)),
        processing_class=tokenizer,
        plan=plan,
    )
    trainer.run()

    notes = save_borrowed(trainer.bare_model, tokenizer, paths)
    return {
        "sources": mixture.sources,
        "steps": plan.num_steps,
        "rows_per_epoch": plan.rows_per_epoch,
        **notes,
    }


def pairs_for_trl(examples: Sequence[Example]) -> Dataset:
    """Rows as TRL takes encoded ones: `chosen_ids` and `rejected_ids`, prompt and answer whole.

    A pair that comes several times is held once.
    """
    numbers: dict[int, int] = {}
    different: list[Example] = []
    for example in examples:
        refuse_loss_weight(example.weight, f"reward: pair {example.id} of {example.source}")
        if id(example) not in numbers:
            numbers[id(example)] = len(different)
            different.append(example)
    columns = {
        name: [example.sequences[side].input_ids for example in different]
        for side, name in enumerate(("chosen_ids", "rejected_ids"))
    }
    return Dataset.from_dict(columns).select([numbers[id(example)] for example in examples])


def held_out_accuracy(model: torch.nn.Module, dev: Sequence[Example], pairs_at_once: int) -> dict[str, Any]:
    """`accuracy`: share of held-out pairs whose chosen answer has the larger number, ties half, with its 95 %
    interval; `margin`: mean difference."""
    sequences = [example.sequences[side].input_ids for side in (0, 1) for example in dev]
    chosen, rejected = scores(model, sequences, batch_size=2 * pairs_at_once).chunk(2)
    accuracy = wins(chosen, rejected).mean().item()
    return {
        "pairs": len(dev),
        "accuracy": accuracy,
        "accuracy_interval": wilson_interval(accuracy, len(dev)),
        "margin": (chosen - rejected).mean().item(),
    }
