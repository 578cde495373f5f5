"""One row of training data: a `Conversation` to imitate or a `PreferencePair` to learn a preference from.

Rows arrive as JSON objects (the contract stands in the README, "The row"). `parse_row` is the only door:
what passes it is checked once and trusted afterwards; what does not pass raises `RowFault` with a stable
code, the field, what was seen and what would be accepted. The reader that knows file and line turns a fault
into a `RowError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")

# `weight` is the older spelling of `loss_weight`
OPTIONAL_FIELDS = ("group", "weight", "loss_weight", "meta")
CONVERSATION_FIELDS = ("id", "source", "messages", "desirable", *OPTIONAL_FIELDS)
PAIR_FIELDS = ("id", "source", "prompt", "chosen", "rejected", "ranked", "beta", *OPTIONAL_FIELDS)
MESSAGE_FIELDS = ("role", "content", "train", "input", "thinking")


class RowFault(ValueError):
    """A row that may not be trained on.

    `code` is stable and counted in manifests; `where` is the field (`messages[1].content`).
    """

    def __init__(self, code: str, where: str, seen: str, accepted: str) -> None:
        super().__init__(f"{where}: {seen}; {accepted} [{code}]")
        self.code, self.where, self.seen, self.accepted = code, where, seen, accepted


class RowError(ValueError):
    """A malformed row together with the place where it stands: `data/a.jsonl:12: messages[0].role: ...`."""

    def __init__(self, file: str, line: int, fault: RowFault) -> None:
        super().__init__(f"{file}:{line}: {fault}")
        self.file, self.line, self.fault = file, line, fault
        self.code, self.where = fault.code, fault.where


@dataclass(frozen=True)
class Message:
    """One turn. `train` is None for the role's default: assistant turns are trained on, others never."""

    role: str
    content: str
    train: bool | None = None
    input: str | None = None
    """Context of a user turn (Dolly's `context`, jaster's `### 入力:`), kept apart so that a template can
    place it."""
    thinking: str | None = None
    """What an assistant writes to itself before its answer, for templates that have a place for it
    (Harmony's analysis channel)."""

    @property
    def is_trained(self) -> bool:
        return self.role == "assistant" and self.train is not False

    def as_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.train is not None:
            row["train"] = self.train
        if self.input is not None:
            row["input"] = self.input
        if self.thinking is not None:
            row["thinking"] = self.thinking
        return row


@dataclass(frozen=True)
class Conversation:
    """A dialogue whose trained assistant turns are imitated."""

    id: str
    source: str
    messages: tuple[Message, ...]
    group: str | None = None
    loss_weight: float = 1.0
    """Multiplies the weight of every target of this row."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    desirable: bool | None = None
    """Whether the answer was found good, for a loss that learns from single answers (KTO)."""

    @property
    def group_key(self) -> str:
        """Rows of one tree share it; a row without a group is a group of its own."""
        return f"group:{self.group}" if self.group is not None else f"row:{self.id}"

    @property
    def language(self) -> str | None:
        return _meta_text(self.meta, "language")

    @property
    def category(self) -> str | None:
        return _meta_text(self.meta, "category")

    def as_dict(self) -> dict[str, Any]:
        label = {"desirable": self.desirable} if self.desirable is not None else {}
        return {
            "id": self.id,
            "source": self.source,
            "messages": dicts(self.messages),
            **label,
            **_optional(self),
        }


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with a preferred and a dispreferred continuation; no message of the prompt is ever a
    target.

    A row of several ranked answers (`ranked`, best first) is a pair of the best and the worst, with the
    others `between`.
    """

    id: str
    source: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    group: str | None = None
    loss_weight: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict)
    beta: float | None = None
    """Of the preference loss, for this pair; None = the stage's."""
    between: tuple[tuple[Message, ...], ...] = ()
    """Answers ranked between the two, better ones first."""

    def _answers(self) -> dict[str, Any]:
        if self.between:
            return {"ranked": [dicts(answer) for answer in (self.chosen, *self.between, self.rejected)]}
        return {"chosen": dicts(self.chosen), "rejected": dicts(self.rejected)}

    @property
    def margin(self) -> float | None:
        """By how much the chosen answer was scored better: `meta.margin`, or `meta.chosen_score` less
        `meta.rejected_score`; None where the row does not say so in finite numbers."""
        values = [self.meta.get(name) for name in ("margin", "chosen_score", "rejected_score")]
        whole, chosen, rejected = (
            float(value)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            else None
            for value in values
        )
        if whole is not None:
            return whole
        return chosen - rejected if chosen is not None and rejected is not None else None

    @property
    def group_key(self) -> str:
        return f"group:{self.group}" if self.group is not None else f"row:{self.id}"

    @property
    def language(self) -> str | None:
        return _meta_text(self.meta, "language")

    @property
    def category(self) -> str | None:
        return _meta_text(self.meta, "category")

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "prompt": dicts(self.prompt),
            **self._answers(),
            **_optional(self),
            **({"beta": self.beta} if self.beta is not None else {}),
        }


