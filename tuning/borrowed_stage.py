"""What the stages share that run TRL's trainers: the plan of their steps, their rows in order, the saved
model."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tuning.config import GRPOConfig, Recipe, RewardConfig
from tuning.model import adapters, loading
from tuning.model.loading import ModelError
from tuning.stage import Paths, optimizer_settings
from tuning.train import checkpoint
from tuning.train.borrowed import Plan
from tuning.train.steps import Example, Order


def open_plan(
    config: RewardConfig | GRPOConfig,
    paths: Paths,
    order: Order,
    *,
    name: str,
    unit: str,
    batch_rows: int,
    evaluate: Callable[[torch.nn.Module], Mapping[str, Any]] | None,
    whole_steps: int = 1,
    evaluates_first: bool = False,
) -> Plan:
    """The run's steps and how they are reported, from the newest whole checkpoint on.

    Every step is full: the last one is filled up from the next epoch, so that no row weighs more than others.
    """
    resume_from, damaged = checkpoint.newest_whole(paths.folder / "checkpoints")
    for line in damaged:
        print(f"{name} damaged checkpoint passed over: {line}", file=sys.stderr, flush=True)
    rows = (config.epochs or 1.0) * order.rows_per_epoch * whole_steps
    return Plan(
        name=name,
        folder=paths.folder,
        num_steps=config.max_steps or max(1, math.ceil(round(rows) / batch_rows)),
        batch_rows=batch_rows,
        unit=unit,
        rows_per_epoch=order.rows_per_epoch,
        learning_rate=config.learning_rate,
        lr_schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        min_learning_rate=config.min_learning_rate,
        log_steps=config.log_steps,
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        keep_checkpoints=config.keep_checkpoints,
        whole_steps=whole_steps,
        evaluates_first=evaluates_first,
        evaluate=evaluate,
        resume_from=resume_from,
    )


def rows_from(order: Order, plan: Plan) -> list[Example]:
    """The rows of the steps that are still to be done, in order; of the last step where all are done."""
    batches = math.ceil(plan.num_steps / plan.whole_steps)
    done = min(plan.start_step // plan.whole_steps, batches - 1)
    endless = (example for epoch in itertools.count() for _, example in order.epoch(epoch))
    return list(itertools.islice(endless, done * plan.batch_rows, batches * plan.batch_rows))


def borrowed_arguments(
    recipe: Recipe, config: RewardConfig | GRPOConfig, plan: Plan, *, at_once: int, batch: int
) -> dict[str, Any]:
    """The arguments that TRL's trainers share: a step of `batch` sequences or pairs, `at_once` of them in one
    forward pass of one device, then what `trainer:` adds."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch % (at_once * processes):
        raise ModelError(
            f"{plan.name}: a step of {batch} cannot be divided over {processes} devices by {at_once}; "
            f"accepted: numbers whose product divides {batch}"
        )
    return {
        "output_dir": str(plan.folder / "checkpoints"),
        "max_steps": plan.num_steps,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": batch // (at_once * processes),
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "bf16": loading.compute_dtype(recipe.precision) == torch.bfloat16,
        "use_cpu": not torch.cuda.is_available(),
        **optimizer_settings(recipe, config, plan.name),
    }


def with_adapter(
    recipe: Recipe, config: RewardConfig | GRPOConfig, model: PreTrainedModel, task_type: str
) -> PreTrainedModel | PeftModel:
    """The model, with a fresh adapter to train if the recipe asks for one."""
    if config.lora is None:
        return model
    lora = config.lora
    return adapters.attach_lora(
        model,
        rank=lora.rank,
        alpha=lora.alpha if lora.alpha is not None else 2.0 * lora.rank,
        dropout=lora.dropout,
        targets=lora.targets or "all-linear",
        seed=recipe.seed,
        task_type=task_type,
    )


def save_borrowed(model: Any, tokenizer: PreTrainedTokenizerBase, paths: Paths) -> dict[str, Any]:
    """Writes `model/`, a complete plain model, and `adapter/` beside it if one was trained; returns notes for
    the record."""
    notes = {}
    if isinstance(model, PeftModel):
        if loading.is_first_process():
            model.save_pretrained(str(paths.folder / "adapter"), selected_adapters=["default"])
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        model, notes = adapters.merge(model), {"adapter": "adapter"}
    model.eval()
    loading.save_model(model, tokenizer, paths.folder / "model")
    return notes
