"""Dolly 15k: single-turn instructions written by Databricks staff, and its Japanese translations.

Schema, one JSON object a line (kunishou's translation is a JSON array and says `input`, `output`, and has
`index`):

    {"instruction": "When did the mill close?", "context": "The mill closed in 1950.[3]",
     "response": "In 1950.", "category": "closed_qa"}

Licence: CC BY-SA 3.0, for the translations too.
Traps: `context` is "" in most rows. Contexts carry Wikipedia's citation marks (`[42]`): `citations: strip`
removes them from rows that have a context. The present file has 15,011 rows; older copies and their
translations have 15,015, with four broken rows: the question or the context repeated as the answer
(`answer_repeats_prompt`), or the answer copied into the question (`answer_copied_into_prompt`: the
instruction starts or ends with it, and half of it or more is the answer; a choice among named things
stays). Outer white space is removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_builders.info import BuilderInfo, Option
from data_builders.language import japanese_or_english
from data_builders.published import PublishedCount
from data_builders.reading import Input, RawRow
from data_builders.writing import Dataset, Draft, KnownDrop, as_object, extras, required_text
from tuning.schema import RowFault, checked_text

INFO = BuilderInfo(
    name="dolly",
    version=2,
    description="single-turn instructions in eight categories, English or Japanese",
    upstream="https://huggingface.co/datasets/databricks/databricks-dolly-15k",
    wanted="databricks-dolly-15k.jsonl, or databricks-dolly-15k-ja.jsonl (llm-jp) or .json (kunishou)",
    rows="conversation",
    licence="CC-BY-SA-3.0",
    attribution="databricks-dolly-15k, Databricks, Inc., CC BY-SA 3.0; translations: LLM-jp, kunishou",
    options=(
        Option("citations", "what becomes of [42] marks in rows with a context", "keep", ("keep", "strip")),
    ),
    published=(
        PublishedCount(15_011, "databricks-dolly-15k, and LLM-jp's translation"),
        PublishedCount(
            15_015,
            "older copies, and kunishou's translation",
            remark="an older copy, with four broken rows that were removed later",
        ),
    ),
)

CITATION = re.compile(r"(?<=\S)(?:\[(?:\d{1,3}|注釈? ?\d{1,2}|note \d{1,2})\]|［\d{1,3}］)+")
"""`[42]`, and what translators made of it; never at the start of a line, where it is a list."""


def convert(inputs: Sequence[Input], dataset: Dataset, options: Mapping[str, Any]) -> None:
    for item in inputs:
        item.require_columns("instruction", "output" if "output" in (item.columns or ()) else "response")
    dataset.convert(inputs, lambda raw: _draft(raw, dataset, options["citations"] == "strip"))


def _draft(raw: RawRow, dataset: Dataset, strips_citations: bool) -> Draft:
    row = as_object(raw)
    answer_name = "output" if "output" in row and "response" not in row else "response"
    context_name = "input" if "input" in row and "context" not in row else "context"
    instruction, answer = required_text(row, "instruction").strip(), required_text(row, answer_name).strip()
    context = row.get(context_name)
    context = checked_text(context, context_name).strip() if context is not None else ""
    category = row.get("category")
    if category is not None:
        checked_text(category, "category")
    if not answer:
        raise KnownDrop("empty_answer")
    if not instruction:
        raise KnownDrop("empty_instruction")
    if answer in (instruction, context):
        raise KnownDrop("answer_repeats_prompt")
    if 2 * len(answer) >= len(instruction) and (
        instruction.startswith(answer) or instruction.endswith(answer)
    ):
        raise KnownDrop("answer_copied_into_prompt")
    if strips_citations and context:
        context, in_context = CITATION.subn("", context)
        answer, in_answer = CITATION.subn("", answer)
        dataset.counts["rows_with_citations_stripped"] += bool(in_context or in_answer)
        if not answer.strip():
            raise RowFault("empty_answer", answer_name, "only citation marks", "text")
    user = {"role": "user", "content": instruction, **({"input": context} if context else {})}
    used = ("instruction", "context", "input", "response", "output", "category")
    return Draft(
        {
            "id": dataset.next_id(),
            "messages": [user, {"role": "assistant", "content": answer}],
            "meta": {**({"category": category} if category else {}), **extras(row, used)},
        },
        language=japanese_or_english(instruction, context, answer),
        fields={
            "messages[0].content": "instruction",
            "messages[0].input": context_name,
            "messages[1].content": answer_name,
        },
    )
