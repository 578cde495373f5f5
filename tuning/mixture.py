"""Named sources become one weighted, seeded, encoded set: built rows -> dev split -> encoded examples ->
order.

Encoding is kept by content (`tuning.encoded`), so a changed weight, seed or batch size encodes nothing
again. Every row that does not reach training is counted with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuning.chat import Template
from tuning.encoded import EncodedRow, encoded_source
from tuning.forest import Sequence
from tuning.records import check_counts, read_json, read_jsonl
from tuning.schema import Conversation, PreferencePair, Row, parse_row
from tuning.shares import Share, passes, split
from tuning.shortened import Shortener
from tuning.train.steps import Example, Order


class MixtureError(ValueError):
    """A mixture that cannot be trained on, with the reason."""


@dataclass
class Mixture:
    """A stage's data: what it trains on, in which order, and what it holds out."""

    order: Order
    dev: dict[str, list[Example]]
    sources: dict[str, dict[str, Any]]
    """Counts per source: rows_in, rows_kept, rows_dropped by reason, train_rows, dev_rows, weight, passes
    (over its groups in one epoch), target_tokens, notes."""
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def dev_rows(self) -> list[Example]:
        """The rows held out of all sources."""
        return [example for examples in self.dev.values() for example in examples]

    @property
    def dev_pairs(self) -> list[Example]:
        """Those of them that are not answers judged by themselves."""
        return [example for example in self.dev_rows if example.desirable is None]

    @property
    def rows_per_epoch(self) -> int:
        return self.order.rows_per_epoch


def built_rows(folder: str | Path, *, preference: bool | None, stage: str) -> list[Row]:
    """The rows of a built dataset; refuses one whose rows are of the other kind. None takes both kinds."""
    rows = [parse_row(row) for row in read_jsonl(Path(folder) / "data.jsonl")]
    if preference is None:
        return rows
    wanted = PreferencePair if preference else Conversation
    wrong = next((row for row in rows if not isinstance(row, wanted)), None)
    if wrong is not None:
        seen, accepted = ("a conversation", "pairs") if preference else ("a preference pair", "conversations")
        raise MixtureError(f"source {wrong.source}: row {wrong.id} is {seen}; {stage} mixes {accepted}")
    return rows


def _require_kind(folder: str | Path, *, preference: bool, stage: str) -> None:
    """Raises `MixtureError` if the built dataset holds a row that is not of the stage's kind."""
    manifest = Path(folder) / "manifest.json"
    kinds = set(read_json(manifest).get("kinds", ())) if manifest.is_file() else None
    if kinds is None or kinds - {"preference" if preference else "conversation"}:
        built_rows(folder, preference=preference, stage=stage)


def mix(
    folders: Mapping[str, str | Path],
    shares: Mapping[str, Share],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    preference: bool,
    stage: str,
    max_length: int,
    too_long: str,
    seed: int,
    cache: Path,
    legacy: str | None = None,
    weigh_by: str = "passes",
    takes_rankings: bool = False,
    takes_single: bool = False,
    needs_strangers: bool = False,
) -> Mixture:
    """The mixture of the built datasets in `folders`, each with its share; raises `MixtureError` if nothing
    is left. Unless the stage `takes_rankings`, several ranked answers become a pair of the best and the
    worst, and the others are counted. A stage that `takes_single` answers also takes conversations that say
    whether they are `desirable`; one that `needs_strangers` gets to each prompt an answer to another one
    (`has_stranger`)."""
    groups: dict[str, list[list[Example]]] = {}
    dev: dict[str, list[Example]] = {}
    sources: dict[str, dict[str, Any]] = {}
    for name, share in shares.items():
        if not takes_single:
            _require_kind(folders[name], preference=preference, stage=stage)
        data = Path(folders[name]) / "data.jsonl"
        rows = list(encoded_source(data, tokenizer, template, cache, legacy=legacy, name=name))
        parts = split(rows, share, seed, name)
        dropped = Counter(parts.left_out)
        notes: Counter[str] = Counter()
        examples: dict[str, list[Example]] = {}
        chosen = [*parts.train, *parts.dev]
        if preference and not takes_rankings:
            chosen = [_ends(row, notes, keeps_judged=takes_single) for row in chosen]
        if too_long == "cut":
            chosen = _cut(chosen, Shortener(data, tokenizer, template, legacy), max_length, notes)
        for row in chosen:
            result = row.result
            is_judged = takes_single and row.desirable is not None
            reason = _reason_to_drop(row, max_length, preference and not is_judged)
            if reason == "too_long" and too_long == "error":
                longest = max(len(item.input_ids) for item in result) if not isinstance(result, str) else 0
                raise MixtureError(f"{stage}: row {row.id} has {longest} tokens, max_length is {max_length}")
            if reason is not None:
                dropped[reason] += 1
                continue
            assert not isinstance(result, str)
            notes.update({key: 1 for item in result for key, count in item.counts.items() if count})
            sequences = tuple(Sequence(item.input_ids, item.is_target) for item in result)
            beta = row.beta if row.beta is not None else share.beta
            example = Example(row.id, name, row.group_key, sequences, row.loss_weight, beta, row.desirable)
            examples[row.id] = _judged_apart(example, notes) if is_judged else [example]
        train = [example for row in parts.train for example in examples.get(row.id, ())]
        dev[name] = [example for row in parts.dev for example in examples.get(row.id, ())]
        if needs_strangers:
            train, dev[name] = (with_strangers(part, max_length) for part in (train, dev[name]))
        groups[name] = list(_grouped(train).values())
        sources[name] = {
            "rows_in": len(rows),
            "rows_kept": len(examples),
            "rows_dropped": dict(dropped),
            "train_rows": len(train),
            "dev_rows": len(dev[name]),
            "weight": share.weight,
            "target_tokens": sum(example.num_targets for example in train),
            "notes": dict(notes),
        }
        check_counts(sources[name], f"{stage}: {name}")
        if not train and (parts.train or not dev[name]):  # a source may be held out whole, not dropped whole
            why = ", ".join(f"{code} {count}" for code, count in dropped.items()) or "it has no rows"
            for code, seen in _filtered_by(rows).items():
                why += f"; its {seen}" if code in dropped else ""
            raise MixtureError(f"{stage}: no row of {name} is left to train on ({why})")
    if not any(groups.values()):
        raise MixtureError(
            f"{stage}: every row of {', '.join(shares)} is held out; nothing is left to train on"
        )
    repeats = passes(
        weigh_by,
        {name: share.weight for name, share in shares.items()},
        {name: counts["train_rows"] for name, counts in sources.items()},
        {name: counts["target_tokens"] for name, counts in sources.items()},
    )
    for name, times in repeats.items():
        if groups[name] and round(times * len(groups[name])) == 0:
            few = f"the {len(groups[name])} groups of {name}"
            raise MixtureError(f"{stage}: weight {shares[name].weight:g} of {few} takes none")
        sources[name]["passes"] = times
    order = Order(groups, repeats, seed)
    return Mixture(order, {name: examples for name, examples in dev.items() if examples}, sources)


