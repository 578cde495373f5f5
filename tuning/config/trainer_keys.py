"""What `trainer:` may hold: arguments of transformers that the recipe does not answer itself."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
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

REFUSED: Mapping[str, str] = {name: reason for names, reason in _REASONS.items() for name in names.split()}
"""Arguments that a recipe may not give, with the reason."""


@functools.cache
def trainer_arguments() -> frozenset[str] | None:
    """Fields of the installed TrainingArguments, read without importing transformers; None without it."""
    spec = importlib.util.find_spec("transformers")
    path = Path(spec.origin).parent / "training_args.py" if spec and spec.origin else None
    if path is None or not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    ]
    fields = [item.target for node in classes for item in node.body if isinstance(item, ast.AnnAssign)]
    return frozenset(target.id for target in fields if isinstance(target, ast.Name)) or None
