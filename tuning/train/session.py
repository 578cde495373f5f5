"""What one training stage needs besides model and objective: its steps, its settings, Trainer's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from tuning.train.steps import Division, Schedule, Step


@dataclass
class Session:
    """What one training stage needs besides model and objective."""

    name: str
    folder: Path
    schedule: Schedule
    tokens_per_device: int
    learning_rate: float
    lr_schedule: str = "cosine"
    warmup_steps: int = 0
    min_learning_rate: float = 0.0
    hold_steps: int = 0
    share_prefix: bool = True
    log_steps: int = 1
    eval_steps: int | None = None
    save_steps: int | None = None
    keep_checkpoints: int = 2
    best_by: str | None = None
    """Name of the evaluation figure whose best step becomes the result; None = the last step does."""
    stop_after_evaluations: int | None = None
    evaluate: Callable[[nn.Module, Trainer], dict[str, Any]] | None = None
    stop_after: int | None = None
    """Stops as a signal would after this step; for tests and for trying a recipe out."""

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


class StepLoader:
    """The steps of a run from `start` on, as Trainer iterates over them."""

    def __init__(self, schedule: Schedule, division: Division, start: int) -> None:
        self.schedule, self.division, self.start = schedule, division, start

    def __len__(self) -> int:
        return self.schedule.num_steps

    def __iter__(self) -> Iterator[Step]:
        return self.schedule.steps(self.division, self.start)


def training_arguments(
    folder: Path, *, precision: torch.dtype, settings: Mapping[str, Any], num_steps: int
) -> TrainingArguments:
    """Trainer's arguments: what this library decides, then `settings` (optimizer and the recipe's
    `trainer:`)."""
    return TrainingArguments(
        **{
            "output_dir": str(folder / "checkpoints"),
            "max_steps": num_steps,
            "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": 1,
            "remove_unused_columns": False,
            "label_names": [],
            "logging_strategy": "steps",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "eval_strategy": "no",
            "disable_tqdm": True,
            "bf16": precision == torch.bfloat16,
            "use_cpu": not torch.cuda.is_available(),
            "report_to": [],
            **settings,
        }
    )