Row = Conversation | PreferencePair


def dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as JSON objects."""
    return [message.as_dict() for message in messages]


def parse_row(row: Any) -> Row:
    """The checked row behind one decoded JSON value.

    Raises `RowFault` at the first fault: wrong shape, unknown field, unknown role, null or empty text,
    roles out of order, nothing to train on, sides of a pair that are the same.
    """
    if not isinstance(row, Mapping):
        raise RowFault("not_an_object", "row", f"saw {kind(row)}", "a row is one JSON object")
    pair_fields = ("prompt", "chosen", "rejected", "ranked")
    is_pair = "messages" not in row and any(name in row for name in pair_fields)
    fields = PAIR_FIELDS if is_pair else CONVERSATION_FIELDS
    unknown = [name for name in row if name not in fields]
    if unknown:
        raise RowFault(
            "unknown_field", str(unknown[0]), "not a field of a row", f"fields: {', '.join(fields)}"
        )
    shared: dict[str, Any] = {
        "id": _text(row, "id"),
        "source": _text(row, "source"),
        "group": _text(row, "group") if row.get("group") is not None else None,
        "loss_weight": _weight(row),
        "meta": _meta(row),
    }
    if not is_pair:
        messages = parse_messages(_required(row, "messages"), "messages")
        check_dialogue(messages, "messages")
        desirable = row.get("desirable")
        if desirable is not None and not isinstance(desirable, bool):
            raise RowFault("wrong_type", "desirable", f"saw {kind(desirable)}", "true or false")
        return Conversation(messages=messages, desirable=desirable, **shared)
    prompt = parse_messages(_required(row, "prompt"), "prompt")
    answers = _ranked(row) if "ranked" in row else _sides(row)
    for side, answer in answers.items():
        check_dialogue(prompt + answer, side, first_answer=len(prompt))
    _require_different(answers)
    chosen, *between, rejected = answers.values()
    beta = _above_zero(row["beta"], "beta") if row.get("beta") is not None else None
    return PreferencePair(
        prompt=prompt, chosen=chosen, rejected=rejected, beta=beta, between=tuple(between), **shared
    )


def _sides(row: Mapping[str, Any]) -> dict[str, tuple[Message, ...]]:
    return {side: parse_messages(_required(row, side), side) for side in ("chosen", "rejected")}


def _ranked(row: Mapping[str, Any]) -> dict[str, tuple[Message, ...]]:
    """The answers of a ranking, best first, by where they stand."""
    value = _required(row, "ranked")
    both = next((side for side in ("chosen", "rejected") if side in row), None)
    if both is not None:
        raise RowFault("unknown_field", both, "given together with ranked", "either ranked or the two sides")
    if not isinstance(value, list) or len(value) < 2:
        seen = f"{len(value)} answers" if isinstance(value, list) else kind(value)
        raise RowFault("wrong_type", "ranked", f"saw {seen}", "an array of at least two answers, best first")
    places = [f"ranked[{index}]" for index in range(len(value))]
    return {place: parse_messages(answer, place) for place, answer in zip(places, value, strict=True)}


def _require_different(answers: Mapping[str, tuple[Message, ...]]) -> None:
    seen: dict[tuple[tuple[str, str], ...], str] = {}
    for place, answer in answers.items():
        earlier = seen.setdefault(tuple(normalised(answer)), place)
        if earlier != place:
            raise RowFault("identical_sides", place, f"equal to {earlier}", "the answers of a row differ")


def parse_messages(value: Any, where: str) -> tuple[Message, ...]:
    """The messages in a JSON array, each checked by itself; their order is `check_dialogue`'s business."""
    if not isinstance(value, list):
        code = "null_value" if value is None else "wrong_type"
        raise RowFault(code, where, f"saw {kind(value)}", "an array of messages")
    if not value:
        raise RowFault("empty_messages", where, "saw an empty array", "at least one message")
    return tuple(
        Message(item["role"], item["content"])
        if _is_plain(item)
        else parse_message(item, f"{where}[{index}]")
        for index, item in enumerate(value)
    )


