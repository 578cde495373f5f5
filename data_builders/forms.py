"""The seven forms of a user's row: what tells them apart, and how each becomes messages."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_builders.json_rows import parse_json
from data_builders.lines import BuilderError
from data_builders.llm_jp_text import turns_of
from tuning.schema import MESSAGE_FIELDS, RowFault, checked_text, kind, parse_messages

SHARED_FIELDS = ("id", "ID", "source", "group", "weight", "loss_weight", "meta")

Made = tuple[dict[str, Any], dict[str, str]]
"""`messages`, or `prompt`, `chosen`, `rejected`; and the user's names for their parts (`Draft.fields`)."""


@dataclass(frozen=True)
class Form:
    """A form of row; a row has it when all `required` fields are there."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


FORMS = {
    form.name: form
    for form in (
        Form("messages", ("messages",), ("desirable",)),
        Form("sharegpt", ("conversations",), ("system",)),
        Form("preference", ("chosen", "rejected"), ("prompt", "beta")),
        Form("ranking", ("prompt", "ranked"), ("beta",)),
        Form("prompt_completion", ("prompt", "completion"), ("desirable", "label")),
        Form("alpaca", ("instruction", "output"), ("input",)),
        Form("text", ("text",)),
    )
}

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
}


def fitting_form(fields: Sequence[Any], where: str) -> Form | None:
    """The one form whose required fields are all there; raises `BuilderError` when two forms fit."""
    fitting = [form for form in FORMS.values() if set(form.required) <= set(fields)]
    if len(fitting) > 1:
        names = " or ".join(form.name for form in fitting)
        said = f"{where}: fields {', '.join(map(str, fields))} fit {names}; say which with the option form"
        raise BuilderError(said, code="ambiguous_form")
    return fitting[0] if fitting else None


def no_form(fields: Sequence[Any], where: str) -> BuilderError:
    """The error of fields that fit no form: names the nearest one and what it would need."""
    present = [str(field) for field in fields]

    def closeness(form: Form) -> float:
        near = [1.0 if name in present else 0.5 * bool(difflib.get_close_matches(name, present, n=1))
                for name in form.required]  # fmt: skip
        return sum(near) / len(near)

    nearest = max(FORMS.values(), key=closeness)
    missing = ", ".join(name for name in nearest.required if name not in present)
    forms = "; ".join(f"{form.name} ({', '.join(form.required)})" for form in FORMS.values())
    seen = f"fields {', '.join(present)[:300]} fit no form"
    return BuilderError(
        f"{where}: {seen}; {nearest.name} would need {missing}. Accepted forms: {forms}", code="unknown_form"
    )


def from_cells(row: Mapping[str, Any], is_text: bool) -> dict[str, Any]:
    """A table's row as JSON would give it: empty optional cells left out, and JSON inside text cells read."""
    needed = {name for form in FORMS.values() for name in form.required}
    if not is_text:
        present = {name: value for name, value in row.items() if value is not None or name in needed}
        return {name: _without_nulls(value) for name, value in present.items()}
    cells: dict[str, Any] = {name: cell for name, cell in row.items() if cell or name in needed}
    for name in ("messages", "conversations", "meta"):
        if name in cells:
            try:
                cells[name] = parse_json(cells[name])
            except RowFault as fault:
                raise RowFault(fault.code, name, fault.seen, "JSON inside the cell") from None
    for name in ("weight", "loss_weight"):
        if name in cells:
            try:
                cells[name] = float(cells[name])
            except ValueError:
                raise RowFault("wrong_type", name, f"saw {cells[name]!r}", "a number above 0") from None
    return cells


def _without_nulls(value: Any) -> Any:
    """Parquet gives absent fields of a struct as null; a required one keeps its null, to be refused."""
    if isinstance(value, Mapping):
        needed = ("role", "content", "from", "value")
        return {
            name: _without_nulls(item) for name, item in value.items() if item is not None or name in needed
        }
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def draft_row(
    row: Mapping[str, Any], form: Form, drops_extra: bool, keeps_sentence: bool, counts: Counter[str]
) -> Made:
    """What a row of a form says, as messages; raises `RowFault`."""
    if form.name == "messages":
        return {"messages": _messages(row["messages"], "messages", drops_extra)}, {}
    if form.name == "sharegpt":
        return _sharegpt(row, drops_extra)
    if form.name == "preference":
        return _preference(row, drops_extra)
    if form.name == "ranking":
        return _ranking(row, drops_extra)
    if form.name == "prompt_completion":
        return _prompt_completion(row, drops_extra)
    if form.name == "alpaca":
        return _alpaca(row)
    return _text(row, keeps_sentence, counts)


def _messages(value: Any, where: str, drops_extra: bool) -> list[dict[str, Any]]:
    """The checked messages; unknown fields of theirs are left out if they may be."""
    if drops_extra and isinstance(value, list):
        value = [
            {name: part for name, part in item.items() if name in MESSAGE_FIELDS}
            if isinstance(item, Mapping)
            else item
            for item in value
        ]
    return [message.as_dict() for message in parse_messages(value, where)]


