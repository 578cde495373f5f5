"""GRPO: a chat model learns from its own answers, each compared with others to the same prompt.

The story: tokenizer and template -> prompts -> what answers are rewarded for -> model -> TRL's trainer -> a
complete model. TRL generates, scores and computes the loss (Shao et al. 2024, arXiv:2402.03300, eq. 3, in the
variants that it offers as `loss_type`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from tuning.borrowed_stage import borrowed_arguments, open_plan, rows_from, save_borrowed, with_adapter
from tuning.config import Recipe
from tuning.evaluate.answers import greedy_answers
from tuning.model.loading import load_model
from tuning.prompts import Prompt, asked, mix_prompts
from tuning.reward_functions import for_trl, held_out_rewards, judges
from tuning.stage import Paths, open_tokenizer, shares
from tuning.train.borrowed import BorrowedRun


class GRPORun(BorrowedRun, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with the steps, records and checkpoints of this library."""


def train(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """Trains from `paths.start` and writes `model/`, `metrics.jsonl`, `evaluation.jsonl` and `checkpoints/`;
    returns what the record keeps."""
    config = recipe.grpo
    assert config is not None

    tokenizer, template = open_tokenizer(recipe, paths.start)
    mixture = mix_prompts(
        {name: paths.datasets[name] for name in config.mix},
        shares(config),
        tokenizer,
        template,
        stage="grpo",
        max_length=config.max_length - config.max_new_tokens,
        too_long=config.too_long,
        seed=recipe.seed,
        weigh_by=config.weigh_by,
    )
    made = judges(
        config.rewards,
        paths.models.get("reward"),
        device="cuda" if torch.cuda.is_available() else "cpu",
        trust_remote_code=recipe.trust_remote_code,
    )
    weights = {name: reward.weight for name, reward in config.rewards.items()}

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        ids = [prompt.input_ids for prompt in mixture.dev]
        answers = greedy_answers(model, tokenizer, ids, max_new_tokens=config.max_new_tokens)
        return held_out_rewards(made, weights, mixture.dev, answers)

    plan = open_plan(
        config,
        paths,
        mixture.order,
        name="grpo",
        unit="prompts",
        batch_rows=config.batch_prompts,
        evaluate=evaluate if mixture.dev else None,
        whole_steps=config.num_iterations,
        evaluates_first=True,
    )
    set_seed(recipe.seed)
    model = load_model(paths.start, trust_remote_code=recipe.trust_remote_code, for_training=False)
    rows = [mixture.prompts[example.source, example.id] for example in rows_from(mixture.order, plan)]
    trainer = GRPORun(
        model=with_adapter(recipe, config, model, "CAUSAL_LM"),
        reward_funcs=[for_trl(name, judge, rows, tokenizer) for name, judge in made.items()],
        args=GRPOConfig(**grpo_arguments(recipe, plan, model, len(tokenizer))),
        train_dataset=prompts_for_trl(rows),
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


def prompts_for_trl(prompts: Sequence[Prompt]) -> Dataset:
    """Rows as TRL takes conversations: it renders them with the template that the tokenizer carries.

    `number` counts the rows, for the rewards.
    """
    return Dataset.from_dict({"prompt": asked(prompts), "number": list(range(len(prompts)))})


def grpo_arguments(recipe: Recipe, plan: Any, model: Any, num_tokens: int) -> dict[str, Any]:
    """TRL's arguments for this stage: the recipe's own keys, then what `trainer:` adds."""
    config = recipe.grpo
    assert config is not None
    batch = config.batch_prompts * config.num_generations
    arguments = {
        "num_generations": config.num_generations,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "beta": config.beta,
        "num_iterations": config.num_iterations,
        "reward_weights": [reward.weight for reward in config.rewards.values()],
        "shuffle_dataset": False,
        **borrowed_arguments(recipe, config, plan, at_once=config.answers_per_device, batch=batch),
    }
    # Padded embeddings have ids that the tokenizer lacks: they are never generated.
    beyond = list(range(num_tokens, model.config.get_text_config().vocab_size))
    if beyond and not arguments.get("use_vllm"):
        arguments["generation_kwargs"] = {
            "suppress_tokens": beyond,
            **(arguments.get("generation_kwargs") or {}),
        }
    return arguments
