"""From prompts to pairs on disk: sample, score, choose, write.

First the cache is filled with every answer, then with every score, then the dataset is written off it in file
order: the same answers give the same bytes. What a killed run had asked is not asked again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from data_builders.asking.answers import Answer
from data_builders.asking.cache import Cache
from data_builders.asking.progress import Progress
from data_builders.asking.schedule import Schedule
from data_builders.lines import BuilderError, RawRow
from data_builders.reading import open_input
from data_builders.writing import CANDIDATES, Dataset, publish, staging
from tuning.chat import ChatError
from tuning.pairs.local_model import PromptTooLong
from tuning.pairs.prompts import Prompt, Prompts, open_prompts
from tuning.pairs.sampling import Sampling, Wanted
from tuning.pairs.scorers import RuleScorer, Scorer, Weighted, scorers_of
from tuning.pairs.selection import Selection
from tuning.pairs.writing import Outcome, about, candidates_of, outcome_of, write_outcome
from tuning.records import fingerprint


class Sampler(Protocol):
    """A model that answers prompts: `LocalModel`, `ServedModel`."""

    sampling: Sampling
    workers: int
    batch_size: int

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...
    def check(self) -> None: ...
    def wanted(self, prompt: Prompt, number: int) -> Wanted: ...
    def open(self) -> None: ...
    def ask(self, requests: Sequence[Wanted]) -> list[Answer]: ...
    def message(self, text: str) -> dict[str, str] | None: ...
    def close(self) -> None: ...


def build_pairs(
    prompts: str | Path,
    output: str | Path,
    sampler: Any,
    *,
    score: Sequence[str | Weighted],
    answers: int = 8,
    select: str = "best_worst",
    min_margin: float = 0.0,
    unfinished: str = "reject",
    source: str | None = None,
    cache: str | Path | None = None,
    licence: str | None = None,
    restrictions: Sequence[str] = (),
    first: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """The manifest of the dataset in `output`: preference pairs of the sampler's own answers to `prompts`.

    `prompts` is a built folder or a JSONL of rows (`tuning.pairs.prompts`). `score` names scorers
    (`tuning.pairs.scorers`), whose weighted sum decides; `select`, `min_margin` and `unfinished` are those of
    `tuning.pairs.selection`. `licence` and `restrictions` are what the terms of sampler and judge put on
    their writing, which nothing here knows: they hold beside those of the prompts. `first` takes so many
    prompts. `cache` is by default `answers.sqlite3` beside `output`.

    The manifest's rows are prompts: each is one row in and one pair out or one drop with its reason. Only
    `select="all"` gives a prompt several pairs; each further one is a row in of its own (`counts`).
    Raises `BuilderError` and `RowError` for wrong input before a model is read, `AskingStopped` when a server
    cannot go on; `output` is then as it was.
    """
    selection = Selection(select, min_margin, unfinished, sampler.sampling.seed)
    weighted = [one for item in score for one in ([item] if isinstance(item, Weighted) else scorers_of(item))]
    _check_names(weighted)
    if answers < 2:
        raise BuilderError(f"answers: saw {answers}; accepted: a whole number above 1")
    there = open_prompts(prompts, first)
    _check_output(Path(output), there)
    for one in (sampler, *(one.scorer for one in weighted)):
        one.check()
    told = about(there, sampler, weighted, selection, answers, licence, restrictions)
    cache_path = Path(cache) if cache else Path(output).absolute().parent / "answers.sqlite3"
    with ExitStack() as stack:
        run = _Run(there, sampler, weighted, answers, selection, cache_path, stack, progress)
        run.sample()
        for one in weighted:
            run.score(one.scorer)
        with staging(output) as folder:
            dataset = Dataset(folder, source or f"{there.source}-pairs")
            try:
                run.write(dataset, folder)
            finally:
                dataset.close()
            manifest = dataset.manifest([open_input(there.file)], told)
            publish(folder, output, manifest)
    return manifest


@dataclass(frozen=True)
class _Asked:
    """A prompt with the answers that are wanted, or the reason why there are none."""

    raw: RawRow
    prompt: Prompt
    wanted: tuple[Wanted, ...] = ()
    dropped: str | None = None


class _Run:
    """One build: the prompts, who is asked, and what is at hand."""

    def __init__(
        self,
        there: Prompts,
        sampler: Sampler,
        weighted: Sequence[Weighted],
        num_answers: int,
        selection: Selection,
        cache: Path,
        stack: ExitStack,
        shows_progress: bool,
    ) -> None:
        self.there, self.sampler, self.weighted = there, sampler, weighted
        self.num_answers, self.selection = num_answers, selection
        self.shows_progress = shows_progress
        self.num_prompts = sum(1 for _ in there)
        self._caches: dict[int, Cache] = {}
        asked: list[Any] = [sampler, *(one.scorer for one in weighted)]
        for one in asked:
            if not isinstance(one, RuleScorer):
                self._caches[id(one)] = Cache(cache, one.identity)
                stack.callback(self._caches[id(one)].close)
        self._schedules: dict[int, Schedule] = {}

    def sample(self) -> None:
        """Fills the cache with every answer."""
        cache = self._caches[id(self.sampler)]
        if any(set(keys) - set(cache.answers(keys)) for keys in self._sample_keys(cache)):
            self.sampler.open()
        steps = (None if one.dropped else _sample_steps(one.wanted) for one in self._asked())
        try:
            self._fill("sample", self.sampler, self.sampler.ask, steps)
        finally:
            self.sampler.close()

    def score(self, scorer: Scorer) -> None:
        """Fills the cache with every score of one scorer."""
        if isinstance(scorer, RuleScorer):
            return
        lock, is_open = threading.Lock(), list[bool]()

        def ask(requests: Sequence[Any]) -> list[Answer]:
            with lock:
                if not is_open:
                    scorer.open()
                    is_open.append(True)
            return scorer.ask(requests)

        steps = (
            None if one.dropped else scorer.steps(one.prompt, self._candidates(one).kept)
            for one in self._asked()
        )
        try:
            self._fill(scorer.name, scorer, ask, steps)
        finally:
            scorer.close()

    def write(self, dataset: Dataset, folder: Path) -> None:
        """Every prompt off the cache, in file order."""
        for item in self.weighted:
            item.scorer.counts.clear()  # `score` counted the same replies
        with (folder / CANDIDATES).open("w", encoding="utf-8") as file:
            for one in self._asked():
                outcome = Outcome(one.prompt, dropped=one.dropped) if one.dropped else self._outcome(one)
                write_outcome(outcome, one.raw, self.sampler, dataset, file)
        for item in self.weighted:
            dataset.counts.update(item.scorer.counts)

    def _outcome(self, one: _Asked) -> Outcome:
        answers = self._candidates(one)
        scores = {
            item.scorer.name: self._replayed(item.scorer, item.scorer.steps(one.prompt, answers.kept))
            for item in self.weighted
        }
        weights = {item.scorer.name: item.weight for item in self.weighted}
        return outcome_of(one.prompt, answers, scores, weights, self.selection)

    def _candidates(self, one: _Asked) -> Any:
        found = self._schedules[id(self.sampler)].answers_at_hand(list(one.wanted))
        return candidates_of(found, self.sampler.message)

    def _replayed(self, scorer: Scorer, steps: Any) -> list[float | None]:
        if isinstance(scorer, RuleScorer):
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
        return self._schedules[id(scorer)].replayed(steps)  # type: ignore[no-any-return]

    def _asked(self) -> Iterator[_Asked]:
        """Every prompt; one that cannot be asked, or was asked before, with its reason."""
        seen: set[str] = set()
        for raw, prompt in self.there:
            try:
                wanted = self.sampler.wanted(prompt, 0)
            except (ChatError, PromptTooLong) as error:
                yield _Asked(raw, prompt, dropped=error.code)
                continue
            key = fingerprint(wanted.prompt)
            if key in seen:
                yield _Asked(raw, prompt, dropped="duplicate_prompt")
                continue
            seen.add(key)
            every = tuple(replace(wanted, number=number) for number in range(self.num_answers))
            yield _Asked(raw, prompt, every)

    def _sample_keys(self, cache: Cache) -> Iterator[list[str]]:
        return ([cache.key(wanted) for wanted in one.wanted] for one in self._asked())

    def _fill(self, name: str, asker: Any, ask: Any, rows: Iterable[Any]) -> None:
        """Asks all that the rows want; a row of None wants nothing."""
        cache = self._caches[id(asker)]
        schedule = Schedule(ask, cache, workers=asker.workers, batch_size=asker.batch_size)
        self._schedules[id(asker)] = schedule
        bar = Progress(self.num_prompts, name=f"pairs {name}", enabled=self.shows_progress)

        def finished(found: Any) -> None:
            flags = Counter(one.fault for one in found or () if isinstance(one, Answer) and one.fault)
            bar.row_done(flags, num_asked=schedule.num_asked, num_cached=schedule.num_cached)

        try:
            schedule.run((_nothing() if row is None else row for row in rows), finished)
        finally:
            bar.close()


def _sample_steps(wanted: Sequence[Wanted]) -> Generator[list[Wanted], list[Answer], list[Answer]]:
    answers = yield list(wanted)
    return answers


def _nothing() -> Generator[list[Any], list[Answer], None]:
    """The steps of a prompt that is dropped before it is asked."""
    return
    yield


def _check_names(weighted: Sequence[Weighted]) -> None:
    names = [one.scorer.name for one in weighted]
    if not names:
        raise BuilderError("score: none given; accepted: such as rules:length,stops", code="unknown_score")
    if twice := [name for name in names if names.count(name) > 1]:
        raise BuilderError(f"score: {twice[0]} is given twice; accepted: each once", code="unknown_score")


def _check_output(output: Path, there: Prompts) -> None:
    if output.exists() and not output.is_dir():
        raise BuilderError(f"{output}: is a file; accepted: a folder, or a name for a new one", "bad_output")
    if output.resolve() == there.file.parent.resolve():
        raise BuilderError(f"{output}: would overwrite its own input; choose another folder", "bad_output")
