"""What comes back from a model that was asked something."""

from __future__ import annotations

from dataclasses import dataclass


class AskingStopped(RuntimeError):
    """The model cannot be asked further (no server, no quota, wrong key). What is answered so far stays in
    the cache: the same command goes on from there."""


@dataclass(frozen=True)
class Answer:
    """A text as it came; with a `fault` it is none, or not all of it.

    `cut_off`: the length limit ended it. `refused`: the endpoint will not answer this text. `no_answer`: it
    failed on this text every time.
    """

    text: str
    fault: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether asking again could not change it, so that the cache may keep it."""
        return self.fault in (None, "cut_off")
