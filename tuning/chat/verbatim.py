"""Whether a template only writes the texts of messages down, read off its syntax tree.

    {{ '\\n\\n### 指示:\\n' + message['content'] }}            writes the text
    {% if 'x' in message['content'] %}                     looks into it
    {{ message['content'] | upper }}                       alters it

The rendering of a template that never looks is its frame with the texts filled in, whatever the texts are, so
rendering every row to see whether that holds is work for nothing. What this file does not understand counts
as looking.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from functools import lru_cache
from typing import cast

from jinja2 import Environment, TemplateError, nodes

_ALWAYS_TEXT = ("content",)
_PRESENT_OR_ABSENT = ("input", "thinking")
"""A message has these keys only where they hold text, so that asking for their truth asks for the shape."""
_KNOWN_OF_LOOP = ("first", "last", "index", "index0", "revindex", "revindex0", "length", "depth", "depth0")
_KNOWN_FUNCTIONS = ("raise_exception", "namespace", "range")


class _Kind(Enum):
    PLAIN = auto()
    """Decided by the roles and keys of the messages."""
    TEXT = auto()
    """Texts, whole, with plain strings around them."""
    KEY = auto()
    """A text that may be absent."""
    MESSAGE = auto()
    MESSAGES = auto()
    LOOP = auto()


class _LooksError(Exception):
    """The template does something else with a text than writing it, or something unknown here."""


Names = Mapping[str, _Kind]


@lru_cache(maxsize=64)
def writes_texts_only(source: str) -> bool:
    """Whether the rendering depends on the texts of the messages only by holding them."""
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(source)
        _check_body(tree.body, {"messages": _Kind.MESSAGES})
    except (_LooksError, TemplateError):
        return False
    return True


def _check_body(body: list[nodes.Node], names: Names) -> None:
    for node in body:
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                _require(_kind(part, names), _Kind.PLAIN, _Kind.TEXT, _Kind.KEY)
        elif isinstance(node, nodes.If):
            _check_truth(node.test, names)
            _check_body([*node.body, *node.elif_, *node.else_], names)
        elif isinstance(node, nodes.For):
            _check_loop(node, names)
        elif isinstance(node, nodes.Assign):
            _require(_kind(node.node, names), _Kind.PLAIN)
            if not isinstance(node.target, (nodes.Name, nodes.NSRef)) or node.target.name in names:
                raise _LooksError
        elif not isinstance(node, (nodes.Continue, nodes.Break)):
            raise _LooksError


def _check_loop(loop: nodes.For, names: Names) -> None:
    kind = _kind(loop.iter, names)
    _require(kind, _Kind.PLAIN, _Kind.MESSAGES)
    if not isinstance(loop.target, nodes.Name) or loop.recursive:
        raise _LooksError
    item = _Kind.MESSAGE if kind is _Kind.MESSAGES else _Kind.PLAIN
    inside = {**names, loop.target.name: item, "loop": _Kind.LOOP}
    if loop.test is not None:
        _check_truth(loop.test, inside)
    _check_body(loop.body, inside)
    _check_body(loop.else_, names)


def _check_truth(node: nodes.Node, names: Names) -> None:
    if isinstance(node, (nodes.And, nodes.Or)):
        _check_truth(node.left, names)
        _check_truth(node.right, names)
    elif isinstance(node, nodes.Not):
        _check_truth(node.node, names)
    else:
        _require(_kind(node, names), _Kind.PLAIN, _Kind.KEY)


def _kind(node: nodes.Node | None, names: Names) -> _Kind:
    if isinstance(node, nodes.Name):
        return names.get(node.name, _Kind.PLAIN)
    if isinstance(node, (nodes.Getitem, nodes.Getattr)):
        return _kind_of_part(node, names)
    if isinstance(node, nodes.CondExpr):
        _check_truth(node.test, names)
        return _joined([node.expr1, node.expr2], names)
    if isinstance(node, nodes.Add):
        return _joined([node.left, node.right], names)
    if isinstance(node, nodes.Concat):
        return _joined(list(node.nodes), names)
    if isinstance(node, nodes.Filter) and node.name in ("length", "count"):
        _require(_kind(node.node, names), _Kind.PLAIN, _Kind.MESSAGES)
        return _Kind.PLAIN
    if isinstance(node, nodes.Test) and node.name in ("defined", "undefined"):
        _require(_kind(node.node, names), _Kind.PLAIN, _Kind.KEY)
        return _Kind.PLAIN
    if isinstance(node, nodes.Call):
        is_known = isinstance(node.node, nodes.Name) and node.node.name in _KNOWN_FUNCTIONS
        if not is_known or node.dyn_args or node.dyn_kwargs:
            raise _LooksError
    elif not isinstance(node, _PLAIN_IF_ITS_PARTS_ARE):
        raise _LooksError
    for part in cast("nodes.Node", node).iter_child_nodes():
        _require(_kind(part, names), _Kind.PLAIN)
    return _Kind.PLAIN


_PLAIN_IF_ITS_PARTS_ARE = (
    nodes.Literal,
    nodes.Keyword,
    nodes.BinExpr,
    nodes.UnaryExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.Filter,
    nodes.Test,
    nodes.Slice,
)


def _kind_of_part(node: nodes.Getitem | nodes.Getattr, names: Names) -> _Kind:
    whole = _kind(node.node, names)
    key: object = node.attr if isinstance(node, nodes.Getattr) else None
    if isinstance(node, nodes.Getitem):
        _require(_kind(node.arg, names), _Kind.PLAIN)
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
    if whole is _Kind.PLAIN:
        return _Kind.PLAIN
    if whole is _Kind.LOOP and key in _KNOWN_OF_LOOP:
        return _Kind.PLAIN
    if whole is _Kind.MESSAGES and isinstance(node, nodes.Getitem):
        return _Kind.MESSAGES if isinstance(node.arg, nodes.Slice) else _Kind.MESSAGE
    if whole is _Kind.MESSAGE and key == "role":
        return _Kind.PLAIN
    if whole is _Kind.MESSAGE and key in _ALWAYS_TEXT:
        return _Kind.TEXT
    if whole is _Kind.MESSAGE and key in _PRESENT_OR_ABSENT:
        return _Kind.KEY
    raise _LooksError


def _joined(parts: list[nodes.Expr | None], names: Names) -> _Kind:
    """Of strings set side by side, or of two of which one is written."""
    kinds = [_kind(part, names) for part in parts if part is not None]
    for kind in kinds:
        _require(kind, _Kind.PLAIN, _Kind.TEXT, _Kind.KEY)
    return _Kind.PLAIN if all(kind is _Kind.PLAIN for kind in kinds) else _Kind.TEXT


def _require(kind: _Kind, *accepted: _Kind) -> None:
    if kind not in accepted:
        raise _LooksError
