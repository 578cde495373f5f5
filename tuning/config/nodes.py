"""A YAML text as PyYAML's nodes, which know their lines; hostile texts are refused before they cost anything.

Nothing is constructed: no tags, no dates, no merge keys. Size, depth and what aliases expand to are limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

MAX_BYTES, MAX_DEPTH, MAX_VALUES = 1_000_000, 32, 10_000
"""A text beyond one of these is no recipe; an alias counts as what it expands to."""


class NotARecipe(Exception):
    """A text that cannot be read; `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.message = line, column, message


def compose(text: str) -> Any:
    """The root node of a YAML text, or None for an empty one. Raises `NotARecipe`."""
    try:
        node = _EventComposer(list(_checked_events(text))).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _refused(error.problem_mark or error.context_mark, _explained(error)) from None
    except yaml.reader.ReaderError as error:
        line, column = (
            text.count("\n", 0, error.position) + 1,
            error.position - text.rfind("\n", 0, error.position),
        )
        message = f"not valid YAML: a control character (U+{error.character:04X})"
        raise NotARecipe(line, column, message) from None
    _check_expanded_size(node)
    return node


def _checked_events(text: str) -> Iterator[Any]:
    """PyYAML's events, one by one, as long as they can belong to a recipe."""
    depth = documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MAX_DEPTH:
            raise _refused(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if count > 2 * MAX_VALUES:
            raise _refused(event.start_mark, f"more than {MAX_VALUES} values")
        if documents > 1:
            raise _refused(event.start_mark, "a second document (---); a recipe is one")
        if getattr(event, "tag", None) is not None:
            raise _refused(event.start_mark, f"saw the YAML tag {event.tag}; tags are not read")
        yield event


def _check_expanded_size(root: Any) -> None:
    """Refuses a tree whose aliases repeat or contain too much. The walk stops at the limit: it is cheap."""
    waiting, count = [(root, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            message = f"aliases make this larger than {MAX_VALUES} values or deeper than {MAX_DEPTH} levels"
            raise _refused(node.start_mark, message)
        if isinstance(node, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]


def _refused(mark: Any, message: str) -> NotARecipe:
    return NotARecipe(mark.line + 1, mark.column + 1, message) if mark else NotARecipe(1, 1, message)


def _explained(error: Any) -> str:
    if "'\\t'" in str(error.problem):
        return "not valid YAML: a tab; YAML indents with spaces"
    begun = error.context_mark
    if begun is None or error.problem_mark is None or begun.line == error.problem_mark.line:
        return f"not valid YAML: {error.problem}"
    return f"not valid YAML: {error.problem} ({error.context}, begun in line {begun.line + 1})"


class _EventComposer(yaml.composer.Composer, yaml.resolver.Resolver):  # type: ignore[misc,unused-ignore]
    """PyYAML's composer over events that were looked at already."""

    def __init__(self, events: list[Any]) -> None:
        yaml.composer.Composer.__init__(self)
        yaml.resolver.Resolver.__init__(self)
        self._events = events[::-1]

    def check_event(self, *kinds: type) -> bool:
        return bool(self._events) and (not kinds or isinstance(self._events[-1], kinds))

    def peek_event(self) -> Any:
        return self._events[-1]

    def get_event(self) -> Any:
        return self._events.pop()
