"""What a setting may be: its type, its limits, and both of them in words."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

REQUIRED: Any = dataclasses.MISSING
"""Stands for the default of a setting that has none."""

INVALID: Any = object()
"""Stands for a value that got a problem instead."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def setting(default: Any, doc: str, **limits: Any) -> Any:
    """A dataclass field with its one-line description.

    `limits`: `choices`; `minimum` and `maximum` (allowed themselves); `above` and `below` (not allowed).
    """
    metadata = {"doc": doc, **limits}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=functools.partial(copy.copy, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(schema: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass by their names in YAML: `from_` is written `from`."""
    return {item.name.rstrip("_"): item for item in dataclasses.fields(schema)}


@functools.cache
def types_of(schema: type) -> dict[str, Any]:
    """The types of a dataclass's fields by their names in YAML."""
    return {name.rstrip("_"): hint for name, hint in typing.get_type_hints(schema).items()}


def without_null(hint: Any) -> Any:
    """The type without its `| None`; a tuple when several remain."""
    if not isinstance(hint, types.UnionType):
        return hint
    members = tuple(member for member in typing.get_args(hint) if member is not types.NoneType)
    return members if len(members) > 1 else members[0]


def is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is list


def is_section(hint: Any) -> typing.TypeGuard[type]:
    """Whether a type is a dataclass of settings."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def entry_type(hint: Any) -> type | None:
    """What the entries of a mapping are, when they are settings under names that the user gives."""
    inner = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    return inner if is_section(inner) else None


@functools.cache
def sections(schema: type) -> Mapping[str, list[str]]:
    """Where each setting may stand: `beta` in `dpo`, `rank` in `sft.lora` and `dpo.lora`."""
    found: dict[str, list[str]] = {}
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        key, section = waiting.pop(0)
        for name, hint in types_of(section).items():
            path = f"{key}.{name}" if key else name
            found.setdefault(name, []).append(path)
            if below := entry_type(hint):
                waiting.append((f"{path}.<name>", below))
            elif is_section(without_null(hint)):
                waiting.append((path, without_null(hint)))
    return found


def fill_in_defaults(
    schema: type, values: dict[str, Any], given: typing.Container[str], key: str = ""
) -> None:
    """Adds the default of every setting that no layer gives; a setting given wrongly stays absent."""
    for name, item in settings_of(schema).items():
        path, inner = f"{key}.{name}" if key else name, without_null(types_of(schema)[name])
        value = values.get(name)
        if name not in values and path not in given:
            if item.default is not REQUIRED:
                values[name] = item.default
            elif item.default_factory is not dataclasses.MISSING:
                values[name] = item.default_factory()
        elif isinstance(value, dict) and is_section(inner):
            fill_in_defaults(inner, value, given, path)
        elif isinstance(value, dict) and (below := entry_type(inner)):
            for entry_name, entry in value.items():
                fill_in_defaults(below, entry, given, f"{path}.{entry_name}")


def accepted(hint: Any, limits: Mapping[str, Any]) -> str:
    """What a setting takes, in words: `a whole number of at least 1, or null`."""
    inner = without_null(hint)
    if "choices" in limits:
        choices = ", ".join(limits["choices"])
        text = f"a list of {choices}" if is_list(inner) else f"one of {choices}"
    elif isinstance(inner, tuple):
        text = " or ".join(accepted(member, {}) for member in inner)
    elif is_section(inner):
        text = f"a mapping with {', '.join(settings_of(inner))}"
    elif is_list(inner):
        text = "a list of text"
    else:
        text = _WORDS.get(inner, "a mapping")
    bounds = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    ranges = " and ".join(f"{words} {limits[name]}" for name, words in bounds.items() if name in limits)
    text = f"{text} {ranges}" if ranges else text
    return text if inner is hint else f"{text}, or null"


def parsed(form: type, text: str, kind: str, is_plain: bool) -> Any:
    """A scalar as `form` (str, bool, int or float); `INVALID` when it is none, or not for certain.

    `kind` is YAML 1.1's opinion. It counts for text only, since it takes `1e-5` for text, `010` for eight and
    `no` for a boolean.
    """
    if form is str:
        return text if kind in ("str", "value") else INVALID
    if not is_plain:
        return INVALID
    if form is bool:
        return {"true": True, "false": False}.get(text.lower(), INVALID)
    if _INTEGER.fullmatch(text):
        return form(text) if len(text) < 20 else INVALID
    if form is float and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return INVALID


def looks_like_number(text: str) -> bool:
    return _FLOAT.fullmatch(text) is not None


def is_within(value: Any, limits: Mapping[str, Any]) -> bool:
    """Whether a value keeps to the limits of its setting."""
    if "choices" in limits:
        return value in limits["choices"]
    if isinstance(value, str):
        return True
    is_allowed = limits.get("minimum", value) <= value <= limits.get("maximum", value)
    return bool(is_allowed and limits.get("above", -math.inf) < value < limits.get("below", math.inf))