def _is_plain(value: Any) -> bool:
    """Whether a message is a role and a faultless text, as nearly every message of every dataset is."""
    if type(value) is not dict or value.keys() != {"role", "content"} or value["role"] not in ROLES:
        return False
    text = value["content"]
    return isinstance(text, str) and "\x00" not in text and (text.isascii() or _is_encodable(text))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_message(value: Any, where: str) -> Message:
    """One message; `where` names it in the fault (`messages[2]`)."""
    if not isinstance(value, Mapping):
        raise RowFault("wrong_type", where, f"saw {kind(value)}", "an object with role and content")
    unknown = [name for name in value if name not in MESSAGE_FIELDS]
    if unknown:
        accepted = f"fields: {', '.join(MESSAGE_FIELDS)}"
        raise RowFault("unknown_field", f"{where}.{unknown[0]}", "not a field of a message", accepted)
    role = _text(value, "role", where)
    if role not in ROLES:
        raise RowFault("unknown_role", f"{where}.role", f"saw {role!r}", f"roles: {', '.join(ROLES)}")
    content = checked_text(_required(value, "content", where), f"{where}.content")
    train = value.get("train")
    if train is not None and not isinstance(train, bool):
        raise RowFault("wrong_type", f"{where}.train", f"saw {kind(train)}", "true or false")
    if train and role != "assistant":
        raise RowFault(
            "trained_role",
            f"{where}.train",
            f"true on a {role} message",
            "only assistant turns are trained on",
        )
    context = value.get("input")
    if context is not None:
        if role != "user":
            raise RowFault(
                "misplaced_input",
                f"{where}.input",
                f"on a {role} message",
                "`input` belongs to a user message",
            )
        context = checked_text(context, f"{where}.input")
    thinking = value.get("thinking")
    if thinking is not None:
        if role != "assistant":
            raise RowFault(
                "misplaced_thinking",
                f"{where}.thinking",
                f"on a {role} message",
                "`thinking` belongs to an assistant message",
            )
        thinking = checked_text(thinking, f"{where}.thinking")
    return Message(role, content, train, context, thinking)


def check_dialogue(messages: Sequence[Message], where: str, first_answer: int = 0) -> None:
    """Refuses a dialogue that no chat template can serve: the order is [system] user assistant (tool) user
    ...

    `first_answer` is the index from which assistant turns can be targets; indices in faults count from there.
    """
    if _alternates(messages) and any(message.is_trained for message in messages[first_answer:]):
        return
    previous = None
    for index, message in enumerate(messages):
        place = f"{where}[{index - first_answer}]" if index >= first_answer else f"prompt[{index}]"
        if message.role == "system":
            if index:
                raise RowFault(
                    "system_not_first",
                    f"{place}.role",
                    f"saw system at turn {index + 1}",
                    "system comes first",
                )
        elif message.role == "tool":
            if previous not in ("assistant", "tool"):
                raise RowFault(
                    "role_order",
                    f"{place}.role",
                    f"tool after {previous}",
                    "a tool answers an assistant turn",
                )
        elif message.role == "assistant" and previous in (None, "system"):
            raise RowFault(
                "first_not_user", f"{place}.role", "the dialogue opens with assistant", "user speaks first"
            )
        elif message.role == previous:
            raise RowFault(
                "repeated_role",
                f"{place}.role",
                f"two {message.role} turns in a row",
                "user and assistant alternate",
            )
        if not message.content.strip() and not (message.role == "user" and message.input):
            code = "empty_answer" if message.role == "assistant" else "empty_content"
            raise RowFault(code, f"{place}.content", "saw an empty text", "text")
        previous = message.role
    last = len(messages) - 1 - first_answer
    if previous != "assistant":
        raise RowFault(
            "last_not_assistant",
            f"{where}[{last}].role",
            f"ends with {previous}",
            "an assistant turn ends the row",
        )
    if not any(message.is_trained for message in messages[first_answer:]):
        raise RowFault(
            "nothing_to_train", where, "every assistant turn says train: false", "at least one trained turn"
        )


