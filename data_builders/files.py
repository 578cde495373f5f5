"""A user's own rows, in the forms people keep them in; the manifest says which was detected, and by what.

    messages           {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    sharegpt           {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}
    preference         {"prompt": "…", "chosen": "…", "rejected": "…"}, each text or messages
    ranking            {"prompt": "…", "ranked": ["…", "…", "…"]}, best first, each text or messages
    prompt_completion  {"prompt": "…", "completion": "…"}, each text or messages
    alpaca             {"instruction": "…", "input": "", "output": "…"}
    text               {"text": "…\\n\\n### 指示:\\n…\\n\\n### 応答:\\n…"}, as llm-jp-sft reads it

Every row may say `id`, `group`, `weight`, `meta`; pairs and rankings a `beta` of their own, messages and
completions whether the answer is `desirable` (TRL's name in prompt_completion, `label`, will do). Licence:
what the recipe says, else `unstated`, which counts as your own.
Traps: a row's own text `id` is kept and must be unique; a number is no id (it goes to `meta.original_id`).
One file has one form. Unknown fields are refused, since a misspelt one would be lost; `extra_fields: meta`
keeps them. Rows with the ids of a set whose terms are strict are noted: copies are under those terms still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from data_builders.forms import FORMS, SHARED_FIELDS, Form, draft_row, fitting_form, from_cells, no_form
from data_builders.info import BuilderInfo, Option
from data_builders.language import has_kana
from data_builders.reading import BuilderError, Input, RawRow
from data_builders.writing import Dataset, Draft, as_object
from tuning.schema import RowFault, kind

INFO = BuilderInfo(
    name="files",
    version=2,
    description="your own messages, ShareGPT, Alpaca, prompt-completion, llm-jp text or preference rows",
    upstream="your own files",
    wanted="any .jsonl, .json, .csv, .tsv (each also .gz) or .parquet file in one of the forms",
    rows="either",
    licence="unstated",
    attribution="",
    options=(
        Option("form", "the form of the rows, or `detect` to read it off them", "detect", ("detect", *FORMS)),
        Option(
            "extra_fields",
            "fields that the form does not know: refused, kept in meta, or left out",
            "refuse",
            ("refuse", "meta", "drop"),
        ),
        Option(
            "fixed_sentence",
            "the sentence in front of llm-jp texts (以下は、…): the template's own, or a system message",
            "leave_out",
            ("leave_out", "system"),
        ),
    ),
)


TELLING_IDS = {"ichikara-instruction-": "ichikara", "answercarefully-": "answer_carefully"}
"""How ids of a set begin that may not be used for everything, and the builder that knows its terms."""


def convert(inputs: Sequence[Input], dataset: Dataset, options: Mapping[str, Any]) -> None:
    for position, item in enumerate(inputs, start=1):
        before = set(dataset.kinds)
        reader = _File(item, position, dataset, options)
        for raw, form in reader.rows_with_form(options["form"]):
            dataset.rows_in += 1
            dataset.keep(raw, partial(reader.draft, form))
        if len(dataset.kinds) > 1:
            here = "preference pairs" if before == {"conversation"} else "conversations"
            said = f"{item.path}: holds {here}, unlike the files before it; give it a source of its own"
            raise BuilderError(said, code="mixed_kinds")
    for builder in TELLING_IDS.values():
        if number := dataset.counts.get(f"rows_with_ids_of_{builder}"):
            dataset.notes.append(
                f"{number} rows have ids of {builder}: if they are copies, its terms hold for them "
                "(`tuning data list`); name that builder, or its licence"
            )


class _File:
    """One input, the form of its rows, and how they become drafts."""

    def __init__(self, item: Input, position: int, dataset: Dataset, options: Mapping[str, Any]) -> None:
        self.item, self.position, self.dataset = item, position, dataset
        self.extra_fields: str = options["extra_fields"]
        self.keeps_sentence = options["fixed_sentence"] == "system"
        self.found_at = 0

    def rows_with_form(self, wanted: str) -> Iterator[tuple[RawRow, Form]]:
        """Every raw row with the file's form; rows in front of the first that tells the form wait for it."""
        form, why = self._form_at_once(wanted)
        if form:
            self._say(form, why)
        waiting: list[RawRow] = []
        for raw in self.item:
            if form is None and isinstance(raw.value, Mapping):
                form = fitting_form(list(raw.value), f"{raw.file}:{raw.line}")
                if form:
                    self.found_at = raw.line
                    self._say(form, f"line {raw.line} has {', '.join(form.required)}")
            if form is None:
                waiting.append(raw)
            else:
                yield from ((row, form) for row in (*waiting, raw))
                waiting.clear()
        for raw in waiting:
            if isinstance(raw.value, Mapping):
                raise no_form(list(raw.value), f"{raw.file}:{raw.line}")
        yield from ((raw, FORMS["messages"]) for raw in waiting)

    def _form_at_once(self, wanted: str) -> tuple[Form | None, str]:
        """The form that the option or the columns of a table tell, and why; None when the rows have to."""
        columns = self.item.columns
        if wanted != "detect":
            self.item.require_columns(*FORMS[wanted].required)
            return FORMS[wanted], "the option form says so"
        if columns is None:
            return None, ""
        where = f"{self.item.path}:1"
        form = fitting_form(columns, where)
        if form is None:
            raise no_form(columns, where)
        return form, f"the columns are {', '.join(columns)}"

    def _say(self, form: Form, why: str) -> None:
        self.dataset.detected.append(f"{self.item.path.name}: {form.name} in {self.item.kind}, because {why}")

    def draft(self, form: Form, raw: RawRow) -> Draft:
        """The row before its check; raises `RowFault` in the user's own field names."""
        row = as_object(raw)
        if self.item.columns is not None:
            row = from_cells(row, is_text=self.item.kind != "parquet")
        self._check_form(row, form)
        meta = self._meta(row, form)
        made, names = draft_row(
            row, form, self.extra_fields != "refuse", self.keeps_sentence, self.dataset.counts
        )
        made["id"] = self._id(row, raw, meta)
        if "label" in row:
            made["desirable"] = row["label"]
        for name in ("group", "weight", "loss_weight", "beta", "desirable"):
            if row.get(name) is not None:
                made[name] = row[name]
        return Draft({**made, "meta": meta}, "ja" if has_kana(str(made)) else None, names)

    def _check_form(self, row: Mapping[str, Any], form: Form) -> None:
        missing = [name for name in form.required if name not in row]
        if not missing:
            return
        for other in FORMS.values():
            if set(other.required) <= set(row):
                place = f", as on line {self.found_at}" if self.found_at else ""
                accepted = f"one form in a file: {form.name}{place}"
                raise RowFault("mixed_forms", other.required[0], f"a row of the form {other.name}", accepted)
        present = ", ".join(map(str, row)) or "none"
        raise RowFault("missing_field", missing[0], "missing", f"fields present: {present}")

    def _meta(self, row: Mapping[str, Any], form: Form) -> dict[str, Any]:
        """The row's own `meta`, and what `extra_fields` wants of the fields that the form does not know."""
        meta = row.get("meta")
        if meta is not None and not isinstance(meta, Mapping):
            raise RowFault("wrong_type", "meta", f"saw {kind(meta)}", "an object")
        known = {*form.required, *form.optional, *SHARED_FIELDS} - ({"ID"} if "id" in row else set())
        extra = {str(name): value for name, value in row.items() if name not in known}
        if extra and self.extra_fields == "refuse":
            accepted = f"fields: {', '.join(sorted(known))}; or extra_fields: meta (kept), drop (left out)"
            raise RowFault(
                "unknown_field", next(iter(extra)), f"not a field of the form {form.name}", accepted
            )
        if extra and self.extra_fields == "drop":
            self.dataset.counts["rows_with_fields_left_out"] += 1
            extra = {}
        if row.get("source") not in (None, self.dataset.source):
            extra["original_source"] = row["source"]
        return {**(meta or {}), **extra}

    def _id(self, row: Mapping[str, Any], raw: RawRow, meta: dict[str, Any]) -> str:
        """The row's own text id, else one made of the source, the file (from the second on) and the line."""
        name = "id" if "id" in row else "ID"
        own = row.get(name)
        if isinstance(own, str):
            for beginning, builder in TELLING_IDS.items():
                self.dataset.counts[f"rows_with_ids_of_{builder}"] += own.lower().startswith(beginning)
            return own
        if own is not None:
            if isinstance(own, bool) or not isinstance(own, (int, float)):
                raise RowFault("wrong_type", name, f"saw {kind(own)}", "text, or no id")
            meta["original_id"] = own
        file = f"-f{self.position}" if self.position > 1 else ""
        return f"{self.dataset.source}{file}-{raw.number:05d}"
