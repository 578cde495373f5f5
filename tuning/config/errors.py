"""What is wrong with a recipe: every mistake with its place and the name that was probably meant.

recipes/my.yaml:14: sft.mix.dolly.weigth is not a setting; did you mean weight?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where something was written; lines and columns count from 1. An override has neither."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One mistake. `message` is a whole sentence, `suggestion` the name or value that was probably meant."""

    file: str
    line: int | None
    column: int | None
    key: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        return f"{Place(self.file, self.line)}: {self.message}"


class RecipeError(ValueError):
    """A recipe that may not run; `problems` holds every mistake, in the order in which one meets them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def problem(place: Place, key: str, message: str, suggestion: str | None = None) -> Problem:
    """A mistake at a place; its message ends with the suggestion, where there is one."""
    hint = f"; did you mean {suggestion}?" if suggestion else ""
    return Problem(place.file, place.line, place.column, key, message + hint, suggestion)


def nearest(name: str, names: Iterable[str], taken: Iterable[str] = ()) -> str | None:
    """The name that was probably meant, or None; a name that is taken already is meant less often."""
    unlikely = set(taken)

    def likeness(candidate: str) -> float:
        ratio = difflib.SequenceMatcher(None, candidate.lower(), name.lower()).ratio()
        return ratio - 0.2 * (candidate in unlikely)

    best = max(sorted(names), key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None


def brief(value: object) -> str:
    """A value as Python writes it, cut where it would fill the screen."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def in_order(problems: Iterable[Problem], files: list[str]) -> list[Problem]:
    """Every problem once: file by file in the order of lines, overrides last."""

    def position(item: Problem) -> tuple[int, int, int]:
        return files.index(item.file) if item.file in files else len(files), item.line or 0, item.column or 0

    return sorted(dict.fromkeys(problems), key=position)