def _filtered_by(rows: list[EncodedRow]) -> dict[str, str]:
    """What a filter could have asked for, by the code of the rows that it leaves out."""
    languages = sorted({row.language or "unknown" for row in rows})
    categories = sorted({row.category or "none" for row in rows})
    return {
        "other_language": f"languages are {', '.join(languages)}",
        "other_category": f"categories are {', '.join(categories[:20])}",
    }


def _ends(row: EncodedRow, notes: Counter[str], *, keeps_judged: bool) -> EncodedRow:
    """A ranking as the pair of its best and its worst answer; a judged dialogue is none."""
    if isinstance(row.result, str) or len(row.result) <= 2 or (keeps_judged and row.desirable is not None):
        return row
    notes["ranked_between_unused"] += len(row.result) - 2
    ends = (row.result[0], row.result[-1])
    return replace(row, result=ends, num_targets=sum(int(item.is_target[1:].sum()) for item in ends))


def _judged_apart(example: Example, notes: Counter[str]) -> list[Example]:
    """A judged conversation as one example for each sequence that its template makes of it: every answer has
    the row's judgement and its part of the row's weight."""
    number = len(example.sequences)
    if number == 1:
        return [example]
    notes["answers_judged_apart"] += number
    return [
        replace(example, id=f"{example.id}/{place}", sequences=(sequence,), weight=example.weight / number)
        for place, sequence in enumerate(example.sequences, 1)
    ]


def _cut(
    rows: list[EncodedRow], shortener: Shortener, max_length: int, notes: Counter[str]
) -> list[EncodedRow]:
    """The rows, those over `max_length` tokens with turns left out where that helps."""
    over = [
        row
        for row in rows
        if not isinstance(row.result, str) and any(len(item) > max_length for item in row.result)
    ]
    found = shortener.shortened(over, max_length)
    if found:
        notes["rows_cut"] += len(found)
        notes["turns_left_out"] += sum(left_out for _, left_out in found.values())
    return [found[row.id][0] if row.id in found else row for row in rows]


def with_strangers(examples: list[Example], max_length: int) -> list[Example]:
    """Each example with one sequence more: its prompt and the answer of the nearest example before it that
    has another prompt, the last ones standing before the first; cut at `max_length` tokens.

    An example without one, where all prompts are the same, stays as it is.
    """
    asked = [int(np.argmax(example.sequences[0].is_target)) for example in examples]
    prompts = [
        example.sequences[0].input_ids[:end].tobytes() for example, end in zip(examples, asked, strict=True)
    ]
    made: list[Example] = []
    stranger: int | None = None
    if examples:
        stranger = max((at for at, prompt in enumerate(prompts) if prompt != prompts[0]), default=None)
    for at, example in enumerate(examples):
        if at and prompts[at - 1] != prompts[at]:
            stranger = at - 1
        if stranger is None:
            made.append(example)
            continue
        own, other = example.sequences[0], examples[stranger].sequences[0]
        ids = np.concatenate([own.input_ids[: asked[at]], other.input_ids[asked[stranger] :]])
        scored = np.concatenate(
            [np.zeros(asked[at], dtype=np.bool_), other.is_target[asked[stranger] :]],
        )
        sequence = Sequence(ids[:max_length], scored[:max_length])
        made.append(replace(example, sequences=(*example.sequences, sequence), has_stranger=True))
    return made


def _reason_to_drop(row: EncodedRow, max_length: int, preference: bool) -> str | None:
    result = row.result
    if isinstance(result, str):
        return result
    if any(len(item.input_ids) > max_length for item in result):
        return "too_long"
    if not row.num_targets or (len(result) > 1 and any(not item.is_target[1:].any() for item in result)):
        return "no_target"
    if preference and len(result) < 2:
        return "needs_several_sequences"
    return None


def _grouped(examples: list[Example]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    return groups
