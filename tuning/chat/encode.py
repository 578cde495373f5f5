"""Messages -> token ids, and which of them are trained on.

The rendered conversation is tokenised whole, once, exactly as `apply_chat_template` does when the model is
served, and the character spans of the answers are mapped to tokens by offsets:

    characters   ...### 応答:\\n 𠮷です</s>        span = 𠮷です</s>
    tokens       応答 : <0x0A> <0xF0> <0xA0> <0xAE> <0xB7> です </s>
    offsets         :  [------------ "\\n𠮷" -----------]               one offset for five tokens
    is_target    0   0    0      1      1      1      1    1    1

A token is a target if its first byte lies in a span. The Unigram tokenizers of LLM-jp fuse neighbouring
characters that they have no piece for and give all their byte tokens one offset, so those are told apart by
counting UTF-8 bytes.

A row whose texts spell a control token (`</s>` typed by a user) is cut at the template's own control
tokens, and what lies between is encoded by a twin of the tokenizer that knows no control tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .legacy import encode_legacy
from .lines import lines_of
from .rendering import Binding, Rendered, Turn, as_turns, bind
from .templates import ChatError, Template
from .tokens import tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tuning.schema import Conversation, Message, PreferencePair

Messages = Sequence["Message | Mapping[str, Any]"]

ROWS_AT_ONCE = 256
"""Rows handed to the tokenizer in one call, which spreads them over the cores."""


@dataclass(frozen=True, eq=False)
class EncodedSequence:
    """One sequence to train on.

    `counts` says what happened to its texts, each 0 or 1: `literal_special_token` (a text spells a control
    token), `system_replaced` (the template writes its own system text), `content_trimmed` (the template
    trims outer space), `thinking_dropped` (the template has no place for the answer's thinking).
    """

    input_ids: np.ndarray
    """int32, (tokens,)"""
    is_target: np.ndarray
    """bool, (tokens,): whether token t is predicted and scored"""
    id: str = ""
    source: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())


def encode(
    messages: Messages,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    id: str = "",
    source: str = "",
) -> list[EncodedSequence]:
    """The conversation as ids and targets: one sequence, or under a template that writes its last answer
    otherwise than earlier ones (`llm-jp-v4`) one for each trained answer, which ends with it.

    Targets are the assistant turns that do not say `train: false`, each with its end-of-turn token. Raises
    `ChatError` with the reason if the template cannot carry the messages faithfully.
    """
    [sequences] = _encode_rows(bind(tokenizer, template), [_Row(id, source, [as_turns(messages)])])
    return _or_raise(sequences)


def encode_pair(
    prompt: Messages,
    chosen: Messages,
    rejected: Messages,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    id: str = "",
    source: str = "",
) -> tuple[EncodedSequence, EncodedSequence]:
    """`prompt + chosen` and `prompt + rejected`. No message of the prompt is a target, whatever its role."""
    row = _Row(id, source, _sides(prompt, chosen, rejected))
    [sequences] = _encode_rows(bind(tokenizer, template), [row])
    first, second = _or_raise(sequences)
    return first, second


def encode_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase, template: Template) -> np.ndarray:
    """int32, (tokens,): what the model is given to answer `messages`, ending with the generation prompt."""
    turns = as_turns(messages)
    if turns[-1].role == "assistant":
        raise ChatError(
            "already_answered", "the last message is the assistant's: there is nothing to generate"
        )
    binding = bind(tokenizer, template)
    [encoded] = _or_raise(_tokenise(binding, [binding.render(turns, generation=True)]))
    return encoded.input_ids


def encode_many(
    rows: Iterable[Conversation | PreferencePair | Messages],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    legacy: str | None = None,
) -> Iterator[list[EncodedSequence] | ChatError]:
    """For each row, in order: its sequences (chosen, then rejected, of a pair; of a ranking best first) or
    the reason why there are none.

    The same as `encode` and `encode_pair` row by row, but many rows share one call of the tokenizer. With
    `legacy`, the ids are those of a published model's tokenisation instead of the template's.
    """
    if legacy is not None:
        yield from (_encode_as_published(_named(row), tokenizer, legacy) for row in rows)
        return
    binding = bind(tokenizer, template)
    waiting: list[_Row] = []
    for row in rows:
        waiting.append(_named(row))
        if len(waiting) == ROWS_AT_ONCE:
            yield from _encode_rows(binding, waiting)
            waiting = []
    yield from _encode_rows(binding, waiting)


@dataclass
class _Row:
    """A row on its way: the dialogues that it makes (one for each answer to choose from), or why it makes
    none."""

    id: str
    source: str
    dialogues: list[list[Turn]] | ChatError


def _named(row: Any) -> _Row:
    id, source = getattr(row, "id", ""), getattr(row, "source", "")
    try:
        if hasattr(row, "chosen"):
            between = getattr(row, "between", ())
            return _Row(id, source, _sides(row.prompt, row.chosen, *between, row.rejected))
        return _Row(id, source, [as_turns(getattr(row, "messages", row))])
    except ChatError as error:
        return _Row(id, source, error)


def _sides(prompt: Messages, *answers: Messages) -> list[list[Turn]]:
    asked = [replace(turn, is_trained=False) for turn in as_turns(prompt)]
    return [asked + as_turns(answer) for answer in answers]


def _encode_rows(binding: Binding, rows: Sequence[_Row]) -> list[list[EncodedSequence] | ChatError]:
    rendered: list[Rendered] = []
    places: list[slice | ChatError] = []
    for row in rows:
        try:
            if isinstance(row.dialogues, ChatError):
                raise row.dialogues
            texts = [part for turns in row.dialogues for _, part in binding.renderings(turns)]
            if len(row.dialogues) > 1 and len(texts) != len(row.dialogues):
                raise ChatError(
                    "needs_several_sequences",
                    f"{len(texts)} sequences instead of one for each of {len(row.dialogues)} answers",
                )
        except ChatError as error:
            places.append(_naming(row.id, error))
            continue
        for text in texts:
            text.id, text.source = row.id, row.source
        places.append(slice(len(rendered), len(rendered) + len(texts)))
        rendered += texts
    encoded = _tokenise(binding, rendered)
    results: list[list[EncodedSequence] | ChatError] = []
    for row, place in zip(rows, places, strict=True):
        if isinstance(place, ChatError):
            results.append(place)
            continue
        try:
            sequences = _or_raise(encoded[place])
        except ChatError as error:
            results.append(_naming(row.id, error))
        else:
            results.append(sequences)
    return results


def _encode_as_published(
    row: _Row, tokenizer: PreTrainedTokenizerBase, legacy: str
) -> list[EncodedSequence] | ChatError:
    try:
        if isinstance(row.dialogues, ChatError):
            raise row.dialogues
        ids_and_targets = [
            encode_legacy(turns, tokenizer, legacy, is_preference=len(row.dialogues) > 1)
            for turns in row.dialogues
        ]
    except ChatError as error:
        return _naming(row.id, error)
    return [EncodedSequence(*pair, id=row.id, source=row.source) for pair in ids_and_targets]


def _naming(row_id: str, error: ChatError) -> ChatError:
    return ChatError(error.code, f"row {row_id}: {error}") if row_id else error


def _or_raise(result: Sequence[EncodedSequence | ChatError] | ChatError) -> list[EncodedSequence]:
    sequences = []
    for sequence in [result] if isinstance(result, ChatError) else result:
        if isinstance(sequence, ChatError):
            raise sequence
        sequences.append(sequence)
    return sequences


def _tokenise(binding: Binding, rendered: Sequence[Rendered]) -> list[EncodedSequence | ChatError]:
    """Each text's ids and targets, or why its tokens cannot be told apart; the others do not suffer."""
    if not rendered:
        return []
    lines = lines_of(binding)
    if lines is None or not lines.is_trusted:
        return _tokenise_whole(binding, rendered)
    fast = lines.encode(rendered)
    whole = [row for row, result in zip(rendered, fast, strict=True) if result is None]
    slow = iter(_tokenise_whole(binding, whole))
    sequences = [
        next(slow) if result is None else EncodedSequence(*result, row.id, row.source, row.counts)
        for row, result in zip(rendered, fast, strict=True)
    ]
    if lines.unchecked > 0:
        checked = slice(0, lines.unchecked)
        lines.unchecked -= len(rendered)
        pairs = zip(sequences[checked], _tokenise_whole(binding, rendered[checked]), strict=True)
        if not all(_are_equal(one, other) for one, other in pairs):
            lines.is_trusted = False
            return _tokenise_whole(binding, rendered)
    return sequences


def _are_equal(one: EncodedSequence | ChatError, other: EncodedSequence | ChatError) -> bool:
    if isinstance(one, ChatError) or isinstance(other, ChatError):
        return isinstance(one, ChatError) and isinstance(other, ChatError)
    return np.array_equal(one.input_ids, other.input_ids) and np.array_equal(one.is_target, other.is_target)


def _tokenise_whole(binding: Binding, rendered: Sequence[Rendered]) -> list[EncodedSequence | ChatError]:
    """The slow, exact way, which `lines` has to agree with."""
    if not rendered:
        return []
    tokens = tokens_of(binding)
    sequences: list[EncodedSequence | ChatError] = []
    for row, (ids, offsets) in zip(rendered, tokens.whole([row.text for row in rendered]), strict=True):
        counts = dict(row.counts)
        if not tokens.are_faithful(row, ids, offsets):
            ids, offsets = tokens.cut(row)
            counts["literal_special_token"] = 1
        try:
            is_target = tokens.in_spans(row, ids, offsets)
            sequences.append(EncodedSequence(ids, is_target, row.id, row.source, counts))
        except ChatError as error:
            sequences.append(error)
    return sequences
