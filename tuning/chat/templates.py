"""Chat templates as versioned data: the text format that turns messages into one string.

A template is nothing but its Jinja source. Everything else the library needs to know about it (which token
ends a turn, whether it renders `input`, whether it trims) is found out by rendering it, so that a user's
own `.jinja` file and the template inside a checkpoint are on the same footing as the ones shipped here.

    name               opening                                        a system message
    llm-jp-v1.0        none; one line, one turn                       is refused
    llm-jp-v1          fixed sentence (another for `### 入力:`)       takes the sentence's place, as written
    llm-jp-v1-input    the sentence for `### 入力:`, always           takes the sentence's place, as written
    llm-jp-v3          none, unless a system message is given         is replaced by the fixed sentence
    llm-jp-v3-system   BOS + fixed sentence                           takes the sentence's place, as written
    llm-jp-v4          Harmony's system message with a fixed date     becomes the developer message
    chatml             none                                           a turn like any other
    base               whatever the checkpoint's tokenizer carries
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 3
"""Raised whenever the same source and messages would give other ids or targets; part of every fingerprint."""

FOLDER = Path(__file__).parent / "templates"

ONE_ANSWER = "tuning: one sequence per answer"
"""In a comment of a template: the last answer is written in another way than the earlier ones, so a dialogue
of n answers is trained on as n sequences, each rendered as it is when its answer is generated."""

FIXED_SENTENCE = "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。"
"""The system text of every LLM-jp instruct model up to v3."""

FIXED_SENTENCE_WITH_INPUT = (
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。"
)
"""The same where the question has an `### 入力:` part."""


class ChatError(ValueError):
    """A template, a tokenizer or a conversation that cannot be trained on as it stands.

    `code` is stable, for counting rows that are dropped because of it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Template:
    """The Jinja source behind a name. Equal sources are equal templates, wherever they came from."""

    name: str
    source: str

    @property
    def takes_one_answer(self) -> bool:
        """Whether the template says that each answer needs a sequence of its own (`ONE_ANSWER`)."""
        return ONE_ANSWER in self.source

    @property
    def fingerprint(self) -> str:
        """sha256 over the source and the version of this room."""
        return hashlib.sha256(f"tuning.chat {VERSION}\n{self.source}".encode()).hexdigest()

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises `ChatError` with the reason if this template cannot be trained on with this tokenizer."""
        from .rendering import bind

        bind(tokenizer, self).check()

    def end_token(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The control token that ends an assistant turn, and so the one at which generation has to stop."""
        from .rendering import bind

        return bind(tokenizer, self).end_token()

    def install(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Makes `tokenizer` speak this template: sets its `chat_template`, `eos_token` and `pad_token` in
        place.

        eos becomes the token that ends an assistant turn. A pad token is kept if it differs from that,
        since padding with the stop token teaches nobody to stop; otherwise one of the tokenizer's own
        control tokens is taken.
        """
        before: Any = tokenizer.eos_token
        end = self.end_token(tokenizer)
        tokenizer.chat_template = self.source
        tokenizer.eos_token = end
        if tokenizer.pad_token in (None, end):
            tokenizer.pad_token = _spare_token(tokenizer, end, before)


def _spare_token(tokenizer: PreTrainedTokenizerBase, end: str, former_eos: str | None) -> str:
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    named = [token for token in special if "pad" in token.lower()]
    for candidate in (*named, former_eos, tokenizer.unk_token, *special):
        if candidate is not None and candidate != end and candidate != tokenizer.bos_token:
            return str(candidate)
    raise ChatError(
        "no_pad_token",
        f"the tokenizer has no token to pad with besides its end-of-turn token {end!r}; "
        "add one: tokenizer.add_special_tokens({'pad_token': '<|pad|>'})",
    )


def template_names() -> list[str]:
    """The names that `load_template` knows, `base` among them."""
    return [*sorted(path.stem for path in FOLDER.glob("*.jinja")), "base"]


def load_template(name: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None) -> Template:
    """The template called `name`: one shipped here, the path of a `.jinja` file, or `base`, which needs
    `tokenizer`.

    Raises `ChatError` for an unknown name, a missing file, and a `base` tokenizer that carries no template.
    """
    text = str(name)
    if text == "base":
        return Template("base", _carried_template(tokenizer))
    if text.endswith(".jinja"):
        path = Path(name)
        if not path.is_file():
            raise ChatError(
                "unknown_template", f"template {text!r}: no such file; names: {', '.join(template_names())}"
            )
        return Template(path.stem, _own_source(path))
    if text not in template_names():
        near = difflib.get_close_matches(text, template_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(template_names())
        raise ChatError(
            "unknown_template", f"template {text!r} is not known; {hint}known: {known}, or a .jinja file"
        )
    return Template(text, (FOLDER / f"{text}.jinja").read_text(encoding="utf-8"))


def _own_source(path: Path) -> str:
    """A user's template without a byte order mark, which would stand in front of every conversation."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ChatError(
            "template_encoding",
            f"template {str(path)!r}: byte {error.start + 1} is not UTF-8; save it as UTF-8",
        ) from None


def _carried_template(tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None:
        raise ChatError(
            "no_tokenizer", "template 'base' is the checkpoint's own: load_template('base', tokenizer=...)"
        )
    carried: Any = tokenizer.chat_template
    if isinstance(carried, dict):
        if "default" not in carried:
            raise ChatError(
                "no_template", f"the tokenizer carries the templates {sorted(carried)} but no 'default'"
            )
        carried = carried["default"]
    if not carried:
        known = ", ".join(name for name in template_names() if name != "base")
        raise ChatError(
            "no_template",
            f"template 'base': {tokenizer.name_or_path or 'this tokenizer'} carries no chat template; "
            f"name one instead: {known}, or a .jinja file",
        )
    return str(carried)
