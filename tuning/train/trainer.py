"""One `transformers.Trainer` for every objective, through public hooks only.

One item of the loader is one optimizer step: this rank's micro-rows, their weights already divided by the
totals of the whole global step. `training_step` loops over them and lets accelerate synchronise at the last,
so loss and gradient are the same for any token budget, accumulation or number of ranks.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tuning.model.adapters import reference_of
from tuning.records import append_jsonl, read_jsonl, write_json, write_jsonl
from tuning.train import checkpoint, signals
from tuning.train.alarms import Alarm, Watch, diverged
from tuning.train.best import Best, best_of
from tuning.train.live_reference import LiveReference
from tuning.train.meter import Meter
from tuning.train.reference import ReferenceStore
from tuning.train.reference_pass import fill_store
from tuning.train.schedule import learning_rate_factor
from tuning.train.session import Session, StepLoader
from tuning.train.step_objectives import Metrics, Objective, PreferenceObjective
from tuning.train.steps import Division, Example, MicroBatch, Step


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint of the last finished step stands on disk."""


class Diverged(RuntimeError):
    """The loss or its gradient is not a finite number; no checkpoint holds that step."""


def gathered(values: Tensor) -> list[Tensor]:
    """The tensors of all ranks, whatever their lengths, in the ranks' order."""
    parts: list[Tensor] = gather_object([values.cpu()])
    return [part.to(values.device) for part in parts]