def _sharegpt(row: Mapping[str, Any], drops_extra: bool) -> Made:
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        code = "null_value" if turns is None else "empty_messages" if turns == [] else "wrong_type"
        raise RowFault(code, "conversations", f"saw {kind(turns)}", "an array with a turn or more")
    messages, names = [], {"messages": "conversations"}
    if row.get("system") not in (None, ""):
        messages.append({"role": "system", "content": checked_text(row["system"], "system")})
        names["messages[0].content"] = "system"
    for index, turn in enumerate(turns):
        where, at = f"conversations[{index}]", f"messages[{len(messages)}]"
        role, content = (
            ("role", "content") if isinstance(turn, Mapping) and "role" in turn else ("from", "value")
        )
        names |= {at: where, f"{at}.role": f"{where}.{role}", f"{at}.content": f"{where}.{content}"}
        messages.append(_turn(turn, where, (role, content), drops_extra))
    return {"messages": messages}, names


def _turn(turn: Any, where: str, names: tuple[str, str], drops_extra: bool) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise RowFault("wrong_type", where, f"saw {kind(turn)}", "an object with from and value")
    for name in names:
        if name not in turn:
            present = f"fields present: {', '.join(map(str, turn)) or 'none'}"
            raise RowFault("missing_field", f"{where}.{name}", "missing", present)
    extra = [name for name in turn if name not in (*names, "train")]
    if extra and not drops_extra:
        accepted = f"fields: {', '.join(names)}, train"
        raise RowFault("unknown_field", f"{where}.{extra[0]}", "not a field of a turn", accepted)
    speaker = checked_text(turn[names[0]], f"{where}.{names[0]}")
    if speaker.lower() not in SPEAKERS:
        raise RowFault(
            "unknown_role", f"{where}.{names[0]}", f"saw {speaker!r}", f"roles: {', '.join(SPEAKERS)}"
        )
    message = {"role": SPEAKERS[speaker.lower()], "content": turn[names[1]]}
    return message | ({"train": turn["train"]} if "train" in turn else {})


def _side(value: Any, name: str, role: str, drops_extra: bool) -> list[dict[str, Any]]:
    """A text as one message of `role`; messages as they are."""
    if isinstance(value, list):
        return _messages(value, name, drops_extra)
    return [{"role": role, "content": checked_text(value, name)}]


def _preference(row: Mapping[str, Any], drops_extra: bool) -> Made:
    chosen, rejected = (_side(row[side], side, "assistant", drops_extra) for side in ("chosen", "rejected"))
    shared = 0
    if "prompt" in row:
        prompt = _side(row["prompt"], "prompt", "user", drops_extra)
        if (
            chosen[: len(prompt)] == prompt == rejected[: len(prompt)]
        ):  # some sets repeat the prompt on each side
            shared = len(prompt)
    elif not isinstance(row["chosen"], list) or not isinstance(row["rejected"], list):
        raise RowFault("missing_field", "prompt", "missing", "a prompt, or two dialogues that begin with it")
    else:
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = chosen[:shared]
    texts = [side for side in ("prompt", "chosen", "rejected") if not isinstance(row.get(side), list)]
    names = {f"{side}[0]{part}": side for side in texts for part in (".content", ".role")}
    return {"prompt": prompt, "chosen": chosen[shared:], "rejected": rejected[shared:]}, names


def _ranking(row: Mapping[str, Any], drops_extra: bool) -> Made:
    """Answers to one prompt, best first."""
    if not isinstance(row["ranked"], list):
        raise RowFault(
            "wrong_type", "ranked", f"saw {kind(row['ranked'])}", "an array of answers, best first"
        )
    answers = [
        _side(answer, f"ranked[{number}]", "assistant", drops_extra)
        for number, answer in enumerate(row["ranked"])
    ]
    texts = {"prompt": row["prompt"]} | {f"ranked[{n}]": answer for n, answer in enumerate(row["ranked"])}
    names = {
        f"{place}[0]{part}": place
        for place, text in texts.items()
        if not isinstance(text, list)
        for part in (".content", ".role")
    }
    return {"prompt": _side(row["prompt"], "prompt", "user", drops_extra), "ranked": answers}, names


def _prompt_completion(row: Mapping[str, Any], drops_extra: bool) -> Made:
    """Only the completion is trained on, whoever speaks in the prompt."""
    prompt = _side(row["prompt"], "prompt", "user", drops_extra)
    completion = _side(row["completion"], "completion", "assistant", drops_extra)
    names = {}
    for name, start, part in (("prompt", 0, prompt), ("completion", len(prompt), completion)):
        for index in range(len(part)):
            is_text = not isinstance(row[name], list)
            names[f"messages[{start + index}]"] = name if is_text else f"{name}[{index}]"
            if is_text:
                names |= {f"messages[{start + index}].{field}": name for field in ("role", "content")}
    quiet = [turn | {"train": False} if turn["role"] == "assistant" else turn for turn in prompt]
    return {"messages": quiet + completion}, names


def _alpaca(row: Mapping[str, Any]) -> Made:
    instruction, output = (checked_text(row[name], name) for name in ("instruction", "output"))
    user = {"role": "user", "content": instruction}
    context = row.get("input")
    if context is not None and checked_text(context, "input").strip():
        user["input"] = context
    names = {
        "messages[0].content": "instruction",
        "messages[0].input": "input",
        "messages[1].content": "output",
    }
    return {"messages": [user, {"role": "assistant", "content": output}]}, names


def _text(row: Mapping[str, Any], keeps_sentence: bool, counts: Counter[str]) -> Made:
    messages = turns_of(checked_text(row["text"], "text"), keeps_sentence, counts)
    fields = ("", ".role", ".content", ".input")
    return {"messages": messages}, {
        f"messages[{n}]{field}": "text" for n in range(len(messages)) for field in fields
    }
