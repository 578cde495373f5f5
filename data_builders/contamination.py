"""Training rows that hold what an evaluation asks: by id, equal question, contained text, shared n-grams.

    evaluation_id        the id of an item, where ids are more than numbers
    evaluation_prompt    a user turn is a question, letter by letter (`matching.bare`: width, case, spacing
                         and punctuation do not count)
    evaluation_text      a turn contains a question of at least one n-gram's length
    evaluation_overlap   a turn holds 70 % of a question's n-grams

What a question asks about (its `input`) is looked for with the instruction and by itself.

N-grams are 13 letters long in Japanese and 24, some five words, elsewhere. A question shorter than that is
compared with whole user turns only, since it stands in many innocent ones; one below 4 letters is not
compared, and counted. N-grams that more than three questions and 2 % of one file share are its instruction
template and prove nothing.

Known by heart: two items of the AnswerCarefully v1 test set are in the v2 dev set (`known_leak`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_builders.answer_carefully import LEAKED
from data_builders.evaluation_sets import EvaluationSet
from data_builders.findings import Finding
from data_builders.matching import asked, bare, excerpt, is_japanese, sides
from tuning.schema import Message, Row

JAPANESE_LENGTH, OTHER_LENGTH = 13, 24
SHORTEST = 4
COMMON = 3
COMMON_SHARE = 0.02
"""Questions of one file, at least that many and at most that share, that may have an n-gram in common before
it counts as template: a sentence that several questions are about is none."""
OVERLAP = 0.7
"""Share of a question's n-grams from which a turn counts as holding it."""

ID_IN_META = ("ID", "id", "original_id")
TELLING_ID = re.compile(r"(?=.*[^\W\d_])(?=.*\d).{8,}")
ANSWER_CAREFULLY = re.compile(r"answer[-_ ]?carefully", re.IGNORECASE)


class EvaluationIndex:
    """The questions of evaluation sets, ready to be looked for in rows."""

    def __init__(self, sets: Sequence[EvaluationSet]) -> None:
        self.unmatched = 0
        """Questions of fewer than 4 letters."""
        self._ids: dict[str, str] = {}
        self._leaked: dict[str, str] = {}
        self._whole: dict[str, str] = {}
        self._texts: list[tuple[str, str, int]] = []
        self._grams: dict[int, dict[str, list[int]]] = {JAPANESE_LENGTH: {}, OTHER_LENGTH: {}}
        for each in sets:
            self._add(each)

    def _add(self, each: EvaluationSet) -> None:
        long: dict[str, str] = {}
        for item in each.items:
            if item.id and TELLING_ID.fullmatch(item.id):
                self._ids.setdefault(item.id, item.label)
                if ANSWER_CAREFULLY.search(item.id) and item.id.endswith(LEAKED):
                    self._leaked.setdefault(item.id[-11:], item.label)
            for turn, text in [*enumerate(item.turns), *((0, text) for text in item.inputs)]:
                letters = bare(text)
                if len(letters) < SHORTEST:
                    self.unmatched += 1
                elif len(letters) >= gram_length(letters):
                    self._whole.setdefault(letters, item.label)
                    long.setdefault(letters, item.label)
                elif turn == 0:
                    self._whole.setdefault(letters, item.label)
                else:  # "Why?", "Do it again.": a short second turn says nothing without the first
                    self.unmatched += 1
        counts: Counter[str] = Counter()
        grams = {letters: set(_grams(letters, gram_length(letters))) for letters in long}
        for own in grams.values():
            counts.update(own)
        common = max(COMMON, int(COMMON_SHARE * len(long)))
        for letters, label in long.items():
            telling = [gram for gram in grams[letters] if counts[gram] <= common]
            for gram in telling:
                self._grams[gram_length(letters)].setdefault(gram, []).append(len(self._texts))
            self._texts.append((letters, label, len(telling)))

    def findings(self, row: Row) -> list[Finding]:
        """At most one finding of each code in a row."""
        found: dict[str, Finding] = {}
        for code, where, text, other, share in self._matches(row):
            found.setdefault(code, Finding(row.id, row.source, code, where, excerpt(text), other, share))
        return list(found.values())

    def _matches(self, row: Row) -> Iterator[tuple[str, str, str, str, float | None]]:
        for where, own_id in _ids_of(row):
            is_leaked = ANSWER_CAREFULLY.search(own_id) and own_id.endswith(LEAKED)
            item = self._ids.get(own_id) or (self._leaked.get(own_id[-11:]) if is_leaked else None)
            if item:
                yield "evaluation_id", where, own_id, item, None
            elif is_leaked:
                yield "known_leak", where, own_id, "AnswerCarefully v1 test", None
        if not self._whole:
            return
        for side, messages in sides(row):
            for index, message in enumerate(messages):
                where = f"{side}[{index}].content"
                match = self._equal(message) if message.role == "user" else None
                if match:
                    yield "evaluation_prompt", where, message.content, match, None
                    continue
                for place, text in ((where, asked(message)), (f"{side}[{index}].thinking", message.thinking)):
                    for label, share in self._held(bare(text)) if text else ():
                        code = "evaluation_text" if share is None else "evaluation_overlap"
                        yield code, place, text or "", label, share

    def _equal(self, message: Message) -> str | None:
        parts = [asked(message), message.content, message.input] if message.input else [message.content]
        return next(
            (self._whole[letters] for part in parts if (letters := bare(part or "")) in self._whole), None
        )

    def _held(self, letters: str) -> Iterator[tuple[str, float | None]]:
        """Questions that a turn contains (None) or overlaps with (the share of their n-grams)."""
        for length, grams in self._grams.items():
            if not grams or len(letters) < length:
                continue
            hits: Counter[int] = Counter()
            for gram in grams.keys() & set(_grams(letters, length)):
                hits.update(grams[gram])
            for number, count in hits.items():
                question, label, telling = self._texts[number]
                if question in letters:
                    yield label, None
                elif count >= OVERLAP * telling and _covers(question, letters, length):
                    yield label, round(count / telling, 3)


def contamination(rows: Iterable[Row], sets: Sequence[EvaluationSet]) -> list[Finding]:
    """Every trace of the evaluation sets in the rows; without sets, the leaks that are known by heart."""
    index = EvaluationIndex(sets)
    return [finding for row in rows for finding in index.findings(row)]


def gram_length(letters: str) -> int:
    """Letters of the n-grams of a text, given as `bare` gives it."""
    return JAPANESE_LENGTH if is_japanese(letters) else OTHER_LENGTH


def _grams(letters: str, length: int) -> list[str]:
    return [letters[start : start + length] for start in range(len(letters) - length + 1)]


def _covers(question: str, letters: str, length: int) -> bool:
    """Whether most of the whole question is there too: a template question has few n-grams that tell."""
    grams = set(_grams(question, length))
    return len(grams & set(_grams(letters, length))) >= OVERLAP * len(grams)


def _ids_of(row: Row) -> Iterator[tuple[str, str]]:
    """Ids that mean something outside of this dataset: those that a builder counted up do not."""
    if not re.fullmatch(rf"{re.escape(row.source)}(-f\d+)?-\d{{5,}}", row.id):
        yield "id", row.id
    for name in ID_IN_META:
        value: Any = row.meta.get(name)
        if isinstance(value, str):
            yield f"meta.{name}", value
