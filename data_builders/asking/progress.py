"""What prints while a model is asked: a bar on a terminal, plain lines of `key=value` words in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2
RATE_SECONDS = 60.0
"""The rate is that of the last minute: rows that were in the cache would flatter it."""


class Progress:
    """Shows rows done, rate, time left, texts asked and found in the cache, and the flags so far."""

    def __init__(self, num_rows: int, *, name: str = "translate", enabled: bool = True) -> None:
        self.num_rows, self.name, self.enabled = num_rows, name, enabled
        self.num_done = 0
        self.flags: Counter[str] = Counter()
        self.is_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)])

    def row_done(self, flags: Mapping[str, int], *, num_asked: int, num_cached: int) -> None:
        """Counts one row and shows where things stand, if it is time to."""
        self.num_done += 1
        self.flags.update(flags)
        now = time.monotonic()
        if now - self._recent[-1][0] >= 1:
            self._recent.append((now, self.num_done))
        while len(self._recent) > 2 and now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()
        is_due = now - self._shown >= (BAR_SECONDS if self.is_terminal else LINE_SECONDS)
        if self.enabled and (is_due or self.num_done in (1, self.num_rows)):
            self._shown = now
            self._show(self.line(now, num_asked=num_asked, num_cached=num_cached))

    def line(self, now: float, *, num_asked: int, num_cached: int) -> str:
        """The figures as `key=value` words."""
        since, before = self._recent[0]
        rate = (self.num_done - before) / max(1e-9, now - since)
        flags = ",".join(f"{code}:{count}" for code, count in sorted(self.flags.items())) or "none"
        left = (self.num_rows - self.num_done) / rate if rate else 0.0
        return (
            f"rows={self.num_done}/{self.num_rows} rate={rate:.2f}/s eta={_clock(left)} "
            f"asked={num_asked} cached={num_cached} flags={flags}"
        )

    def note(self, text: str) -> None:
        """Prints a line of its own."""
        if self.enabled:
            print(f"{self.name} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar's line."""
        if self.enabled and self.is_terminal and self.num_done:
            print(file=sys.stderr, flush=True)

    def _show(self, line: str) -> None:
        if not self.is_terminal:
            print(f"{self.name} {line}", file=sys.stderr, flush=True)
            return
        filled = 20 * self.num_done // max(1, self.num_rows)
        columns = shutil.get_terminal_size().columns - 1
        text = f"{self.name} [{'#' * filled}{'.' * (20 - filled)}] {line}"
        print(f"\r\x1b[K{text[:columns]}", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
