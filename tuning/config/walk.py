"""YAML against dataclasses: one walk over the nodes finds every mistake, with file, line and nearest name.

PyYAML's nodes know where they stand, so no mistake loses its line and none hides the next. A value is taken
only in the form in which YAML and a reader agree on it: `no` is not a text, `"64"` is not a number, `010` is
not eight.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from yaml import MappingNode, Node, ScalarNode, SequenceNode  # type: ignore[import-untyped,unused-ignore]

from tuning.config.errors import Place, Problem, brief, nearest, problem
from tuning.config.nodes import NotARecipe, compose
from tuning.config.trainer_keys import meant_elsewhere
from tuning.config.types import (
    INVALID,
    REQUIRED,
    accepted,
    entry_type,
    is_list,
    is_section,
    is_within,
    looks_like_number,
    parsed,
    sections,
    settings_of,
    types_of,
    without_null,
)

TAKEN_OUT: Any = object()
"""`null` for a named entry: this layer does not want the inherited one."""


@dataclass
class Entry:
    """A value and where its key stands. Mappings and lists hold entries, all else is plain."""

    value: Any
    place: Place

    def plain(self) -> Any:
        """The value without places; entries with a problem are left out of mappings."""
        if isinstance(self.value, dict):
            return {name: entry.plain() for name, entry in self.value.items() if entry.value is not INVALID}
        return [entry.plain() for entry in self.value] if isinstance(self.value, list) else self.value

    def places(self, key: str = "") -> Iterator[tuple[str, Place]]:
        """Every dotted key below this entry (`data.faq.input[0]`) with its place."""
        below: Iterable[tuple[str, Entry]] = ()
        if isinstance(self.value, dict):
            below = ((join(key, name), entry) for name, entry in self.value.items())
        elif isinstance(self.value, list):
            below = ((f"{key}[{index}]", entry) for index, entry in enumerate(self.value))
        for path, entry in below:
            yield path, entry.place
            yield from entry.places(path)


def join(key: str, name: str) -> str:
    """The dotted key of `name` below `key`."""
    return f"{key}.{name}" if key else name


def lay_over(below: Entry | None, above: Entry, problems: list[Problem], key: str = "") -> Entry:
    """The entry in which `above` wins over `below`: mappings merge, all else is replaced."""
    if not isinstance(above.value, dict):
        return above
    if below is None or not isinstance(below.value, dict):
        below = Entry({}, above.place)
    merged = dict(below.value)
    for name, entry in above.value.items():
        path = join(key, name)
        if entry.value is not TAKEN_OUT:
            merged[name] = lay_over(merged.get(name), entry, problems, path)
        elif merged.pop(name, None) is None:
            message = (
                f"{path}: saw null, but no such entry is inherited; accepted: a mapping, {{}} for defaults"
            )
            problems.append(problem(entry.place, path, message))
    return Entry(merged, below.place if above.place.line is None else above.place)


def missing_settings(schema: type, entry: Entry, problems: list[Problem], key: str = "") -> None:
    """Notes every required setting that no layer gives."""
    for name, item in settings_of(schema).items():
        path, inner = join(key, name), without_null(types_of(schema)[name])
        below: Entry | None = entry.value.get(name)
        if below is None:
            if item.default is REQUIRED and item.default_factory is REQUIRED:
                message = f"{path} is missing and has no default: {item.metadata['doc']}"
                problems.append(problem(entry.place, path, message))
        elif not isinstance(below.value, dict):
            continue
        elif is_section(inner):
            missing_settings(inner, below, problems, path)
        elif named := entry_type(inner):
            for entry_name, inner_entry in below.value.items():
                if isinstance(inner_entry.value, dict):
                    missing_settings(named, inner_entry, problems, join(path, entry_name))


def read_yaml(schema: type, text: str, file: str, problems: list[Problem]) -> Entry | None:
    """A YAML text read against a dataclass, or None if it cannot be read; mistakes go to `problems`."""
    reader = _Reader(schema, Place(file, 1, 1), problems)
    try:
        node = compose(text)
    except NotARecipe as refused:
        problems.append(problem(Place(file, refused.line, refused.column), "", refused.message))
        return None
    if isinstance(node, MappingNode):
        return Entry(reader.settings(schema, node, ""), reader.top)
    seen = "an empty file" if node is None else _seen(node)
    message = f"saw {seen}; a recipe is a mapping of settings, of which name, base and template are required"
    problems.append(problem(reader.top if node is None else reader.place(node), "", message))
    return None


def read_override(schema: type, override: str, label: str, problems: list[Problem]) -> Entry | None:
    """One `dotted.key=value` read against a dataclass; the value is YAML, an empty one null."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        message = "an override is written key=value, such as sft.epochs=1"
        problems.append(problem(Place(label), key.strip(), message))
        return None
    try:
        node = compose(text) or ScalarNode("tag:yaml.org,2002:null", "")
    except NotARecipe as refused:
        problems.append(problem(Place(label), key.strip(), refused.message))
        return None
    for name in reversed(names):
        node = MappingNode("tag:yaml.org,2002:map", [(ScalarNode("tag:yaml.org,2002:str", name), node)])
    return Entry(_Reader(schema, Place(label), problems).settings(schema, node, ""), Place(label))


