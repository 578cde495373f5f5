"""Keeps a model busy with the requests of many rows, each asked for once.

One thread moves the rows along and talks to the cache; its workers only ask. So no more
requests are ever in flight than workers times batch size, and what a killed process loses is bounded by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.asking.cache import Cache

ROWS_PER_SLOT = 4
"""Rows under way for each request that may be in flight: enough to sort a batch by length."""
POLL_SECONDS = 0.2
"""How often a request that another process has claimed is looked for."""

Steps = Generator[list[Any], list[Answer], Any]
"""A row on its way: it yields the requests it waits for, and gets their answers."""
Ask = Callable[[Sequence[Any]], list[Answer]]
"""Answers requests, in order; called by several threads at once."""


class _Row:
    """A row under way: its generator, and what it waits for."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.keys: list[str] = []
        self.missing: set[str] = set()


class Schedule:
    """Runs rows to their end: `workers` threads ask `batch_size` requests each.

    A request is a dataclass of plain values; where several are asked at once it has a `text`, by whose length
    they are sorted. `unanswered` holds this run's answers that the cache does not keep.
    """

    def __init__(self, ask: Ask, cache: Cache, *, workers: int = 1, batch_size: int = 1) -> None:
        self.ask, self.cache, self.workers, self.batch_size = ask, cache, workers, batch_size
        self.unanswered: dict[str, Answer] = {}
        self.num_asked = self.num_cached = 0
        self._waiting: dict[str, list[_Row]] = {}
        self._queue: dict[str, Any] = {}
        """Not yet claimed, in order of arrival."""
        self._foreign: dict[str, Any] = {}
        self._running: dict[Future[list[Answer]], list[str]] = {}
        self._num_open = 0
        self._looked = 0.0

    def run(self, rows: Iterable[Steps], finished: Callable[[Any], None]) -> None:
        """Runs all rows; `finished` gets what each returns, in the order in which they end.

        Raises what `ask` raises, after what else was in flight has come in and been stored.
        """
        left = iter(rows)
        room = self.workers * self.batch_size * ROWS_PER_SLOT
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ask")
        try:
            while True:
                is_last = self._admit(left, room, finished)
                self._dispatch(pool)
                if is_last and not self._num_open:
                    return
                done: set[Future[list[Answer]]] = set()
                if self._running:
                    timeout = POLL_SECONDS if self._foreign else None
                    done = wait(self._running, timeout, FIRST_COMPLETED).done
                else:
                    time.sleep(POLL_SECONDS)
                for future in done:
                    self._resolve(self._taken(future), finished)
                self._look_at_foreign(finished)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._keep_what_came()

    def answers_at_hand(self, requests: list[Any]) -> list[Answer]:
        """The answers of requests that are all answered, as they are once `run` has returned."""
        keys = [self.cache.key(request) for request in requests]
        found = self.cache.answers(keys)
        return [found[key] if key in found else self.unanswered[key] for key in keys]

    def replayed(self, steps: Steps) -> Any:
        """What a row's steps return, from the answers at hand."""
        try:
            requests = next(steps)
            while True:
                requests = steps.send(self.answers_at_hand(requests))
        except StopIteration as end:
            return end.value

    def _admit(self, left: Iterator[Steps], room: int, finished: Callable[[Any], None]) -> bool:
        """Starts rows while there is room; True when there are none left."""
        while self._num_open < room:
            steps = next(left, None)
            if steps is None:
                return True
            self._num_open += 1
            self._advance(_Row(steps), None, finished)
        return False

    def _advance(self, row: _Row, answers: list[Answer] | None, finished: Callable[[Any], None]) -> None:
        """Moves a row on until it waits for an answer, or ends."""
        while True:
            try:
                requests = next(row.steps) if answers is None else row.steps.send(answers)
            except StopIteration as end:
                self._num_open -= 1
                finished(end.value)
                return
            row.keys = [self.cache.key(request) for request in requests]
            found = self.cache.answers(row.keys)
            found.update({key: self.unanswered[key] for key in row.keys if key in self.unanswered})
            self.num_cached += len(found)
            row.missing = set(row.keys) - set(found)
            if row.missing:
                break
            answers = [found[key] for key in row.keys]
        for key, request in zip(row.keys, requests, strict=True):
            if key in row.missing:
                is_new = key not in self._waiting
                rows = self._waiting.setdefault(key, [])
                if row not in rows:
                    rows.append(row)
                if is_new:
                    self._queue[key] = request

    def _dispatch(self, pool: ThreadPoolExecutor) -> None:
        """Fills idle workers, longest texts first, so that a batch holds texts of one length."""
        while self._queue and len(self._running) < self.workers:
            keys = list(self._queue)
            if self.batch_size > 1:
                keys.sort(key=lambda key: len(self._queue[key].text), reverse=True)
            batch: dict[str, Any] = {}
            for key in keys:
                request = self._queue.pop(key)
                if self.cache.claim(key):
                    batch[key] = request
                else:
                    self._foreign[key] = request
                if len(batch) == self.batch_size:
                    break
            if batch:
                future = pool.submit(self.ask, list(batch.values()))
                self._running[future] = list(batch)

    def _taken(self, future: Future[list[Answer]]) -> dict[str, Answer]:
        """The answers of a finished call, stored."""
        keys = self._running.pop(future)
        try:
            answers = dict(zip(keys, future.result(), strict=True))
        except BaseException:
            self.cache.release(keys)
            raise
        self.num_asked += len(answers)
        self.cache.store(answers)
        return answers

    def _resolve(self, answers: dict[str, Answer], finished: Callable[[Any], None]) -> None:
        """Hands answers to the rows that wait for them."""
        self.unanswered.update({key: answer for key, answer in answers.items() if not answer.is_final})
        for key in answers:
            for row in self._waiting.pop(key, ()):
                row.missing.discard(key)
                if not row.missing:
                    found = self.cache.answers(row.keys) | {
                        name: self.unanswered[name] for name in row.keys if name in self.unanswered
                    }
                    self._advance(row, [found[name] for name in row.keys], finished)

    def _look_at_foreign(self, finished: Callable[[Any], None]) -> None:
        """Takes what another process has answered, and queues again what it gave up."""
        if not self._foreign or time.monotonic() - self._looked < POLL_SECONDS:
            return
        self._looked = time.monotonic()
        found = self.cache.answers(list(self._foreign))
        for key in list(self._foreign):
            if key in found:
                del self._foreign[key]
            elif not self.cache.is_claimed(key):
                self._queue[key] = self._foreign.pop(key)
        self.num_cached += len(found)
        self._resolve(found, finished)

    def _keep_what_came(self) -> None:
        """When the run is stopped: calls that ended meanwhile are stored, they have been paid for."""
        for future in list(self._running):
            if future.done() and not future.cancelled() and future.exception() is None:
                self._taken(future)
            else:
                self.cache.release(self._running.pop(future))
