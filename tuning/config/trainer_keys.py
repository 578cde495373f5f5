"""What `trainer:` may hold: arguments of transformers or TRL that the recipe does not answer itself."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OWNED: Mapping[str, str] = {
    "learning_rate": "{stage}.learning_rate",
    "num_train_epochs": "{stage}.epochs",
    "max_steps": "{stage}.max_steps",
    "per_device_train_batch_size": "{stage}.{batch}",
    "per_device_eval_batch_size": "{stage}.tokens_per_device",
    "gradient_accumulation_steps": "{stage}.tokens_per_device",
    "lr_scheduler_type": "{stage}.schedule",
    "lr_scheduler_kwargs": "{stage}.min_learning_rate",
    "warmup_steps": "{stage}.warmup_steps",
    "warmup_ratio": "{stage}.warmup_ratio",
    "weight_decay": "{stage}.weight_decay",
    "adam_beta1": "{stage}.adam_beta1",
    "adam_beta2": "{stage}.adam_beta2",
    "adam_epsilon": "{stage}.adam_epsilon",
    "max_grad_norm": "{stage}.max_grad_norm",
    "gradient_checkpointing": "{stage}.gradient_checkpointing",
    "max_length": "{stage}.max_length",
    "logging_steps": "{stage}.log_steps",
    "logging_strategy": "{stage}.log_steps",
    "eval_steps": "{stage}.eval_steps",
    "eval_strategy": "{stage}.eval_steps",
    "save_steps": "{stage}.save_steps",
    "save_strategy": "{stage}.save_steps",
    "save_total_limit": "{stage}.keep_checkpoints",
    "load_best_model_at_end": "{stage}.best_by",
    "metric_for_best_model": "{stage}.best_by",
    "greater_is_better": "{stage}.best_by",
    "report_to": "{stage}.report_to",
    "beta": "dpo.beta",
    "loss_type": "dpo.loss",
    "label_smoothing": "dpo.label_smoothing",
    "bf16": "precision",
    "fp16": "precision",
    "bf16_full_eval": "precision",
    "fp16_full_eval": "precision",
    "seed": "seed",
    "data_seed": "seed",
    "output_dir": "output",
    "run_name": "name",
}
"""Arguments that are settings of the recipe; `{stage}` is sft or dpo, `{batch}` batch_rows or batch_pairs."""

_REASONS: Mapping[str, str] = {
    "push_to_hub hub_token hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision": (
        "nothing is pushed to a hub; upload the release folder yourself"
    ),
    "remove_unused_columns label_names prediction_loss_only include_for_metrics batch_eval_metrics"
    " eval_do_concat_batches eval_use_gather_object eval_accumulation_steps": (
        "batches are packed forests, which the trainer reads whole"
    ),
    "packing group_by_length train_sampling_strategy length_column_name dataloader_drop_last": (
        "the rows of a step follow from seed and mix alone, and are packed by tokens"
    ),
    "average_tokens_across_devices label_smoothing_factor use_liger_kernel liger_kernel_config": (
        "the loss is the library's own, normalised over the whole step"
    ),
    "resume_from_checkpoint ignore_data_skip auto_find_batch_size": (
        "a run resumes by itself, with the batches that the recipe names"
    ),
    "do_train do_eval do_predict": "the stages of the recipe say what is done",
    "local_rank": "the launcher sets it",
}

_MIX_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("epochs", "passes", "repeat", "upsample", "ratio", "probability"), "weight"),
    **dict.fromkeys(("cap", "limit", "max_samples", "num_rows", "num_samples"), "max_rows"),
    **dict.fromkeys(("test_size", "val_set_size"), "dev_share"),
}
"""What others call the settings of a mix entry."""

REFUSED: Mapping[str, str] = {name: reason for names, reason in _REASONS.items() for name in names.split()}
"""Arguments that a recipe may not give, with the reason."""


_BATCHES: Mapping[str, Mapping[str, str]] = {
    "reward": {
        "per_device_train_batch_size": "reward.pairs_per_device",
        "per_device_eval_batch_size": "reward.pairs_per_device",
        "gradient_accumulation_steps": "reward.batch_pairs",
    },
    "grpo": {
        "per_device_train_batch_size": "grpo.answers_per_device",
        "per_device_eval_batch_size": "grpo.answers_per_device",
        "gradient_accumulation_steps": "grpo.batch_prompts",
        "generation_batch_size": "grpo.batch_prompts",
        "steps_per_generation": "grpo.batch_prompts",
        "num_generations": "grpo.num_generations",
        "max_completion_length": "grpo.max_new_tokens",
        "temperature": "grpo.temperature",
        "beta": "grpo.beta",
        "num_iterations": "grpo.num_iterations",
        "reward_weights": "grpo.rewards",
    },
}
"""Arguments of TRL's trainers that are settings of their stages; those of dpo's losses are not."""

_BORROWED_REASONS: Mapping[str, str] = {
    "model_init_kwargs trust_remote_code chat_template_path chat_template_kwargs eos_token pad_token": (
        "base, tokenizer and template of the recipe decide"
    ),
    "train_sampling_strategy length_column_name dataloader_drop_last shuffle_dataset": (
        "the rows of a step follow from seed and mix alone"
    ),
    "remove_unused_columns label_names dataset_num_proc": "the rows come encoded",
    "eval_on_start num_generations_eval load_best_model_at_end metric_for_best_model greater_is_better": (
        "held-out rows are evaluated by the recipe, at eval_steps and at the end"
    ),
    "log_completions_hub_repo": "nothing is pushed to a hub",
}
_BORROWED_REFUSED: Mapping[str, str] = {
    **{
        name: reason
        for name, reason in REFUSED.items()
        if name.startswith(("push_", "hub_", "do_", "local_"))
    },
    **{
        name: REFUSED[name] for name in ("resume_from_checkpoint", "ignore_data_skip", "auto_find_batch_size")
    },
    **{name: reason for names, reason in _BORROWED_REASONS.items() for name in names.split()},
}


@dataclass(frozen=True)
class TrainerKeys:
    """What `trainer:` of one stage may hold."""

    arguments: str
    """The class whose fields they are."""
    known: frozenset[str] | None
    """Its fields; None where it is not installed."""
    owned: Mapping[str, str]
    """Arguments that are settings of the recipe, with the setting."""
    refused: Mapping[str, str]
    """Arguments that cannot be given, with the reason."""


def keys_of(stage: str) -> TrainerKeys:
    """What `trainer:` of a stage may hold: of transformers for sft and dpo, of TRL for reward and grpo."""
    if stage not in _BATCHES:
        batch = "batch_rows" if stage == "sft" else "batch_pairs"
        owned = {name: owner.format(stage=stage, batch=batch) for name, owner in OWNED.items()}
        return TrainerKeys("transformers.TrainingArguments", trainer_arguments(), owned, REFUSED)
    without = {*_BORROWED_REFUSED, "warmup_ratio"}  # settings that these stages do not have
    owners = {
        name: owner for name, owner in OWNED.items() if name not in without and not owner.startswith("dpo.")
    }
    owned = {name: owner.format(stage=stage, batch="") for name, owner in owners.items()}
    owned.update(_BATCHES[stage])
    name = {"reward": "RewardConfig", "grpo": "GRPOConfig"}[stage]
    return TrainerKeys(f"trl.{name}", borrowed_arguments(stage, name), owned, _BORROWED_REFUSED)


def meant_elsewhere(key: str, name: str) -> str | None:
    """The setting that holds what other libraries call `name`, if it was written at `key` of a recipe."""
    stage, _, below = key.partition(".")
    if below.startswith("mix."):
        return f"{key}.{_MIX_NAMES[name]}" if name in _MIX_NAMES else None
    if below or stage not in ("sft", "dpo", *_BATCHES):
        return None
    keys = keys_of(stage)
    if name in keys.owned:
        return keys.owned[name]
    is_argument = keys.known is not None and name in keys.known and name not in keys.refused
    return f"{stage}.trainer.{name}" if is_argument else None


@functools.cache
def borrowed_arguments(stage: str, name: str) -> frozenset[str] | None:
    """Fields of the installed TRL's class, those that it inherits among them; None without TRL."""
    above, own = trainer_arguments(), _fields("trl", f"trainer/{stage}_config.py", name)
    return above | own if above is not None and own is not None else None


@functools.cache
def trainer_arguments() -> frozenset[str] | None:
    """Fields of the installed TrainingArguments; None without transformers."""
    return _fields("transformers", "training_args.py", "TrainingArguments")


def _fields(package: str, file: str, name: str) -> frozenset[str] | None:
    """Fields of a class in an installed package, read without importing it."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    fields = [item.target for node in classes for item in node.body if isinstance(item, ast.AnnAssign)]
    return frozenset(target.id for target in fields if isinstance(target, ast.Name)) or None
