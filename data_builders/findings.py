"""What screening can find in a row, by a stable code, and what is done about it.

A policy is `drop` (the row is left out and counted), `flag` (the row stays and is counted) or `ignore`; for
contamination also `refuse` (nothing is written, and the rows are named). The table below holds every code
with its default; a row that `tuning.schema` refuses is dropped under the code of its fault, whatever the
policies say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_builders.info import did_you_mean
from data_builders.lines import BuilderError

POLICIES = ("drop", "flag", "ignore")
CONTAMINATION_POLICIES = ("refuse", *POLICIES)

SIMILARITY = 0.5
"""Jaccard similarity from which two rows are near duplicates."""


class Code(NamedTuple):
    policy: str
    says: str


QUALITY = {
    "ng_translation": Code("drop", "the source marks its translation as failed (`meta.ng_translation` is 1)"),
    "copied_prompt": Code("drop", "the answer is the request, or its context, over again"),
    "answer_in_prompt": Code("flag", "the request already holds the whole answer"),
    "untranslated": Code("flag", "English in a row that says `ja`, where nobody asked for English or code"),
    "translated_code": Code("flag", "code with full-width brackets or operators, as a translator leaves it"),
    "citation_mark": Code("flag", "marks of a source's footnotes, such as [42]"),
    "empty_answer": Code("drop", "an answer of nothing but dots or invisible characters"),
    "indistinct_sides": Code("flag", "chosen and rejected differ in case, spacing or punctuation only"),
    "refusal": Code("flag", "a refusal in a source that is not named under `safety`"),
    "self_identity": Code("flag", "the answer speaks as another model, or of itself as an AI"),
    "repetition": Code("flag", "an answer that goes in circles: repeated n-grams"),
    "special_token": Code("flag", "a control token of some tokenizer, spelt out (`</s>`, `<|im_end|>`)"),
    "sentencepiece_mark": Code("flag", "U+2581, the mark that sentencepiece puts for a space"),
    "broken_characters": Code("flag", "U+FFFD, or text that was decoded with the wrong encoding"),
}
"""Checks of one row by itself: `quality.py`."""

DUPLICATES = {
    "duplicate": Code("drop", "equal to an earlier row but for width, case and white space"),
    "near_duplicate": Code("flag", "an earlier row with small changes"),
    "same_prompt": Code("flag", "an earlier row asks the same and is answered otherwise, in another group"),
    "contradicting_pair": Code("flag", "an earlier pair prefers the other side"),
}
"""Comparisons of rows with the rows before them: `dedup.py`."""

CONTAMINATION = {
    "evaluation_id": Code("refuse", "the row has the id of an evaluation item"),
    "evaluation_prompt": Code("refuse", "a turn of the row is an evaluation question"),
    "evaluation_text": Code("refuse", "a turn of the row contains an evaluation question"),
    "evaluation_overlap": Code("refuse", "a turn of the row shares most n-grams of an evaluation question"),
    "known_leak": Code(
        "refuse", "a published evaluation item that is known to stand in training data as well"
    ),
}
"""Comparisons with evaluation sets: `contamination.py`."""

SETTABLE = (*QUALITY, "same_prompt", "contradicting_pair")
"""Codes whose policy is set one by one."""
CODES = QUALITY | DUPLICATES | CONTAMINATION


@dataclass(frozen=True)
class Finding:
    """One reason to look at a row, or to leave it out."""

    row: str
    source: str
    code: str
    where: str
    """The field, such as `messages[1].content`."""
    excerpt: str
    other: str | None = None
    """The row or the evaluation item that this one is compared with: `source/id` or `file: id`."""
    similarity: float | None = None
    """Jaccard similarity of near duplicates, or the share of an evaluation question's n-grams that was
    found."""

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        other = f" ({self.other})" if self.other else ""
        return f"{self.source}/{self.row}: {self.where}: {self.code}{other}: {self.excerpt}"


def policies(
    contamination: str = "refuse",
    duplicates: str = "drop",
    near_duplicates: str = "flag",
    codes: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The policy of every code; `codes` sets single ones of the quality and duplicate tables.

    Raises `BuilderError` for a code or a policy that there is not.
    """
    _check("contamination", contamination, CONTAMINATION_POLICIES)
    _check("duplicates", duplicates, POLICIES)
    _check("near_duplicates", near_duplicates, POLICIES)
    chosen = {name: code.policy for name, code in CODES.items()}
    chosen |= dict.fromkeys(CONTAMINATION, contamination)
    chosen |= {"duplicate": duplicates, "near_duplicate": near_duplicates}
    if duplicates == "ignore":
        chosen |= {"same_prompt": "ignore", "contradicting_pair": "ignore"}
    for name, policy in (codes or {}).items():
        if name not in SETTABLE:
            near = did_you_mean(name, SETTABLE)
            raise BuilderError(
                f"{name}: not a code with a policy of its own{near}; codes: {', '.join(SETTABLE)}",
                code="unknown_code",
            )
        _check(name, policy, POLICIES)
        chosen[name] = policy
    return chosen


def _check(name: str, policy: Any, accepted: tuple[str, ...]) -> None:
    if policy not in accepted:
        near = did_you_mean(str(policy), accepted)
        raise BuilderError(
            f"{name}: saw {policy!r}{near}; accepted: {', '.join(accepted)}", code="bad_option"
        )
