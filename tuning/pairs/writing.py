"""What becomes of the answers of one prompt: which count, which are chosen, and the rows that say so."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from data_builders.asking.answers import Answer
from data_builders.licences import UNSTATED
from data_builders.lines import RawRow
from data_builders.stated_licence import accepted_licences
from data_builders.terms import known_terms, own_terms
from data_builders.writing import Dataset, Draft, KnownDrop
from tuning.pairs.prompts import Prompt, Prompts
from tuning.pairs.scorers import Candidate, Weighted
from tuning.pairs.selection import Scored, Selection, margin
from tuning.schema import RowFault, checked_text, dicts

VERSION = 2
"""Raised when the same answers and scores would give other rows."""


@dataclass(frozen=True)
class Candidates:
    """The answers of a prompt that count, and by number why the others do not."""

    kept: tuple[Candidate, ...]
    left_out: Mapping[int, str]
    texts: Mapping[int, str]
    """Every answer as it came."""
    unfinished: frozenset[int]


@dataclass(frozen=True)
class Outcome:
    """A prompt's answers, their scores, and the pairs or the reason why there are none."""

    prompt: Prompt
    candidates: Candidates | None = None
    scores: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)
    totals: Mapping[int, float] = field(default_factory=dict)
    pairs: Sequence[tuple[Scored, Scored]] = ()
    dropped: str | None = None


def candidates_of(answers: Sequence[Answer], message: Callable[[str], Any]) -> Candidates:
    """The answers to score: faultless, not empty, each text once (but for width and outer space)."""
    kept, left_out, seen = [], {}, set[str]()
    for number, answer in enumerate(answers):
        if answer.fault not in (None, "cut_off"):
            left_out[number] = str(answer.fault)
            continue
        said = message(answer.text)
        if said is None:
            left_out[number] = "no_final_channel"
            continue
        try:
            text = unicodedata.normalize("NFKC", checked_text(said["content"], "content")).strip()
        except RowFault as fault:
            left_out[number] = fault.code
            continue
        if not text or text in seen:
            left_out[number] = "duplicate" if text else "empty"
            continue
        seen.add(text)
        kept.append(Candidate(number, said, answer.fault is None))
    return Candidates(
        tuple(kept),
        left_out,
        {number: answer.text for number, answer in enumerate(answers)},
        frozenset(number for number, answer in enumerate(answers) if answer.fault == "cut_off"),
    )


def outcome_of(
    prompt: Prompt,
    candidates: Candidates,
    scores: Mapping[str, Sequence[float | None]],
    weights: Mapping[str, float],
    selection: Selection,
) -> Outcome:
    """The pairs of a prompt. An answer that one scorer could not score has no final score."""
    by_answer = {
        one.number: {name: values[at] for name, values in scores.items()}
        for at, one in enumerate(candidates.kept)
    }
    totals = {
        number: round(sum(weights[name] * value for name, value in found.items() if value is not None), 6)
        for number, found in by_answer.items()
        if None not in found.values()
    }
    outcome = Outcome(prompt, candidates, by_answer, totals)
    scored = [
        Scored(one.number, totals[one.number], one.is_finished)
        for one in candidates.kept
        if one.number in totals
    ]
    if len(scored) < 2 <= len(candidates.kept):
        return replace(outcome, dropped="too_few_scores")
    try:
        return replace(outcome, pairs=selection.pairs(scored, prompt.id))
    except KnownDrop as drop:
        return replace(outcome, dropped=drop.code)


def write_outcome(outcome: Outcome, raw: RawRow, sampler: Any, dataset: Dataset, candidates: TextIO) -> None:
    """Writes and counts a prompt's pairs, and its answers into `candidates`."""
    dataset.counts["prompts"] += 1
    _count(outcome, dataset)
    candidates.write(json.dumps(_as_line(outcome), ensure_ascii=False) + "\n")
    if outcome.dropped:
        dataset.rows_in += 1
        dataset.dropped[outcome.dropped] += 1
    for number, (chosen, rejected) in enumerate(outcome.pairs, start=1):
        dataset.rows_in += 1
        dataset.counts["further_pairs"] += number > 1
        row = _row(outcome, chosen, rejected, number, sampler)
        dataset.keep(raw, lambda _, row=row: Draft(row))  # type: ignore[misc]


