"""Splits the rendered `text` rows of llm-jp-sft back into turns, at their headers.

    v1.1   …\\n\\n### 指示:\\n{user}\\n\\n### 入力:\\n{context}\\n\\n### 応答:\\n{answer}  any turns
    v1.0   ### 指示：{user} ### 質問：{question} ### 回答：{answer}    one line, one turn

The two sentences that llm-jp-sft put in front belong to its template and are left out unless wanted; other
text in front is a system message. In v1.0 the question (or 入力) is the context of the instruction. What a
text says between its headers is kept as it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from tuning.schema import RowFault

PREAMBLES = (
    "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。",
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。",
)
HEADER = re.compile(r"(?:\A|\n{1,2})### (指示|入力|応答):\n")
OLD_HEADER = re.compile(r"(?:\A|\s+)### (指示|質問|入力|応答|回答)：")
END_OF_TURN = re.compile(r"(?:<EOD\|LLM-jp>|</s>)\s*\Z")
START = re.compile(r"\A<s>")


def turns_of(text: str, keeps_sentence: bool, counts: Counter[str]) -> list[dict[str, Any]]:
    """The messages of a rendered text; raises `RowFault` naming `text`. What was left out is counted."""
    text = START.sub("", text)
    before, *parts = HEADER.split(text)
    is_old = not parts
    if is_old:
        before, *parts = OLD_HEADER.split(text)
    if not parts:
        accepted = "### 指示:, ### 入力: and ### 応答: at line starts, or the one-line ### 指示： form"
        raise RowFault("no_headers", "text", "no header to split at", accepted)
    messages: list[dict[str, Any]] = []
    before = before.strip("\n")
    if before in PREAMBLES and not keeps_sentence:
        counts["template_sentences_left_out"] += 1
    elif before:
        messages.append({"role": "system", "content": before})
    for header, content in zip(parts[::2], parts[1::2], strict=True):
        _add(messages, header, content, counts)
    answers = sum(message["role"] == "assistant" for message in messages)
    if is_old and answers > 1:
        raise RowFault("too_many_turns", "text", f"saw {answers} answers", "the one-line form has one turn")
    return messages


def _add(messages: list[dict[str, Any]], header: str, content: str, counts: Counter[str]) -> None:
    if header in ("応答", "回答"):
        content, ends = END_OF_TURN.subn("", content)
        counts["end_tokens_left_out"] += ends
        messages.append({"role": "assistant", "content": content})
    elif header == "指示":
        messages.append({"role": "user", "content": content})
    elif messages and messages[-1]["role"] == "user" and "input" not in messages[-1]:
        messages[-1]["input"] = content
    elif header == "質問" and (not messages or messages[-1]["role"] == "system"):
        messages.append({"role": "user", "content": content})
    else:
        raise RowFault(
            "misplaced_input", "text", f"### {header} does not follow ### 指示", "指示, then 入力, then 応答"
        )
