"""A trainer that is not ours, run as a stage of ours: its steps, records, checkpoints and stops are this
library's.

    class RewardRun(BorrowedRun, trl.RewardTrainer): ...

The loss and what a step computes stay the other trainer's. Its rows come in the order of the whole run, from
the step where it starts, so a run resumes with one integer; checkpoints are those of
`tuning.train.checkpoint`, without pickle. Nothing is sent anywhere: TRL's telemetry is off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from tuning.records import append_jsonl, read_jsonl, write_jsonl
from tuning.train import checkpoint, signals
from tuning.train.meter import Meter
from tuning.train.schedule import learning_rate_factor
from tuning.train.trainer import Diverged, Interrupted


@dataclass(frozen=True)
class Plan:
    """What a borrowed trainer is told besides its own arguments."""

    name: str
    folder: Path
    num_steps: int
    batch_rows: int
    """Rows of one optimizer step, over all devices."""
    unit: str
    """What a row is called in `metrics.jsonl`: pairs or prompts."""
    rows_per_epoch: int
    learning_rate: float
    lr_schedule: str = "cosine"
    warmup_steps: int = 0
    min_learning_rate: float = 0.0
    log_steps: int = 1
    eval_steps: int | None = None
    save_steps: int | None = None
    keep_checkpoints: int = 2
    whole_steps: int = 1
    """Checkpoints lie behind multiples of this step: a step between them reads what an earlier one made."""
    evaluates_first: bool = False
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None
    stop_after: int | None = None
    """Stops as a signal would after this step; for tests."""
    resume_from: Path | None = None
    """The checkpoint that is taken up; None = from the beginning."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def start_step(self) -> int:
        """Steps that are done already."""
        return checkpoint.step_of(self.resume_from) if self.resume_from is not None else 0

    def learning_rate_factor(self) -> Callable[[int], float]:
        """Share of the peak learning rate by 0-based step, as our own trainer has it."""
        return partial(
            learning_rate_factor,
            schedule=self.lr_schedule,
            num_steps=self.num_steps,
            warmup_steps=self.warmup_steps,
            minimum=self.min_learning_rate / self.learning_rate if self.learning_rate else 0.0,
        )


