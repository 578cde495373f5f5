"""What long work shows while it lasts: a bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

QUIET_SECONDS = 2.0
"""Work that is done sooner shows nothing."""
EVERY_SECONDS = 10.0
REDRAW_SECONDS = 0.1


class Progress:
    """Counts rows, or what `unit` names: `encode dolly-ja rows=16384/74000 rows/s=2345 eta=25s`."""

    def __init__(self, name: str, total: int, unit: str = "rows") -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._started = self._shown = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._redraw()
            self._bar.stop()
        elif self._shown > self._started and error is None:
            self._line()

    def advance(self, rows: int = 1) -> None:
        self.done += rows
        now = time.monotonic()
        if now - self._started < QUIET_SECONDS or not self.done:
            return
        is_terminal = sys.stderr.isatty()
        if now - self._shown >= (REDRAW_SECONDS if is_terminal else EVERY_SECONDS):
            self._shown = now
            self._redraw() if is_terminal else self._line()

    def _line(self) -> None:
        rate = self.done / max(1e-9, time.monotonic() - self._started)
        left = (self.total - self.done) / max(rate, 1e-9)
        unit, pace = self.unit, f"{rate:.0f}" if rate >= 10 else f"{rate:.2f}"
        print(
            f"{self.name} {unit}={self.done}/{self.total} {unit}/s={pace} eta={left:.0f}s",
            file=sys.stderr,
            flush=True,
        )

    def _redraw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {self.unit}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.name, total=self.total)
            self._bar.start()
        self._bar.update(self._task, completed=self.done)
