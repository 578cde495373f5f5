"""One conversation as the template writes it, with every message's characters known.

Where the texts lie is learnt by rendering the same roles once with marks instead of texts (`frames`):

    marks     <s>\\n\\n### 指示:\\n <0> \\n\\n### 応答:\\n <1> </s>        the frame, one per roles
    texts     <s>\\n\\n### 指示:\\n 1+1は? \\n\\n### 応答:\\n 2 </s>       the frame with the texts filled in
                                                         ------       what is trained on

What is trained on begins where the generation prompt ends: whatever the template writes between the two (the
channel in Harmony) is for the model to write when it is served.

The filled frame has to equal, character for character, what `apply_chat_template` makes of the real
messages. A template that looks into the texts, alters them, or rewrites earlier turns is thereby found out
and refused. Where its syntax tree shows that it only writes the texts down (`verbatim`), the first messages
of each shape are compared; under any other template, all.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from tuning.schema import Message

from .frames import Frame, Shape, differing_excerpts, frame_of, lost_or_repeated, marked_messages
from .templates import FIXED_SENTENCE, ONE_ANSWER, ChatError, Template
from .verbatim import writes_texts_only

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .lines import Lines
    from .tokens import Tokens

_MESSAGE_KEYS = ("role", "content", "train", "input", "thinking")
_EXTRA_KEYS = ("input", "thinking")
_NOTHING_SAID = (None, None, None)


@dataclass(frozen=True)
class Turn:
    """One message as the templates see it; `as_turns` makes it from a `Message` or a dict."""

    role: str
    content: str
    is_trained: bool
    input: str | None = None
    thinking: str | None = None


@dataclass
class Rendered:
    """A conversation as one string. All positions are characters of `text`."""

    text: str
    controls: list[tuple[int, int, int]]
    """(start, end, token id) of each control token that the template itself wrote."""
    spans: list[tuple[int, int]]
    """What is trained on: from the end of the generation prompt to the end of the answer's end-of-turn
    token."""
    counts: dict[str, int] = field(default_factory=dict)
    id: str = ""
    source: str = ""
    """The row's."""