def _row(outcome: Outcome, chosen: Scored, rejected: Scored, number: int, sampler: Any) -> dict[str, Any]:
    assert outcome.candidates is not None
    prompt, said = outcome.prompt, {one.number: one.message for one in outcome.candidates.kept}
    meta = {
        **prompt.meta,
        "prompt_of": {"id": prompt.id, "source": prompt.source},
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "margin": round(margin(chosen, rejected), 6),
        "scores": {
            "chosen": outcome.scores[chosen.number],
            "rejected": outcome.scores[rejected.number],
        },
        "unfinished": [
            side for side, one in (("chosen", chosen), ("rejected", rejected)) if not one.is_finished
        ],
        "model": sampler.name,
        "sampling": {
            **sampler.sampling.as_dict(),
            "chosen": chosen.number,
            "rejected": rejected.number,
        },
    }
    row = {
        "id": prompt.id if number == 1 else f"{prompt.id}-pair{number}",
        "prompt": dicts(prompt.messages),
        "chosen": [dict(said[chosen.number])],
        "rejected": [dict(said[rejected.number])],
        "meta": meta,
    }
    group = prompt.group or (prompt.id if len(outcome.pairs) > 1 else None)
    return row | ({"group": group} if group else {})


def _as_line(outcome: Outcome) -> dict[str, Any]:
    """One line of `candidates.jsonl`."""
    sides: dict[int, list[str]] = {}
    for chosen, rejected in outcome.pairs:
        sides.setdefault(chosen.number, []).append("chosen")
        sides.setdefault(rejected.number, []).append("rejected")
    found = outcome.candidates
    answers = [
        {
            "number": number,
            "text": text,
            "finished": number not in found.unfinished,
            "left_out": found.left_out.get(number),
            "scores": outcome.scores.get(number),
            "score": outcome.totals.get(number),
            "used_as": sorted(set(sides.get(number, ()))),
        }
        for number, text in (found.texts.items() if found else ())
        if found
    ]
    return {
        "id": outcome.prompt.id,
        "source": outcome.prompt.source,
        "prompt": dicts(outcome.prompt.messages),
        "dropped": outcome.dropped,
        "answers": answers,
    }


def _count(outcome: Outcome, dataset: Dataset) -> None:
    found = outcome.candidates
    if found is None:
        return
    dataset.counts["answers"] += len(found.texts)
    dataset.counts["answers_cut_off"] += len(found.unfinished)
    for code in found.left_out.values():
        dataset.counts[f"answers_{code}"] += 1
    dataset.counts["answers_unscored"] += len(found.kept) - len(outcome.totals)
    for scores in outcome.scores.values():
        for name, value in scores.items():
            dataset.counts[f"no_score_{name}"] += value is None


def about(
    there: Prompts,
    sampler: Any,
    weighted: Sequence[Weighted],
    selection: Selection,
    num_answers: int,
    licence: str | None,
    restrictions: Sequence[str],
) -> dict[str, Any]:
    """What the manifest tells besides its counts; raises `LicenceError` for a licence that is none."""
    upstream = there.manifest
    rows = known_terms(own_terms(UNSTATED, str(upstream.get("attribution") or "")), [there.file])
    added = accepted_licences(licence) if licence else ()
    credit = f"answers sampled from {sampler.name}"
    terms = replace(
        rows,
        licences=tuple(
            one for one in dict.fromkeys([*rows.licences, *added]) if one.id != UNSTATED or not added
        ),
        attribution=f"{rows.attribution}; {credit}" if rows.attribution else credit,
        remarks=tuple(dict.fromkeys([*rows.remarks, *restrictions])),
    )
    return {
        "builder": "pairs",
        "builder_version": VERSION,
        "upstream": upstream.get("upstream", ""),
        **terms.as_dict(),
        "licence_instead_of": upstream.get("licence_instead_of"),
        "on_bad_row": "strict",
        "options": {
            "answers": num_answers,
            "select": selection.how,
            "min_margin": selection.min_margin,
            "unfinished": selection.unfinished,
            "rows": there.num_rows if there.num_rows >= 0 else None,
        },
        "sampler": {"name": sampler.name, **sampler.identity},
        "scorers": [
            {"name": one.scorer.name, "weight": one.weight, **one.scorer.identity} for one in weighted
        ],
        "prompts_of": {
            name: upstream.get(name)
            for name in ("source", "builder", "builder_version", "data_sha256", "rows_kept", "languages")
        },
    }
