"""Preference optimisation: a chat model learns which of two answers is preferred.

The story: tokenizer and template -> pairs -> model -> the reference's log-probs, once -> training -> a
complete model.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from tuning.config import Recipe
from tuning.model.adapters import disable_dropout
from tuning.stage import (
    Paths,
    load_policy,
    open_mixture,
    open_reference,
    open_session,
    open_tokenizer,
    preference_objective,
    save_stage,
    trainer_arguments,
)
from tuning.train.held_out import held_out_preferences
from tuning.train.trainer import ChatTrainer, gathered


def train(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """Trains from `paths.start` and writes `model/`, `metrics.jsonl` and `checkpoints/`; returns what the
    record keeps."""
    config = recipe.dpo
    assert config is not None

    tokenizer, template = open_tokenizer(recipe, paths.start)
    mixture = open_mixture(recipe, config, paths, tokenizer, template, stage="dpo")
    dev = mixture.dev_rows

    policy = load_policy(recipe, config, paths.start)
    disable_dropout(policy)
    reference = open_reference(recipe, config, paths, policy)
    objective = preference_objective(config, reference, end_token=tokenizer.eos_token_id)

    def evaluate(model: torch.nn.Module, trainer: Trainer) -> dict[str, Any]:
        assert isinstance(trainer, ChatTrainer)
        return held_out_preferences(
            model,
            dev,
            trainer.division,
            objective=objective,
            end_token=tokenizer.eos_token_id,
            gather=gathered,
            **trainer.evaluation_tools(),
        )

    session = open_session(
        config, mixture, paths, name="dpo", batch_rows=config.batch_pairs, evaluate=evaluate if dev else None
    )
    trainer = ChatTrainer(policy, trainer_arguments(recipe, config, session), session, objective)
    trainer.compute_reference(reference, dev)
    trainer.run()

    notes = save_stage(recipe, config, policy, tokenizer, paths)
    return {
        "sources": mixture.sources,
        "steps": session.schedule.num_steps,
        "rows_per_epoch": mixture.rows_per_epoch,
        "reference": getattr(reference, "key", None),
        **notes,
    }
