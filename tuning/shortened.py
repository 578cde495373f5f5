"""Rows that are too long, with whole turns left out until they fit; no turn is ever cut in the middle.

conversation   a dialogue's last exchanges go: what is left is served as it is trained
pair           the prompt's first exchanges go, behind its system text: the answers stay
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tuning.chat import ChatError, EncodedSequence, Template, encode_many
from tuning.encoded import EncodedRow
from tuning.schema import Conversation, Row, parse_row


class Shortener:
    """Shortens rows of one built dataset, which it reads again from `data` for the purpose."""

    def __init__(
        self, data: Path, tokenizer: PreTrainedTokenizerBase, template: Template, legacy: str | None
    ) -> None:
        self._data, self._legacy = data, legacy
        self._tokenizer, self._template = tokenizer, template

    def shortened(self, rows: list[EncodedRow], max_length: int) -> dict[str, tuple[EncodedRow, int]]:
        """By id, each of `rows` that fits into `max_length` tokens with turns left out, and how many."""
        wanted = {row.id: row for row in rows}
        found: dict[str, tuple[EncodedRow, int]] = {}
        with self._data.open(encoding="utf-8") as file:
            for line in file if wanted else ():
                fields = json.loads(line) if line.strip() else {}
                if fields.get("id") in wanted:
                    row = parse_row(fields)
                    if fitting := self._fitting(row, max_length):
                        sequences, left_out = fitting
                        num_targets = sum(int(item.is_target[1:].sum()) for item in sequences)
                        cut = replace(wanted[row.id], result=tuple(sequences), num_targets=num_targets)
                        found[row.id] = cut, left_out
        return found

    def _fitting(self, row: Row, max_length: int) -> tuple[list[EncodedSequence], int] | None:
        for shorter, left_out in with_fewer_turns(row):
            [result] = encode_many([shorter], self._tokenizer, self._template, legacy=self._legacy)
            if not isinstance(result, ChatError) and all(len(item) <= max_length for item in result):
                return result, left_out
        return None


def with_fewer_turns(row: Row) -> Iterator[tuple[Row, int]]:
    """The row with ever more turns left out, and how many; none that would have nothing to train on."""
    if isinstance(row, Conversation):
        messages = row.messages
        ends = [index + 1 for index, message in enumerate(messages) if message.role == "assistant"]
        for end in reversed(ends[:-1]):
            if any(message.is_trained for message in messages[:end]):
                yield replace(row, messages=messages[:end]), len(messages) - end
        return
    opening = 1 if row.prompt[0].role == "system" else 0
    starts = [index for index, message in enumerate(row.prompt) if message.role == "user"]
    for start in starts[1:]:
        yield replace(row, prompt=row.prompt[:opening] + row.prompt[start:]), start - opening
