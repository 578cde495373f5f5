"""The row of Japanese hand-written sets: `ID`, `text` (the question) and `output` (the answer)."""

from __future__ import annotations

from data_builders.reading import RawRow
from data_builders.writing import Draft, as_object, extras, required_text


def question_and_answer(raw: RawRow, row_id: str) -> Draft:
    """One turn from `text` and `output`; every other field, the ID among them, goes to `meta`."""
    row = as_object(raw)
    question, answer = required_text(row, "text"), required_text(row, "output")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Draft(
        {"id": row_id, "messages": messages, "meta": extras(row, ("text", "output"))},
        language="ja",
        fields={"messages[0].content": "text", "messages[1].content": "output"},
    )
