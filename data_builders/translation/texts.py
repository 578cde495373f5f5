"""How the texts of one path are asked for, checked, and asked for again.

Everything here is a generator that yields requests and is sent their answers, so that one thread can keep
many rows going at once (`schedule.py`), and the finished dataset can be read off the cache in file order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from data_builders.asking.answers import Answer
from data_builders.translation.dialogue import joined, pieces_that_fit, split_turns, turn_groups
from data_builders.translation.flags import flags_of
from data_builders.translation.protected import TOKEN, Protected, protect, restore
from data_builders.translation.translators import Request, Translator

UNITS = ("dialogue", "turn")

Steps = Generator[list[Request], list[Answer], list["Translated"]]


@dataclass(frozen=True)
class Translated:
    """One text's translation, the flags of it, and in which way it came about."""

    text: str
    flags: tuple[str, ...] = ()
    way: str = "dialogue"
    """`dialogue` (with the turns around it), `turn` (by itself), `copied` (nothing in it to translate)."""
    first_flags: tuple[str, ...] = ()
    """What was wrong with the first translation; the text was then asked for once more."""


@dataclass(frozen=True)
class Task:
    """What all rows of a run share."""

    translator: Translator
    target: str
    unit: str = "dialogue"
    length_ratio: tuple[float, float] | None = None


def path_steps(texts: Sequence[str], source: str, task: Task) -> Steps:
    """Translates the texts of one path; returns one `Translated` a text.

    First the whole path in as few requests as fit; then each text that failed a check, by itself.
    """
    counts = accumulate((len(protect(text).pieces) for text in texts), initial=1)
    protected = [protect(text.strip(), first) for text, first in zip(texts, counts, strict=False)]
    done = {
        index: Translated(texts[index], way="copied")
        for index, item in enumerate(protected)
        if not item.has_prose
    }
    todo = [index for index in range(len(texts)) if index not in done]
    groups = [[index] for index in todo]
    if task.unit == "dialogue":
        found = turn_groups(
            [protected[index].text for index in todo],
            task.translator.fits,
            keeps_lines=task.translator.keeps_lines,
        )
        groups = [[todo[at] for at in group] for group in found]
    for group in groups:
        together = [protected[index] for index in group]
        if len(group) > 1:
            translated = yield from _dialogue_steps(together, source, task)
        else:
            translated = [(yield from _turn_steps(together[0], source, task, again=False))]
        for index, item in zip(group, translated, strict=True):
            done[index] = _checked(texts[index], item, source, task)
    for index in todo:
        first = done[index]
        if first.flags:
            again = yield from _turn_steps(protected[index], source, task, again=True)
            second = _checked(texts[index], again, source, task)
            is_better = len(second.flags) < len(first.flags) or not first.text.strip()
            done[index] = replace(second if is_better else first, first_flags=first.flags)
    return [done[index] for index in range(len(texts))]


def _dialogue_steps(
    turns: Sequence[Protected], source: str, task: Task
) -> Generator[list[Request], list[Answer], list[Translated]]:
    text = joined([turn.text for turn in turns], keeps_lines=task.translator.keeps_lines)
    [answer] = yield [Request(text, source, task.target)]
    if answer.fault:
        return [Translated("", (answer.fault,)) for _ in turns]
    parts = split_turns(answer.text, len(turns))
    if parts is None:
        return [Translated("", ("turns_lost",)) for _ in turns]
    return [_restored(part, turn, "dialogue") for part, turn in zip(parts, turns, strict=True)]


def _turn_steps(
    turn: Protected, source: str, task: Task, *, again: bool
) -> Generator[list[Request], list[Answer], Translated]:
    pieces = pieces_that_fit(turn.text, task.translator.fits, keeps_lines=task.translator.keeps_lines)
    if pieces is None:
        return Translated("", ("too_long",), "turn")
    asked = [piece for piece, _ in pieces if any(map(str.isalpha, TOKEN.sub(" ", piece)))]
    answers = iter((yield [Request(piece, source, task.target, again) for piece in asked]))
    waiting = set(asked)
    parts = []
    for piece, behind in pieces:
        if piece not in waiting:
            parts.append(piece + behind)
            continue
        answer = next(answers)
        if answer.fault:
            return Translated("", (answer.fault,), "turn")
        # Japanese has no space between sentences.
        gap = "" if behind.isspace() and "\n" not in behind and task.target in ("ja", "zh") else behind
        parts.append(answer.text.strip() + gap)
    return _restored("".join(parts), turn, "turn")


def _restored(text: str, turn: Protected, way: str) -> Translated:
    if not text.strip():
        return Translated("", ("empty",), way)
    restored, is_whole = restore(text, turn)
    return Translated(restored, () if is_whole else ("code_changed",), way)


def _checked(source_text: str, item: Translated, source: str, task: Task) -> Translated:
    """The translation with its outer white space as in the source, and with the flags it deserves."""
    if not item.text.strip():
        return item
    body = source_text.strip()
    start = source_text.index(body)
    text = source_text[:start] + item.text.strip() + source_text[start + len(body) :]
    found = flags_of(source_text, text, (source, task.target), task.length_ratio)
    return replace(item, text=text, flags=tuple(dict.fromkeys([*item.flags, *found])))