class ChatTrainer(Trainer):
    """Trains a `TargetModel` on a `Schedule` with an `Objective`; resumes from the newest whole
    checkpoint."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: nn.Module, args: TrainingArguments, session: Session, objective: Objective
    ) -> None:
        self.session = session
        self.objective: Objective = objective
        self.model_accepts_loss_kwargs = False
        super().__init__(model=model, args=args)
        self.remove_callback(PrinterCallback)
        self.start_step = 0
        self._evaluations: list[dict[str, Any]] = []
        self._resume_from, damaged = checkpoint.newest_whole(session.checkpoints)
        self._pending: dict[str, Any] = {}
        if self._resume_from is not None:
            self.start_step = checkpoint.step_of(self._resume_from)
        self.meter = Meter(
            session.name,
            session.schedule.num_steps,
            first_step=self.start_step,
            every=session.log_steps,
            enabled=self.is_world_process_zero(),
        )
        for line in damaged:
            self.meter.note(f"damaged checkpoint passed over: {line}")
        self.watch = Watch(session.schedule.num_steps, session.learning_rate)
        self.add_callback(_Resume(self))

    @property
    def policy(self) -> nn.Module:
        """The model in training, as it is sharded or not, without gradient synchronisation."""
        assert self.model is not None
        return self.model

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None
        return self.optimizer

    @property
    def division(self) -> Division:
        """This rank's share of the work."""
        return Division(
            tokens_per_device=self.session.tokens_per_device,
            rank=self.accelerator.process_index,
            num_ranks=self.accelerator.num_processes,
            share_prefix=self.session.share_prefix,
        )

    def get_train_dataloader(self) -> StepLoader:  # type: ignore[override]
        return StepLoader(self.session.schedule, self.division, self.start_step)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Step], num_batches: int, device: Any
    ) -> tuple[list[Step], None]:
        """The next step; its weights are divided already, so there is nothing to count."""
        return list(itertools.islice(epoch_iterator, num_batches)), None

    def num_examples(self, dataloader: Any) -> int:
        return self.session.schedule.num_rows

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated here: the plan knows tokens and parameters better."""
        return 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            session = self.session
            factor = partial(
                learning_rate_factor,
                schedule=session.lr_schedule,
                num_steps=session.schedule.num_steps,
                warmup_steps=session.warmup_steps,
                minimum=session.min_learning_rate / session.learning_rate if session.learning_rate else 0.0,
                hold_steps=session.hold_steps,
            )
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self._optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: nn.Module, inputs: Step, num_items_in_batch: Any = None) -> Tensor:  # type: ignore[override]
        """Forward and backward of all this rank's micro-rows; returns the step's loss over all ranks."""
        started = time.monotonic()
        model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        sums: dict[str, Tensor] = {}
        if isinstance(self.objective, PreferenceObjective) and self.objective.sees_step:
            self._prepare(model, inputs)
        for number, micro_batch in enumerate(inputs.micro_batches, 1):
            is_last = number == len(inputs.micro_batches)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                part, metrics = self._forward_backward(model, micro_batch)
            loss += part
            for name, pair in metrics.items():
                sums[name] = sums.get(name, 0) + torch.stack(pair).to(torch.float64)
        # One reduction and one synchronisation a step: the loss, then the metrics in a fixed order.
        flat = torch.cat([loss[None], *sums.values()])
        total: list[float] = self.accelerator.reduce(flat, reduction="sum").tolist()
        if not math.isfinite(total[0]):
            self._stop_diverged("loss", total[0], inputs)
        unit = "pairs" if self.session.schedule.is_preference else "rows"
        self._pending = {
            "step": inputs.index + 1,
            "loss": total[0],
            "grad_norm": None,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "epoch": inputs.epoch,
            unit: inputs.num_rows,
            "tokens": inputs.num_tokens,
            "unshared_tokens": inputs.num_unshared_tokens,
            "target_tokens": inputs.num_targets,
            "micro_steps": len(inputs.micro_batches),
            **{
                name: value / weight
                for name, value, weight in zip(sums, total[1::2], total[2::2], strict=True)
                if weight
            },
            "started": started,
            "rows_of": inputs,
        }
        return torch.tensor(total[0], dtype=torch.float32, device=self.args.device)

    def _prepare(self, model: nn.Module, step: Step) -> None:
        """Shows the objective the whole step, all ranks' pairs, before the first gradient."""
        assert isinstance(self.objective, PreferenceObjective)
        with self.compute_loss_context_manager():
            here = [micro_batch.to(self.args.device) for micro_batch in step.micro_batches]
            self.objective.prepare(model, here, gathered, self.accelerator.process_index)

    def _forward_backward(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        with self.compute_loss_context_manager():
            loss, metrics = self.objective(model, micro_batch.to(self.args.device))
        # DDP and FSDP average gradients over ranks; the weights already hold the whole step's total.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return loss.detach(), metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes the step's line of `metrics.jsonl`, shows it, passes it on to trackers."""
        if "grad_norm" in logs and self._pending:
            self._finish_step(logs["grad_norm"])
        elif "train_runtime" not in logs:
            super().log(logs, start_time)

    def _finish_step(self, grad_norm: float) -> None:
        session, line = self.session, self._pending
        self._pending = {}
        inputs: Step = line.pop("rows_of")
        if grad_norm is not None and not math.isfinite(grad_norm):
            # The update is made by now, but only in memory: the process ends without a checkpoint of it.
            self._stop_diverged("gradient's norm", grad_norm, inputs)
        line["grad_norm"] = grad_norm
        line["seconds"] = time.monotonic() - line.pop("started")
        step, is_last = line["step"], line["step"] == session.schedule.num_steps
        if self.is_world_process_zero():
            append_jsonl(session.metrics_file, line)
        self.meter.show(step, line)
        for alarm in self.watch.see(line):
            self._ring(alarm)
        if step % session.log_steps == 0 or is_last:
            super().log(
                {
                    name: value
                    for name, value in line.items()
                    if isinstance(value, (int, float)) and name != "step"
                }
            )
        if session.evaluate and (is_last or (session.eval_steps and step % session.eval_steps == 0)):
            self._evaluate_now(step)
        best = self.best()
        is_best = best is not None and best.step == step
        has_ended = self._has_stopped_improving(best)
        self.control.should_training_stop |= has_ended
        stops = self._asked_to_stop(step)
        every = session.save_steps or max(1, session.schedule.num_steps // 10)
        if stops or is_last or is_best or has_ended or step % every == 0:
            self._checkpoint(step)
        if stops and not is_last and not has_ended:
            self.meter.close()
            raise Interrupted(
                f"{session.name}: stopped after step {step}/{session.schedule.num_steps}; "
                "the same command goes on from there"
            )

    def _stop_diverged(self, what: str, value: float, step: Step) -> NoReturn:
        name, rows = self.session.name, [each.id for part in step.micro_batches for each in part.examples]
        self._ring(diverged(step.index + 1, value, self.session.learning_rate, what=what))
        raise Diverged(
            f"{name}: the {what} of step {step.index + 1} is {value}; nothing of this step is kept and "
            f"earlier checkpoints are untouched; rows of this rank: {', '.join(rows[:8])}"
        )

    def _ring(self, alarm: Alarm) -> None:
        """Tells of an alarm on the terminal, and writes it to `alarms.jsonl`."""
        self.meter.note(str(alarm))
        if self.is_world_process_zero():
            append_jsonl(self.session.folder / "alarms.jsonl", alarm.as_dict())

    def best(self) -> Best | None:
        """The best evaluation so far by the session's `best_by`; None without one."""
        name = self.session.best_by
        return None if name is None else best_of(self._evaluations, name)

    def _has_stopped_improving(self, best: Best | None) -> bool:
        patience = self.session.stop_after_evaluations
        return best is not None and patience is not None and best.since >= patience

    def _evaluate_now(self, step: int) -> None:
        assert self.session.evaluate is not None
        self.policy.eval()
        figures = self.session.evaluate(self.policy, self)
        self.policy.train()
        if self.is_world_process_zero():
            append_jsonl(self.session.folder / "evaluation.jsonl", {"step": step, **figures})
        self._evaluations.append({"step": step, **figures})
        shown = {
            name: value
            for name, value in figures.items()
            if isinstance(value, float)
            and (
                name.split("/")[0] in ("loss", "accuracy")
                or name in ("rewards/accuracies", self.session.best_by)
            )
        }
        self.meter.note(f"step={step} " + " ".join(f"{name}={value:.4f}" for name, value in shown.items()))
        super().log({f"eval_{name}": value for name, value in figures.items() if isinstance(value, float)})

    def _checkpoint(self, step: int) -> None:
        states, best = gather_object([checkpoint.random_state()]), self.best()
        if self.is_world_process_zero():
            checkpoint.save(
                self.session.checkpoints,
                step=step,
                model=self.accelerator.unwrap_model(self.model_wrapped),
                optimizer=self.optimizer,
                scheduler=self.lr_scheduler,
                random_states=states,
                keep=self.session.keep_checkpoints,
                keep_step=None if best is None else best.step,
            )
        self.accelerator.wait_for_everyone()

    def _asked_to_stop(self, step: int) -> bool:
        """Whether any rank was signalled: all ranks stop after the same step."""
        asked = bool(signals.received) or step == self.session.stop_after
        if self.accelerator.num_processes == 1:
            return asked
        flag = torch.tensor(float(asked), device=self.args.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def evaluation_tools(self) -> dict[str, Any]:
        """Where and how held-out figures are computed: device, sum over ranks, autocast."""
        return {
            "device": self.args.device,
            "reduce": lambda tensor: self.accelerator.reduce(tensor, reduction="sum"),
            "context": self.compute_loss_context_manager,
        }

    def compute_reference(self, store: ReferenceStore | LiveReference | None, dev: list[Example]) -> None:
        """Fills a store with the reference's log-probs of every pair of the run and of `dev` that it lacks.

        The model is the reference as long as nothing was trained, its adapter switched off: no second copy of
        it exists. Asked to stop, it keeps what is done and raises `Interrupted`. A live reference, or none,
        has nothing to fill.
        """
        if not isinstance(store, ReferenceStore):
            return
        self.policy.eval()
        with signals.stop_signals(), reference_of(self.policy):
            filled = fill_store(
                store,
                self.policy,
                self.session.schedule,
                self.division,
                dev,
                device=self.args.device,
                context=self.compute_loss_context_manager,
                gather=gather_object,
                shows=self.meter.enabled,
            )
        self.meter.note(str(filled))
        if filled.was_stopped:
            self.meter.close()
            raise Interrupted(
                f"{self.session.name}: stopped during the reference pass; the same command goes on from there"
            )

    def run(self) -> None:
        """Trains to the end of the schedule, or raises `Interrupted` after a checkpoint.

        The model is then that of the last step, or of the best evaluation if the session says by what.
        """
        if self._resume_from is not None:
            checkpoint.load_weights(self._resume_from, self.policy)
            self.meter.note(f"resumes after step {self.start_step}/{self.session.schedule.num_steps}")
        self._take_up_lines()
        best = self.best()
        if best is not None:
            self._checkpoint_of(best)
        self.meter.start()
        with signals.stop_signals():
            try:
                has_ended = self._has_stopped_improving(best)
                if self.start_step < self.session.schedule.num_steps and not has_ended:
                    self.train()
            finally:
                self.meter.close()
        self._take_best()

    def _take_best(self) -> None:
        """Puts the weights of the best evaluation into the model, and says so in `best.json`."""
        best = self.best()
        if best is None:
            return
        if self._has_stopped_improving(best):
            self.meter.note(f"no better {best.name} in {best.since} evaluations: stopped early")
        self.meter.note(f"the best {best.name} is {best.figure:.4f}, of step {best.step}: that is the result")
        checkpoint.load_weights(self._checkpoint_of(best), self.accelerator.unwrap_model(self.policy))
        if self.is_world_process_zero():
            write_json(self.session.folder / "best.json", best.as_dict())

    def _checkpoint_of(self, best: Best) -> Path:
        path = checkpoint.path_of(self.session.checkpoints, best.step)
        problem = checkpoint.damage(path)
        if problem is not None:
            raise RuntimeError(
                f"{path}, the checkpoint of the best {best.name}, cannot be used: {problem}; remove "
                f"{self.session.checkpoints} to train this stage anew"
            )
        return path

    def _take_up_lines(self) -> None:
        """Drops lines of steps that the checkpoint does not hold, since they will be computed again.

        The watch sees the others once more; what it rings for stands in the alarms kept.
        """
        kept: dict[str, list[dict[str, Any]]] = {}
        for name in ("metrics.jsonl", "evaluation.jsonl", "alarms.jsonl"):
            path = self.session.folder / name
            lines = list(read_jsonl(path)) if path.is_file() else []
            kept[name] = [line for line in lines if line["step"] <= self.start_step]
        self.accelerator.wait_for_everyone()  # every rank has read what the first is about to write anew
        if self.is_world_process_zero():
            for name, lines in kept.items():
                if (self.session.folder / name).is_file():
                    write_jsonl(self.session.folder / name, lines)
        for line in kept["metrics.jsonl"]:
            self.watch.see(line)
        self._evaluations = kept["evaluation.jsonl"]


class _Resume(TrainerCallback):
    """Puts optimizer, schedule and random generators back once Trainer has made them."""

    def __init__(self, trainer: ChatTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        if trainer._resume_from is not None:
            checkpoint.load_optimizer(trainer._resume_from, trainer.optimizer, trainer.lr_scheduler)
            checkpoint.load_random(trainer._resume_from, trainer.accelerator.process_index)
            state.global_step = trainer.start_step
