"""Whether the values under `trainer:` are of the kinds that transformers and TRL declare for them.

Only kinds and fixed choices are checked: what a machine can do (TF32, a compiler, a number of workers) is for
the machine that trains to say, and `tuning check` may run on another.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from tuning.config import Recipe
from tuning.config.checks import TRAINED_STAGES
from tuning.config.errors import brief
from tuning.config.trainer_keys import keys_of


def trainer_value_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(key, message) of every value that its argument cannot take."""
    for stage in TRAINED_STAGES:
        config = getattr(recipe, stage)
        settings = config.trainer if config is not None else {}
        if not settings:
            continue  # importing transformers takes seconds
        arguments = keys_of(stage).arguments
        hints = _hints(arguments)
        for name, value in settings.items():
            if name in hints and not fits(value, hints[name]):
                key = f"{stage}.trainer.{name}"
                accepted = accepted_by(hints[name])
                yield key, f"{key}: saw {brief(value)}; {arguments} takes {accepted}"


_WIDER: Mapping[str, tuple[Any, ...]] = {"fsdp": (bool,)}
"""Kinds that an argument takes besides the declared ones: `fsdp: true` asks for accelerate's FSDP2."""


@functools.cache
def _hints(arguments: str) -> Mapping[str, Any]:
    """What each field of a class of transformers or TRL is declared to hold."""
    import transformers
    import trl

    package, _, name = arguments.rpartition(".")
    hints = typing.get_type_hints(getattr({"transformers": transformers, "trl": trl}[package], name))
    wider = {field: typing.Union[(hints[field], *kinds)] for field, kinds in _WIDER.items() if field in hints}
    return {**hints, **wider}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a YAML is what a field declares; a kind that no YAML could write is not judged."""
    choices = _choices(hint)
    if isinstance(value, str) and choices is not None:
        return value in choices
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if hint is list or origin is list:
        return isinstance(value, list) and all(fits(item, part) for part in parts for item in value)
    if hint is dict or origin is dict:
        return isinstance(value, dict)
    return not isinstance(hint, type) or not issubclass(hint, enum.Enum)


def accepted_by(hint: Any) -> str:
    """The words for what a field declares, such as `a number or null`."""
    choices = _choices(hint)
    if choices is not None:
        return "one of " + ", ".join(choices)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(accepted_by(part) for part in parts))
    if origin is typing.Literal:
        return " or ".join(str(part).lower() if isinstance(part, bool) else str(part) for part in parts)
    words = {
        None: "null",
        type(None): "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
    }
    return words.get(origin or hint, "what its documentation says")


def _choices(hint: Any) -> list[str] | None:
    """The texts that a field with a fixed set of them takes; None for any other. A field declared as
    `SchedulerType | str` takes the members' values."""
    for part in typing.get_args(hint) or (hint,):
        if isinstance(part, type) and issubclass(part, enum.Enum):
            return [str(member.value) for member in part]
    return None