def _alternates(messages: Sequence[Message]) -> bool:
    """Whether user and assistant take turns, perhaps behind a system text, and each says something."""
    if not messages:
        return False
    expected = "system" if messages[0].role == "system" else "user"
    for message in messages:
        if message.role != expected or not message.content.strip():
            return False
        expected = "assistant" if expected == "user" else "user"
    return expected == "user" and messages[-1].role == "assistant"


def normalised(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and text as compared for sameness: NFKC, outer white space removed."""
    import unicodedata

    return [(message.role, unicodedata.normalize("NFKC", message.content).strip()) for message in messages]


def checked_text(value: Any, where: str) -> str:
    """`value` if it is text that UTF-8 and a tokenizer can carry."""
    if value is None:
        raise RowFault("null_value", where, "saw null", "text")
    if not isinstance(value, str):
        raise RowFault("wrong_type", where, f"saw {kind(value)}", "text")
    if "\x00" in value:
        raise RowFault("nul_character", where, "saw a NUL character", "text without U+0000")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        accepted = "text that UTF-8 can carry"
        raise RowFault(
            "lone_surrogate", where, f"saw a lone surrogate at character {error.start}", accepted
        ) from None
    return value


def kind(value: Any) -> str:
    """The JSON type of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "an array" if isinstance(value, (list, tuple)) else "an object"


def _required(row: Mapping[str, Any], name: str, where: str = "") -> Any:
    place = f"{where}.{name}" if where else name
    if name not in row:
        raise RowFault(
            "missing_field", place, "missing", f"fields present: {', '.join(map(str, row)) or 'none'}"
        )
    if row[name] is None:
        raise RowFault("null_value", place, "saw null", "a value")
    return row[name]


def _text(row: Mapping[str, Any], name: str, where: str = "") -> str:
    place = f"{where}.{name}" if where else name
    text = checked_text(_required(row, name, where), place)
    if not text:
        raise RowFault("empty_content", place, "saw an empty text", "text")
    return text


def _weight(row: Mapping[str, Any]) -> float:
    if "weight" in row and "loss_weight" in row:
        raise RowFault("bad_weight", "weight", "given together with loss_weight", "one of the two names")
    name = "weight" if "weight" in row else "loss_weight"
    return _above_zero(row.get(name, 1.0), name)


def _above_zero(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowFault("wrong_type", name, f"saw {kind(value)}", "a number above 0")
    try:
        weight = float(value)
    except OverflowError:  # JSON integers have no bound
        weight = math.inf
    if not math.isfinite(weight) or weight <= 0:
        raise RowFault("bad_weight", name, f"saw {weight}", "a finite number above 0")
    return weight


def _meta(row: Mapping[str, Any]) -> Mapping[str, Any]:
    value = row.get("meta", {})
    if not isinstance(value, Mapping):
        raise RowFault("wrong_type", "meta", f"saw {kind(value)}", "an object")
    return dict(value)


def _meta_text(meta: Mapping[str, Any], name: str) -> str | None:
    value = meta.get(name)
    return value if isinstance(value, str) else None


def _optional(row: Row) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if row.group is not None:
        extra["group"] = row.group
    if row.loss_weight != 1.0:
        extra["loss_weight"] = row.loss_weight
    if row.meta:
        extra["meta"] = dict(row.meta)
    return extra