class _Reader:
    """Reads the nodes of one layer against the types of the settings and collects what is wrong."""

    def __init__(self, schema: type, top: Place, problems: list[Problem]) -> None:
        self.schema, self.top, self.problems = schema, top, problems

    def place(self, node: Node) -> Place:
        if self.top.line is None:
            return self.top
        return Place(self.top.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def add(self, node: Node, key: str, message: str, suggestion: str | None = None) -> Any:
        """Notes a mistake and returns what stands for its value."""
        self.problems.append(problem(self.place(node), key, message, suggestion))
        return INVALID

    def refuse(self, node: Node, key: str, hint: Any, limits: Mapping[str, Any], advice: str = "") -> Any:
        """Notes a value that its setting does not take."""
        return self.add(node, key, f"{key}: saw {_seen(node)}; accepted: {accepted(hint, limits)}{advice}")

    def items(self, node: MappingNode, key: str) -> Iterator[tuple[str, ScalarNode, Node]]:
        """The pairs of a mapping; keys that are no text, and repeated ones, are noted and left out."""
        first: dict[str, Place] = {}
        for name_node, value_node in node.value:
            path = join(key, str(name_node.value)) if isinstance(name_node, ScalarNode) else key
            if _kind(name_node) == "merge":
                self.add(name_node, path, f"{path}: merge keys are not read; use `extends: other.yaml`")
            elif _kind(name_node) not in ("str", "value"):
                self.add(
                    name_node, path, f"{path}: saw {_seen(name_node)} as a key; accepted: text, in quotes"
                )
            elif name_node.value in first:
                line = first[name_node.value].line
                self.add(name_node, path, f"{path} is given twice, first in line {line}")
            else:
                first[name_node.value] = self.place(name_node)
                yield name_node.value, name_node, value_node

    def settings(self, schema: type, node: MappingNode, key: str) -> dict[str, Entry]:
        """A mapping read as settings. A misspelt one is read on as the one meant, to find what is below."""
        fields, hints = settings_of(schema), types_of(schema)
        given = {name.value for name, _ in node.value if isinstance(name, ScalarNode)}
        entries: dict[str, Entry] = {}
        for written, name_node, value_node in self.items(node, key):
            name = written if written in fields else self.meant(written, name_node, key, list(fields), given)
            if name is None or name in entries or (name != written and name in given):
                continue
            value = self.value(hints[name], fields[name].metadata, value_node, join(key, name))
            entries[name] = Entry(value, self.place(name_node))
        return entries

    def meant(self, name: str, node: Node, key: str, names: list[str], given: set[str]) -> str | None:
        """Notes a key that is no setting; returns its neighbour that was meant, if one was."""
        path = join(key, name)
        if owner := meant_elsewhere(key, name):
            self.add(node, path, f"{path} is not a setting", owner)
            return None
        if elsewhere := sections(self.schema).get(name):
            self.add(node, path, f"{path} is not a setting here", " or ".join(elsewhere))
            return None
        meant = nearest(name, names, given)
        known = "" if meant else f"; settings here: {', '.join(names)}"
        self.add(node, path, f"{path} is not a setting{known}", meant)
        return meant

    def value(self, hint: Any, limits: Mapping[str, Any], node: Node, key: str) -> Any:
        """A node read as the type of its setting; `INVALID` when it is something else."""
        inner = without_null(hint)
        if inner is Any:
            return self.free(node, key)
        if _kind(node) == "null":
            return None if inner is not hint else self.refuse(node, key, hint, limits)
        if isinstance(inner, tuple):
            inner = next((member for member in inner if _fits_shape(member, node)), inner[0])
        if not _fits_shape(inner, node):
            advice = f", such as [{node.value}]" if is_list(inner) and isinstance(node, ScalarNode) else ""
            return self.refuse(node, key, hint, limits, advice)
        if is_list(inner):
            return self.list_of(typing.get_args(inner)[0], limits, node, key)
        if is_section(inner):
            return self.settings(inner, node, key)
        if named := entry_type(inner):
            return self.named(named, node, key)
        return (
            self.scalar(inner, hint, limits, node, key)
            if isinstance(node, ScalarNode)
            else self.free(node, key)
        )

    def named(self, section: type, node: MappingNode, key: str) -> dict[str, Entry]:
        """A mapping whose keys are names that the user gives, such as sources."""
        entries: dict[str, Entry] = {}
        for name, name_node, value_node in self.items(node, key):
            path, value = join(key, name), TAKEN_OUT
            if not re.fullmatch(r"\w[\w-]*", name):
                value = self.add(
                    name_node, path, f"{path}: saw the name {brief(name)}; accepted: letters, digits, - and _"
                )
            elif _kind(value_node) != "null":
                value = self.value(section, {}, value_node, path)
            entries[name] = Entry(value, self.place(name_node))
        return entries

    def list_of(self, hint: Any, limits: Mapping[str, Any], node: SequenceNode, key: str) -> list[Entry]:
        """A list whose items are all of one type, and all different."""
        entries: list[Entry] = []
        for index, item in enumerate(node.value):
            path = f"{key}[{index}]"
            value = self.value(hint, limits, item, path)
            if value is not INVALID and any(value == entry.value for entry in entries):
                value = self.add(item, path, f"{path}: {brief(value)} is listed twice")
            entries.append(Entry(value, self.place(item)))
        return entries

    def scalar(self, form: type, hint: Any, limits: Mapping[str, Any], node: ScalarNode, key: str) -> Any:
        """A node without children read as text, number or boolean."""
        value = parsed(form, node.value, _kind(node), node.style is None)
        if node.value == "???":
            return self.add(
                node, key, f"{key}: saw ???, which stands for a value that is still to be filled in"
            )
        if value is INVALID and form is str:
            advice = "" if "choices" in limits else "; quote it to make it text"
            return self.refuse(node, key, hint, limits, advice)
        if value is INVALID:
            is_quoted = node.style and parsed(form, node.value, "str", True) is not INVALID
            return self.refuse(node, key, hint, limits, "; leave out the quotes" if is_quoted else "")
        if not is_within(value, limits):
            meant = nearest(value, limits["choices"]) if "choices" in limits else None
            return self.add(node, key, f"{key}: saw {_seen(node)}; accepted: {accepted(hint, limits)}", meant)
        if form is str and not value.strip():
            return self.refuse(node, key, hint, limits)
        return value

    def free(self, node: Node, key: str) -> Any:
        """A value whose setting is not ours, in the forms on which YAML 1.1 and its readers agree."""
        if isinstance(node, MappingNode):
            return {
                name: Entry(self.free(value_node, join(key, name)), self.place(name_node))
                for name, name_node, value_node in self.items(node, key)
            }
        if isinstance(node, SequenceNode):
            items = enumerate(node.value)
            return [Entry(self.free(item, f"{key}[{index}]"), self.place(item)) for index, item in items]
        if _kind(node) == "null" or not node.value:
            return None if node.style is None else ""
        is_number = _kind(node) in ("int", "float") or (node.style is None and looks_like_number(node.value))
        form = (
            (int if _kind(node) == "int" else float) if is_number else bool if _kind(node) == "bool" else str
        )
        return self.scalar(form, form, {}, node, key)


def _kind(node: Node) -> str:
    """YAML's own word for what a node is: str, int, float, bool, null, timestamp, seq, map, ..."""
    return str(node.tag).rpartition(":")[2]


def _seen(node: Node) -> str:
    """A node in words, for messages."""
    if not isinstance(node, ScalarNode):
        return "a mapping" if isinstance(node, MappingNode) else "a list"
    if _kind(node) == "null":
        return "null"
    text = brief(node.value)
    return text[1:-1] if node.style is None and node.value.isprintable() else f"text {text}"


def _fits_shape(hint: Any, node: Node) -> bool:
    if is_list(hint):
        return isinstance(node, SequenceNode)
    return isinstance(node, ScalarNode if hint in (str, int, float, bool) else MappingNode)
