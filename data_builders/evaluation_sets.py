"""The questions of evaluation sets, from the files that people have; the field that holds them is detected.

    turns                 MT-Bench, ja-vicuna-qa            {"question_id": 81, "turns": ["…", "…"]}
    messages, conversations                                 their user turns
    samples + instruction llm-jp-eval                       {"instruction": "…", "samples": [{"input": "…"}]}
    instruction (+ input, context)  jaster, Alpaca, Dolly   the two together are one question
    prompt                text, a list of texts (llm-jp-judge) or messages
    question, text, input AnswerCarefully, llm-jp-instructions, JGLUE

A folder that a builder wrote is read as its messages or prompts, and an original file of jaster's sets
(JGLUE, JSICK, ...) as the dev and test rows that the `jaster` builder makes of it. Answers are not read: they
are not what must stay unseen here. An `input` is also a question by itself: the instruction around it changes
from one version of a harness to the next.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_builders.lines import BuilderError
from data_builders.reading import open_input
from data_builders.writing import DATA
from tuning.records import read_jsonl, sha256_of_file
from tuning.schema import RowError

FIELDS = (
    "turns",
    "messages",
    "conversations",
    "samples",
    "instruction",
    "prompt",
    "question",
    "text",
    "input",
)
ID_FIELDS = ("ID", "id", "question_id", "q_id", "qid", "idx")


@dataclass(frozen=True)
class EvaluationItem:
    """One item: what it is called, its id if it has one, and its questions, turn by turn."""

    label: str
    id: str | None
    turns: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    """What is asked about, without the instruction."""


@dataclass
class EvaluationSet:
    """The items of one file, and how they were found."""

    file: str
    sha256: str
    items: list[EvaluationItem] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "sha256": self.sha256,
            "items": len(self.items),
            "texts": sum(len(item.turns) for item in self.items),
            "fields": dict(self.fields),
        }


def read_evaluation_set(path: str | Path) -> EvaluationSet:
    """The items of an evaluation file, or of a built dataset's folder.

    Raises `BuilderError` for a file that cannot be read, a row that is broken or has no field of `FIELDS`,
    and a file without items.
    """
    path = Path(path)
    name = path.name
    if path.is_dir():
        path = path / DATA
        name = f"{name}/{DATA}"
    try:
        found = _read(_one_object(path) or _rows(path), name)
    except BuilderError as error:
        rows = _jaster_rows(path) if error.code == "no_question_field" else []
        if not rows:
            raise
        found = _read(rows, name)
    found.sha256 = sha256_of_file(path) if path.is_file() else ""
    if not any(item.turns for item in found.items):
        raise BuilderError(f"{path}: no question in it; accepted: {_accepted()}", code="empty_evaluation_set")
    return found


def _read(rows: Iterable[tuple[str, Any]], name: str) -> EvaluationSet:
    found = EvaluationSet(name, "")
    for where, value in rows:
        for number, (own_id, named, turns, inputs) in enumerate(_questions(value, where)):
            texts = tuple(text for text in turns if text.strip())
            label = f"{name}: {own_id if own_id is not None else f'item {len(found.items) + 1}'}"
            found.items.append(EvaluationItem(label, own_id, texts, tuple(filter(str.strip, inputs))))
            found.fields[named] += 1 if number or texts else 0
    return found


def _jaster_rows(path: Path) -> list[tuple[str, Any]]:
    """The dev and test rows of an original file of one of jaster's sets; none of any other file."""
    from data_builders import build

    with tempfile.TemporaryDirectory() as folder:
        try:
            build("jaster", path, folder, splits=["dev", "test"])
        except (BuilderError, RowError):
            return []
        return [(f"{path}: row {row['id']}", row) for row in read_jsonl(Path(folder) / DATA)]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    for raw in open_input(path):
        if raw.fault:
            raise BuilderError(f"{raw.file}:{raw.line}: {raw.fault}", code="bad_evaluation_row")
        yield f"{raw.file}:{raw.line}", raw.value


def _one_object(path: Path) -> list[tuple[str, Any]] | None:
    """llm-jp-eval writes one object over many lines, which is no file of rows."""
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return [(f"{path}:1", value)] if isinstance(value, Mapping) and "samples" in value else None


def _questions(value: Any, where: str) -> Iterator[tuple[str | None, str, list[str], list[str]]]:
    """The id, the field that decided, the turns and the inputs of each item in a row."""
    named = next((name for name in FIELDS if isinstance(value, Mapping) and value.get(name)), None)
    if named is None:
        present = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise BuilderError(
            f"{where}: no question; fields present: {present}; accepted: {_accepted()}",
            code="no_question_field",
        )
    own_id = next((str(value[name]) for name in ID_FIELDS if value.get(name) is not None), None)
    if named == "samples":
        instruction = str(value.get("instruction") or "")
        for number, sample in enumerate(value["samples"], start=1):
            text = _text(sample, "input", where)
            yield f"sample {number}", "samples", [f"{instruction}\n{text}"], [text]
    elif named == "instruction":
        context = next((name for name in ("input", "context") if value.get(name)), None)
        parts = [_text(value, name, where) for name in ("instruction", context) if name]
        yield own_id, " + ".join(filter(None, ("instruction", context))), ["\n".join(parts)], parts[1:]
    elif isinstance(value[named], str):
        yield own_id, named, [value[named]], []
    elif isinstance(value[named], Sequence):
        turns = [text for item in value[named] for text in _turn(item, where)]
        inputs = [item["input"] for item in value[named] if isinstance(item, Mapping) and item.get("input")]
        yield own_id, named, turns, [text for text in inputs if isinstance(text, str)]
    else:
        raise BuilderError(f"{where}: {named}: neither text nor a list", code="no_question_field")


def _turn(item: Any, where: str) -> Iterator[str]:
    """The text of a user's turn; nothing for any other role."""
    if isinstance(item, str):
        yield item
        return
    role = item.get("role", item.get("from", item.get("name"))) if isinstance(item, Mapping) else None
    if role is None:
        raise BuilderError(f"{where}: a turn is neither text nor a message", code="no_question_field")
    if role in ("user", "human", "User", "Human", "prompter"):
        content = next((item[name] for name in ("content", "value", "text") if name in item), None)
        if not isinstance(content, str):
            raise BuilderError(f"{where}: a {role} turn without text", code="no_question_field")
        yield f"{content}\n{item['input']}" if item.get("input") else content


def _text(value: Any, name: str, where: str) -> str:
    text = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise BuilderError(f"{where}: {name}: no text", code="no_question_field")
    return text


def _accepted() -> str:
    return f"rows with one of {', '.join(FIELDS)}; or a file of jaster's sets that holds dev or test rows"
