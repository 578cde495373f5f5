"""Stopping when asked: a signal is noted, and obeyed after the step in which it arrived."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

received: list[int] = []
"""Signals that arrived since `stop_signals` was entered."""


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end the run after the current step; a second one ends it at once."""

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    received.clear()
    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread (a notebook's worker): signals stay as they are
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
