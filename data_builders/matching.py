"""The forms in which two texts are compared: what may differ between them without making them two texts.

folded   width, case, runs of white space       "Ｈello　 World"  -> "hello world"
bare     also every space and punctuation mark  "Hello, World!"  -> "helloworld"
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from tuning.schema import Conversation, Message, PreferencePair, Row

_LETTERS = re.compile(r"[^\W_]+")
_JAPANESE = re.compile("[\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_ASCII_LETTER = re.compile("[A-Za-z]")

JAPANESE_SHARE = 0.2
"""A text with at least this share of kana and kanji among its letters counts as Japanese."""


class Place(NamedTuple):
    """A text of a row and where it stands."""

    where: str
    role: str
    text: str
    is_answer: bool
    """Whether it is an assistant turn that a model learns to give: not `rejected`, not a pair's prompt."""


def folded(text: str) -> str:
    """The text in NFKC and lower case, each run of white space one space, none at its ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@functools.lru_cache(maxsize=512)  # several checks in a row ask for the same texts
def bare(text: str) -> str:
    """The letters and digits of the text in NFKC and lower case, nothing between them."""
    return "".join(_LETTERS.findall(unicodedata.normalize("NFKC", text).casefold()))


def japanese_letters(text: str) -> int:
    """How many kana and kanji a text has."""
    return len(_JAPANESE.findall(text))


def ascii_letters(text: str) -> int:
    return len(_ASCII_LETTER.findall(text))


def is_japanese(text: str) -> bool:
    """Whether n-grams of Japanese length fit the text, by the share of kana and kanji."""
    return japanese_letters(text) >= JAPANESE_SHARE * max(1, len(text))


def asked(message: Message) -> str:
    """What a message says with its context."""
    return f"{message.content}\n{message.input}" if message.input else message.content


def excerpt(text: str, start: int = 0, end: int | None = None, around: int = 20) -> str:
    """At most 100 characters of a text from a little before `start`, on one line."""
    first = max(0, start - around)
    last = min(len(text), first + 100 if end is None else min(end + around, first + 100))
    cut = " ".join("".join(map(_shown, text[first:last])).split())
    return ("…" if first else "") + cut + ("…" if last < len(text) else "")


def _shown(character: str) -> str:
    """A control character as its picture, so that a terminal obeys none of a row's."""
    code = ord(character)
    if code < 0x20 and not character.isspace():
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd" if 0x80 <= code < 0xA0 else character


def sides(row: Row) -> list[tuple[str, tuple[Message, ...]]]:
    """The parts of a row by field name."""
    if isinstance(row, Conversation):
        return [("messages", row.messages)]
    between = [(f"ranked[{place}]", answer) for place, answer in enumerate(row.between, 1)]
    return [("prompt", row.prompt), ("chosen", row.chosen), *between, ("rejected", row.rejected)]


def texts(row: Row) -> Iterator[Place]:
    """Every text of a row; the context of a user turn, and an assistant's thinking, behind the content."""
    is_pair = isinstance(row, PreferencePair)
    for side, messages in sides(row):
        for index, message in enumerate(messages):
            is_answer = message.is_trained and (not is_pair or side == "chosen")
            yield Place(f"{side}[{index}].content", message.role, message.content, is_answer)
            if message.input:
                yield Place(f"{side}[{index}].input", message.role, message.input, False)
            if message.thinking:
                yield Place(f"{side}[{index}].thinking", message.role, message.thinking, is_answer)


def exchanges(row: Row) -> Iterator[tuple[str, Message | None, Message]]:
    """Where each answer stands that a model learns to give, the user turn before it, and the answer."""
    side, messages = ("messages", row.messages) if isinstance(row, Conversation) else ("chosen", row.chosen)
    before = row.prompt if isinstance(row, PreferencePair) else ()
    request = next((message for message in reversed(before) if message.role == "user"), None)
    for index, message in enumerate(messages):
        if message.role == "user":
            request = message
        elif message.is_trained:
            yield f"{side}[{index}].content", request, message