def as_turns(messages: Sequence[Message | Mapping[str, Any]]) -> list[Turn]:
    """The messages, checked. Raises `ChatError` for what is not a message."""
    if not messages:
        raise ChatError("empty_conversation", "a conversation needs at least one message")
    return [_as_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _as_turn(message: Message | Mapping[str, Any], where: str) -> Turn:
    if isinstance(message, Message) and (message.train, message.input, message.thinking) == _NOTHING_SAID:
        role, content = message.role, message.content  # nearly every message of every dataset
        if isinstance(role, str) and isinstance(content, str):
            return Turn(role, content, role == "assistant")
    row = message if isinstance(message, Mapping) else {key: getattr(message, key) for key in _MESSAGE_KEYS}
    for key in row:
        if key not in _MESSAGE_KEYS:
            known = ", ".join(_MESSAGE_KEYS)
            raise ChatError("unknown_field", f"{where}.{key} is not a field of a message; fields: {known}")
    for key in ("role", "content"):
        if not isinstance(row.get(key), str):
            raise ChatError("not_text", f"{where}.{key}: saw {row.get(key)!r}; text is needed")
    role, train, context = row["role"], row.get("train"), row.get("input")
    if train and role != "assistant":
        raise ChatError(
            "trained_role", f"{where}.train: true on a {role} message; only answers are trained on"
        )
    if context and role != "user":
        raise ChatError(
            "misplaced_input", f"{where}.input: on a {role} message; it belongs to a user message"
        )
    thinking = row.get("thinking")
    if thinking and role != "assistant":
        raise ChatError(
            "misplaced_thinking", f"{where}.thinking: on a {role} message; it belongs to an assistant message"
        )
    is_trained = role == "assistant" and train is not False
    return Turn(role, row["content"], is_trained, context or None, thinking or None)


class Binding:
    """A template together with the tokenizer whose control tokens it writes; `bind` keeps one per pair.

    Control tokens are the tokenizer's special tokens, and whatever other added token stands in the template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, copies: dict[Any, Any]
    ) -> None:
        if not tokenizer.is_fast:
            reason = f"{type(tokenizer).__name__} gives no offsets; a fast tokenizer is needed"
            raise ChatError("slow_tokenizer", reason)
        if "strftime_now" in template.source:
            reason = (
                "may write today's date (strftime_now): ids would depend on the day; fix the date in a copy"
            )
            raise ChatError("undated_template", f"template {template.name!r} {reason}")
        # A proxy, since the cache of bindings must not keep the tokenizer alive.
        self.tokenizer = cast("PreTrainedTokenizerBase", weakref.proxy(tokenizer))
        self.template = template
        self.copies = copies
        """Altered copies of the tokenizer's backend and what was learned of them, which its bindings share:
        one may take 300 MB."""
        self.control_ids = {
            str(token): token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or str(token) in template.source
        }
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        self.controls = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._frames: dict[Shape, Frame] = {}
        self._controls: dict[Shape, list[list[tuple[int, int, int]]]] = {}
        self._checked: set[tuple[Shape, tuple[int, ...]]] = set()
        self._is_verbatim = writes_texts_only(template.source)
        self._rendered_shapes: set[Shape] = set()
        self._rendered_keys: frozenset[str] | None = None
        self.control_texts = {token_id: text for text, token_id in self.control_ids.items()}
        self.tokens: Tokens | None = None
        """Filled in by `tokens_of`."""
        self.lines: Lines | None = None
        """Filled in by `lines_of`, which notes that it has tried."""
        self.is_line_by_line_tried = False

    @property
    def rendered_keys(self) -> frozenset[str]:
        """Which of `input` and `thinking` the template has a place of its own for."""
        if self._rendered_keys is None:
            marked = marked_messages(((("user", ("input",)), ("assistant", ("thinking",))), False))
            slots = frame_of(self._apply(marked, generation=False)).slots
            self._rendered_keys = frozenset(slot.key for slot in slots if slot.key in _EXTRA_KEYS)
        return self._rendered_keys

    def served_messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """What `apply_chat_template` gets. A template without a place for `input` sees it joined to the
        content; one without a place for `thinking` does not see it."""
        served = []
        for turn in turns:
            message = {"role": turn.role, "content": turn.content}
            if turn.input is not None and "input" in self.rendered_keys:
                message["input"] = turn.input
            elif turn.input is not None:
                message["content"] = "\n\n".join(text for text in (turn.content, turn.input) if text)
            if turn.thinking is not None and "thinking" in self.rendered_keys:
                message["thinking"] = turn.thinking
            served.append(message)
        return served

    def renderings(self, turns: Sequence[Turn]) -> list[tuple[Sequence[Turn], Rendered]]:
        """The sequences that the conversation makes, each with the turns it holds: one, or under a template
        that takes one sequence per answer, one for each trained turn, which ends with it."""
        if not self.template.takes_one_answer:
            return [(turns, self.render(turns))]
        parts = [
            [*(replace(turn, is_trained=False) for turn in turns[:index]), turns[index]]
            for index, turn in enumerate(turns)
            if turn.is_trained
        ]
        return [(part, self.render(part)) for part in parts]

    def render(self, turns: Sequence[Turn], *, generation: bool = False) -> Rendered:
        """The conversation as text with its control tokens and target spans.

        Raises `ChatError` if the template refuses, loses, alters or rewrites a message.
        """
        messages = self.served_messages(turns)
        shape: Shape = (tuple(_kind(message) for message in messages), generation)
        trained = () if generation else tuple(index for index, turn in enumerate(turns) if turn.is_trained)
        frame = self._frame(shape)
        self._check_history(shape, trained)
        rendered = self._fill(frame, messages, shape, trained)
        written = {slot.message for slot in frame.slots if slot.key == "thinking"}
        if any(turn.thinking and turn.is_trained and i not in written for i, turn in enumerate(turns)):
            rendered.counts["thinking_dropped"] = 1
        if self._is_verbatim and shape in self._rendered_shapes:
            return rendered
        self._rendered_shapes.add(shape)
        actual = self._apply(messages, generation)
        if rendered.text != actual:
            expected, seen = differing_excerpts(rendered.text, actual)
            reason = (
                f"alters a text: {expected!r} becomes {seen!r}, so what is trained on could not be told apart"
            )
            raise ChatError("content_altered", f"template {self.template.name!r} {reason}")
        return rendered

    def end_token(self) -> str:
        """The control token after an assistant's content."""
        frame = self._frame((_PLAIN_TURN, False))
        return self._end(frame, frame.place_of_content(1)).group()

    def check(self) -> None:
        """Raises `ChatError` if the template cannot serve a dialogue of one turn, or of two in another way
        than by refusing it."""
        self.end_token()
        self._check_history((_PLAIN_TURN, False), (1,))
        try:
            self._check_history((_PLAIN_TURN * 2, False), (3,) if self.template.takes_one_answer else (1, 3))
        except ChatError as error:
            if error.code != "template_refuses":
                raise

    def _apply(self, messages: list[dict[str, str]], generation: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, chat_template=self.template.source, add_generation_prompt=generation
            )
        except Exception as error:  # Whatever a stranger's template raises is the template's refusal.
            reason = f"{type(error).__name__}: {error}"
            raise ChatError(
                "template_refuses", f"template {self.template.name!r} refuses: {reason}"
            ) from error
        return str(text)

    def _frame(self, shape: Shape) -> Frame:
        if shape not in self._frames:
            frame = frame_of(self._apply(marked_messages(shape), shape[1]))
            for index, role, times in lost_or_repeated(frame, shape):
                code = "content_repeated" if times else "message_lost"
                reason = f"writes the text of messages[{index}] (role {role}) {times} times"
                raise ChatError(code, f"template {self.template.name!r} {reason}")
            self._frames[shape] = frame
        return self._frames[shape]

    def _end(self, frame: Frame, place: int) -> re.Match[str]:
        """The first control token behind the slot, before any other text of the conversation."""
        match = self.controls.search(frame.strings[place + 1])
        if match is None:
            seen = frame.strings[place + 1].strip()[:40]
            raise ChatError(
                "no_end_token",
                f"template {self.template.name!r} ends an assistant turn with {seen!r}, which holds no "
                "control token of this tokenizer: the model could not learn to stop. Take a template that "
                f"ends turns with {self.tokenizer.eos_token!r}, or add the token and its embedding",
            )
        return match

    def _check_history(self, shape: Shape, trained: tuple[int, ...]) -> None:
        """Refuses a template under which the model, when it answers, would not see what it was trained
        behind.

        For each trained turn, the rendering up to it (with the generation prompt) and the one that ends
        with it have to be beginnings of the whole rendering.
        """
        if (shape, trained) in self._checked:
            return
        whole = self._frame(shape).text
        for index in trained:
            asked = self._frame((shape[0][:index], True)).text
            answered = self._frame((shape[0][: index + 1], False))
            place = answered.place_of_content(index)
            until = answered.string_starts[place + 1] + self._end(answered, place).end()
            for what, beginning in (("the prompt for", asked), ("the text up to", answered.text[:until])):
                if not whole.startswith(beginning):
                    before, after = differing_excerpts(beginning, whole)
                    raise ChatError(
                        "history_rewritten",
                        f"template {self.template.name!r} rewrites history: {what} messages[{index}] reads "
                        f"{before!r}, but {after!r} once the whole conversation is rendered; an answer would "
                        "be trained on in a form that is never served. A copy of it in a .jinja file that "
                        f"holds the comment {{#- {ONE_ANSWER} -#}} is trained on one answer at a time",
                    )
        self._checked.add((shape, trained))

    def _controls_of(self, frame: Frame, shape: Shape) -> list[list[tuple[int, int, int]]]:
        """(start, end, token id) of the control tokens in each of the frame's strings."""
        if shape not in self._controls:
            self._controls[shape] = [
                [(*match.span(), self.control_ids[match.group()]) for match in self.controls.finditer(string)]
                for string in frame.strings
            ]
        return self._controls[shape]

    def _fill(
        self, frame: Frame, messages: list[dict[str, str]], shape: Shape, trained: tuple[int, ...]
    ) -> Rendered:
        rendered = Rendered("", [], [])
        texts: list[str] = []
        string_at: list[int] = []
        ends: dict[int, int] = {}
        position = 0
        all_controls = self._controls_of(frame, shape)
        for place, (string, controls) in enumerate(zip(frame.strings, all_controls, strict=True)):
            for start, end, token_id in controls:
                rendered.controls.append((position + start, position + end, token_id))
            string_at.append(position)
            texts.append(string)
            position += len(string)
            if place == len(frame.slots):
                break
            slot = frame.slots[place]
            text = slot.text_of(messages[slot.message])
            if text != messages[slot.message][slot.key]:
                rendered.counts["content_trimmed"] = 1
            texts.append(text)
            position += len(text)
            if slot.message in trained and slot.key == "content":
                ends[slot.message] = position + self._end(frame, place).end()
        for index in trained:
            asked = self._frame((shape[0][:index], True))  # a beginning of `frame`, as `_check_history` saw
            rendered.spans.append((string_at[len(asked.slots)] + len(asked.strings[-1]), ends[index]))
        written = {slot.message for slot in frame.slots}
        for index, message in enumerate(messages):
            if index not in written and message["content"] != FIXED_SENTENCE:
                rendered.counts["system_replaced"] = 1
        rendered.text = "".join(texts)
        return rendered


_PLAIN_TURN: tuple[tuple[str, tuple[str, ...]], ...] = (("user", ()), ("assistant", ()))


def _kind(message: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    return message["role"], tuple(key for key in _EXTRA_KEYS if key in message)


_bindings: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, Binding]] = (
    weakref.WeakKeyDictionary()
)
_copies: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[Any, dict[Any, Any]]] = (
    weakref.WeakKeyDictionary()
)


def bind(tokenizer: PreTrainedTokenizerBase, template: Template) -> Binding:
    """The binding of `template` to `tokenizer` as it is now; a tokenizer that was changed since gets a new
    one."""
    state = (template.source, len(tokenizer), tuple(sorted(map(str, tokenizer.special_tokens_map.items()))))
    known = _bindings.setdefault(tokenizer, {})
    if state not in known:
        copies = _copies.setdefault(tokenizer, {}).setdefault(state[1:], {})
        known[state] = Binding(tokenizer, template, copies)
    return known[state]
