"""What a run prints while it works: a bar on a terminal, one plain line a step in a log."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch


class Meter:
    """Shows the steps of one training stage; everything shown also stands in `metrics.jsonl`.

    On a terminal a bar is redrawn in place. Elsewhere each shown step is one line of `key=value` words, so
    that `grep loss= slurm.log` works.
    """

    def __init__(
        self, name: str, num_steps: int, *, first_step: int = 0, every: int = 1, enabled: bool = True
    ) -> None:
        self.name, self.num_steps, self.first_step, self.every = name, num_steps, first_step, every
        self.enabled = enabled
        self.started = time.monotonic()
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(name, total=num_steps, completed=first_step, figures="")

    def start(self) -> None:
        """Draws the bar; until then the terminal is free for what comes before the first step."""
        if self._bar is not None:
            self._bar.start()

    def show(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Reports the step numbered `step` from 1."""
        if not self.enabled:
            return
        if step == self.first_step + 1:
            self.started = time.monotonic() - metrics["seconds"]
        figures = self.figures(step, metrics)
        if self._bar is not None:
            shown = " ".join(f"{key} {value}" for key, value in figures.items() if key not in ("step", "eta"))
            self._bar.update(self._task, completed=step, figures=shown)
        elif step % self.every == 0 or step in (self.first_step + 1, self.num_steps):
            print(
                f"{self.name} " + " ".join(f"{key}={value}" for key, value in figures.items()),
                file=sys.stderr,
                flush=True,
            )

    def figures(self, step: int, metrics: Mapping[str, Any]) -> dict[str, str]:
        """What is shown of a step, as text."""
        elapsed = time.monotonic() - self.started
        done = step - self.first_step
        remaining = elapsed / max(1, done) * (self.num_steps - step)
        figures = {"step": f"{step}/{self.num_steps}", "loss": f"{metrics['loss']:.4f}"}
        if "rewards/accuracies" in metrics:
            figures["rewards/accuracies"] = f"{metrics['rewards/accuracies']:.2f}"
        if metrics.get("grad_norm") is not None:
            figures["grad_norm"] = f"{metrics['grad_norm']:.3g}"
        figures["lr"] = f"{metrics['learning_rate']:.2e}"
        for name in ("accuracy", "reward"):  # of a reward model, of GRPO
            if name in metrics:
                figures[name] = f"{metrics[name]:.3g}"
        if "tokens" in metrics:
            figures["tokens/s"] = f"{metrics['tokens'] / max(1e-9, metrics['seconds']):.0f}"
        if "target_tokens" in metrics:
            targets = 100 * metrics["target_tokens"] / max(1, metrics["unshared_tokens"])
            figures["supervised"] = f"{targets:.0f}%"
        figures["memory"] = f"{memory_gib():.1f}GiB"
        figures["eta"] = clock(remaining)
        return figures

    def note(self, text: str) -> None:
        """Prints a line that is not a step: an evaluation, a checkpoint."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(f"{self.name} {text}", highlight=False)
        else:
            print(f"{self.name} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def memory_gib() -> float:
    """Peak memory so far in GiB: reserved on the GPU, or of this process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