class BorrowedRun(Trainer):
    """Comes before the other trainer among the bases; takes the `plan` besides its arguments."""

    def __init__(self, *args: Any, plan: Plan, **options: Any) -> None:
        self.plan = plan
        self.start_step = plan.start_step
        super().__init__(*args, **options)
        self.remove_callback(PrinterCallback)
        self.meter = Meter(
            plan.name,
            plan.num_steps,
            first_step=self.start_step,
            every=plan.log_steps,
            enabled=self.is_world_process_zero(),
        )
        self.add_callback(_Records(self))

    def _send_telemetry(self) -> None:
        """TRL would tell its makers of the run; nothing of a run leaves the machine."""

    @property
    def bare_model(self) -> nn.Module:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def _trained(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            factor = self.plan.learning_rate_factor()
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self._trained, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def run(self) -> None:
        """Trains to the last step, or raises `Interrupted` after a checkpoint."""
        if self.plan.resume_from is not None:
            checkpoint.load_weights(self.plan.resume_from, self.bare_model)
            self.meter.note(f"resumes after step {self.start_step}/{self.plan.num_steps}")
        self._cut_records()
        self.meter.start()
        if self.plan.evaluates_first and self.start_step == 0:
            self.evaluate_now(0)
        with signals.stop_signals():
            try:
                if self.start_step < self.plan.num_steps:
                    self.train()
            finally:
                self.meter.close()

    def _cut_records(self) -> None:
        """Drops lines of steps that the checkpoint does not hold: they will be computed again."""
        if not self.is_world_process_zero():
            return
        for name in ("metrics.jsonl", "evaluation.jsonl"):
            path, done = self.plan.folder / name, self.start_step if self.plan.resume_from else -1
            if path.is_file():
                write_jsonl(path, [line for line in read_jsonl(path) if line["step"] <= done])

    def evaluate_now(self, step: int) -> None:
        """Computes the held-out figures and writes them down."""
        if self.plan.evaluate is None:
            return
        model = self.bare_model
        was_training = model.training
        model.eval()
        figures = self.plan.evaluate(model)
        model.train(was_training)
        if self.is_world_process_zero():
            append_jsonl(self.plan.folder / "evaluation.jsonl", {"step": step, **figures})
        numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
        self.meter.note(f"step={step} " + " ".join(f"{name}={value:.4f}" for name, value in numbers.items()))

    def save_now(self, step: int) -> None:
        """Writes a checkpoint of the step just done."""
        states = gather_object([checkpoint.random_state()])
        if self.is_world_process_zero():
            checkpoint.save(
                self.plan.checkpoints,
                step=step,
                model=self.bare_model,
                optimizer=self.optimizer,
                scheduler=self.lr_scheduler,
                random_states=states,
                keep=self.plan.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def is_asked_to_stop(self, step: int) -> bool:
        """Whether any rank was signalled: all ranks stop after the same step."""
        asked = bool(signals.received) or step == self.plan.stop_after
        return any(gather_object([asked]))


class _Records(TrainerCallback):
    """Takes up a checkpoint, and closes every step: its line, its evaluation, its checkpoint."""

    def __init__(self, run: BorrowedRun) -> None:
        self.run, self.plan = run, run.plan
        self.started = time.monotonic()
        self.tokens = 0.0
        self.stops = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (resume_from := self.plan.resume_from) is not None:
            checkpoint.load_optimizer(resume_from, self.run.optimizer, self.run.lr_scheduler)
            state.global_step = self.run.start_step
            # Trainer divides the next logged loss by the steps since this one.
            self.run._globalstep_last_logged = self.run.start_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        resume_from = self.plan.resume_from
        if resume_from is not None and state.global_step == self.run.start_step:
            # Not before: making the loader's iterator draws a random number.
            checkpoint.load_random(resume_from, self.run.accelerator.process_index)
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        step, plan = int(state.global_step), self.plan
        if not logs or "loss" not in logs:  # the summary that Trainer logs behind the last step
            return
        line = self._line(step, dict(logs))
        for what, name in (("loss", "loss"), ("gradient's norm", "grad_norm")):
            if line[name] is not None and not math.isfinite(line[name]):
                raise Diverged(
                    f"{plan.name}: the {what} of step {step} is {line[name]}; nothing of this step is kept "
                    "and earlier checkpoints are untouched"
                )
        if self.run.is_world_process_zero():
            append_jsonl(plan.folder / "metrics.jsonl", line)
        self.run.meter.show(step, line)
        is_last = step == plan.num_steps
        if is_last or (plan.eval_steps and step % plan.eval_steps == 0):
            self.run.evaluate_now(step)
        self.stops = self.stops or self.run.is_asked_to_stop(step)
        is_whole = step % plan.whole_steps == 0 or is_last
        every = plan.save_steps or max(1, plan.num_steps // 10)
        every = plan.whole_steps * math.ceil(every / plan.whole_steps)
        if is_whole and (self.stops or is_last or step % every == 0):
            self.run.save_now(step)
        if self.stops and is_whole and not is_last:
            done = f"{plan.name}: stopped after step {step}/{plan.num_steps}"
            raise Interrupted(f"{done}; the same command goes on from there")

    def _line(self, step: int, logs: dict[str, Any]) -> dict[str, Any]:
        """A line of `metrics.jsonl`: this library's names first, then what the other trainer measured."""
        plan, tokens = self.plan, logs.pop("num_tokens", None)
        line = {
            "step": step,
            "loss": logs.pop("loss"),
            "grad_norm": logs.pop("grad_norm", None),
            "learning_rate": logs.pop("learning_rate"),
            "epoch": math.ceil(step / plan.whole_steps) * plan.batch_rows / plan.rows_per_epoch,
            plan.unit: plan.batch_rows,
        }
        if tokens is not None:  # TRL counts from the start of the process
            line["tokens"], self.tokens = int(tokens - self.tokens), tokens
        logs.pop("epoch", None)
        return {**line, **logs, "seconds": time.monotonic() - self.started}
