"""The prompts that answers are sampled for: of a built dataset, or of a JSONL of rows.

a conversation      everything up to its last user turn; the answer that follows is not looked at
a preference row    its prompt
{"prompt": "..."}   a text, or messages of which the last is the user's
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_builders.lines import BuilderError, RawRow
from data_builders.reading import open_input
from data_builders.translation.built import open_source
from data_builders.writing import DATA, MANIFEST
from tuning.schema import Message, RowError, RowFault, check_dialogue, checked_text, kind, parse_messages

FIELDS = (
    "id",
    "source",
    "messages",
    "prompt",
    "chosen",
    "rejected",
    "group",
    "weight",
    "loss_weight",
    "meta",
)
KEPT_META = ("language", "category")
"""What a row's `meta` says of its prompt; the rest may be about the answer that is not taken."""


@dataclass(frozen=True)
class Prompt:
    """What is asked, and the row that asked it."""

    id: str
    source: str
    messages: tuple[Message, ...]
    group: str | None
    meta: Mapping[str, Any]

    @property
    def question(self) -> str:
        """The last user turn, with its context."""
        return content_of(self.messages[-1])


@dataclass(frozen=True)
class Prompts:
    """A file of prompts; iterating reads it from the start."""

    file: Path
    source: str
    manifest: Mapping[str, Any]
    """Of the built dataset, empty for any other file."""
    num_rows: int

    def __iter__(self) -> Iterator[tuple[RawRow, Prompt]]:
        for count, raw in enumerate(open_input(self.file)):
            if count == self.num_rows:
                return
            try:
                if raw.fault:
                    raise raw.fault
                yield raw, prompt_of(raw.value, self.source, f"{self.source}-{raw.number:05d}")
            except RowFault as fault:
                raise RowError(raw.file, raw.line, fault) from None


def open_prompts(path: str | Path, first: int | None = None) -> Prompts:
    """The prompts in a built folder or a JSONL, of which `first` are taken; every row is checked at once.

    Raises `BuilderError` for anything else, `RowError` at a row that is no prompt.
    """
    path = Path(path)
    if path.name == DATA and (path.parent / MANIFEST).is_file():
        path = path.parent
    if path.is_dir():
        there = open_source(path, None, first)
        found = Prompts(path / DATA, str(there.manifest["source"]), there.manifest, there.num_rows)
    else:
        if open_input(path).kind not in ("jsonl", "json"):
            raise BuilderError(f"{path}: accepted: a built dataset, or rows as .jsonl", code="unknown_format")
        found = Prompts(path, path.name.partition(".")[0], {}, -1 if first is None else first)
    ids: set[str] = set()
    for raw, prompt in found:
        if prompt.id in ids:
            fault = RowFault("duplicate_id", "id", f"saw {prompt.id!r} again", "an id of its own, or none")
            raise RowError(raw.file, raw.line, fault)
        ids.add(prompt.id)
    if not ids:
        raise BuilderError(f"{found.file}: holds no prompt", code="no_prompts")
    return found


def prompt_of(row: Any, source: str, made_up_id: str) -> Prompt:
    """The prompt in a decoded row; raises `RowFault`."""
    if not isinstance(row, Mapping):
        raise RowFault("not_an_object", "row", f"saw {kind(row)}", "a row is one JSON object")
    for name in row:
        if name not in FIELDS:
            raise RowFault("unknown_field", str(name), "not a field of a row", f"fields: {', '.join(FIELDS)}")
    where = "messages" if "messages" in row else "prompt"
    value = row.get(where)
    if isinstance(value, str) and where == "prompt":
        value = [{"role": "user", "content": value}]
    messages = parse_messages(value, where)
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None or (where == "prompt" and last != len(messages) - 1):
        seen = f"ends with {messages[-1].role}"
        raise RowFault("last_not_user", f"{where}[{len(messages) - 1}].role", seen, "a user turn to answer")
    messages = messages[: last + 1]
    check_dialogue([*messages, Message("assistant", "-")], where)
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise RowFault("wrong_type", "meta", f"saw {kind(meta)}", "an object")
    group = row.get("group")
    return Prompt(
        checked_text(row.get("id") or made_up_id, "id"),
        checked_text(row.get("source") or source, "source"),
        messages,
        None if group is None else checked_text(group, "group"),
        {name: meta[name] for name in KEPT_META if meta.get(name)},
    )


def content_of(message: Message) -> str:
    """A message as one text, for models that know no separate context."""
    return f"{message.content}\n\n{message.input}" if message.input else message.content


def plain(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    """The messages as every chat template and server knows them."""
    return [{"role": message.role, "content": content_of(message)} for message in messages]
