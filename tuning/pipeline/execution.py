"""One execution of a recipe: where its stages lie, what they left, which process writes and speaks."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuning.config import Recipe


@dataclass
class Run:
    """One execution of a recipe: where its stages lie and what each of them left."""

    recipe: Recipe
    output: Path
    fingerprints: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    quiet: bool = False

    def folder(self, stage: str) -> Path:
        return self.output / stage

    @property
    def cache(self) -> Path:
        return self.output / "cache"

    def say(self, text: str) -> None:
        if not self.quiet and is_first_process():
            print(text, file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this process writes folders: the only one, or rank 0 of a launch."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Returns once every process of a launch has come here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState
        from accelerate.utils import is_cuda_available

        # Without the flag, accelerate takes a launch on CPU for a single process and waits for nobody.
        PartialState(cpu=not is_cuda_available()).wait_for_everyone()


def shown(path: Path) -> str:
    """A path as the user would write it: from the working directory, where it lies in it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
