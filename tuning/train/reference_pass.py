"""The pass that fills a reference store: over the very micro-rows of the run's steps, past what is known.

A value computed in the micro-row in which it is used is bit for bit what the policy computes there before its
first update, so the first step's loss is exactly ln 2. One that an earlier run stored may come from another
division of the work and differ by rounding; so each rank computes one stored micro-row again before anything
else, and a difference beyond rounding stops the run: the store is wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tuning.progress import Progress
from tuning.train import signals
from tuning.train.held_out import micro_batches
from tuning.train.objectives import sequence_sums
from tuning.train.reference import ReferenceStore, num_targets
from tuning.train.reference_shards import StoreError
from tuning.train.steps import Division, Example, MicroBatch, Schedule

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
"""Nats by which two computations of a sequence may differ, times the square root of its targets.

Rounding errors of single targets are as good as independent, so their sum grows with the square root. A
bfloat16 has 8 bits: on a 6-layer model with logits as sharp as a trained one's, divisions of the work differ
by up to 0.04; the other dtypes' bounds are that with their own bits, and all leave room for larger models and
other kernels. Another model is off by tenths of a nat in every target.
"""
EXAMPLES_AT_ONCE = 4096


@dataclass(frozen=True)
class Filled:
    """What a pass did, over all ranks."""

    computed: int
    found: int
    seconds: float
    was_stopped: bool

    def __str__(self) -> str:
        stopped = " (stopped)" if self.was_stopped else ""
        return (
            f"reference log-probs: {self.computed} pairs computed in {self.seconds:.1f} s, "
            f"{self.found} pairs from the store{stopped}"
        )


@torch.no_grad()
def fill_store(
    store: ReferenceStore,
    model: nn.Module,
    schedule: Schedule,
    division: Division,
    dev: list[Example],
    *,
    device: torch.device | str,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    gather: Callable[[list[Any]], list[Any]] = list,
    shows: bool = True,
) -> Filled:
    """Adds the log-probs under `model` of all pairs of the schedule and of `dev` that `store` lacks.

    Ranks share the work as they share the steps; `gather` joins lists over them. Nothing is synchronised on
    the way, so ranks may skip different micro-rows. Raises `StoreError` if what the store holds is not what
    `model` computes.
    """
    started = time.monotonic()
    todo = _Todo(store, schedule, dev)
    work = _Work(store, model, device, context)
    work.check(todo, division)
    _raise_first(gather([work.problem]))
    shown = Progress("reference", todo.num_missing, unit="pairs") if shows else None
    try:
        with shown or nullcontext():
            for micro_batch, wanted, done in chain(todo.in_steps(division), todo.in_dev(division)):
                if signals.received:
                    break
                work.compute(micro_batch, wanted)
                _raise_first([work.problem])
                if shown:
                    shown.advance(done)
    finally:
        store.flush()
    was_stopped = any(gather([bool(signals.received)]))
    store.exchange(gather)
    lacking = 0 if was_stopped else todo.num_lacking()
    if lacking:
        raise RuntimeError(f"{lacking} pairs have no reference log-prob after the pass; please report this")
    computed = sum(gather([work.num_computed])) if was_stopped else todo.num_missing
    return Filled(computed, todo.num_found, time.monotonic() - started, was_stopped)


class _Todo:
    """Which pairs a run needs that the store lacks, each at its first place in the run: so no two ranks
    compute one, except copies within a step."""

    def __init__(self, store: ReferenceStore, schedule: Schedule, dev: list[Example]) -> None:
        # Every epoch has the same rows: what the first does not hold, none does.
        rows = [example for _, example in schedule.order.epoch(0)][: schedule.num_rows]
        self.store, self.schedule, self.rows, self.dev = store, schedule, rows, dev
        is_known = _has(store, rows)
        self.is_fresh = np.zeros(len(rows), dtype=np.bool_)
        seen: set[int] = set()
        for place, example in enumerate(rows):
            self.is_fresh[place] = not is_known[place] and id(example) not in seen
            seen.add(id(example))
        dev_known = _has(store, dev)
        self.fresh_dev = {id(example) for example, known in zip(dev, dev_known, strict=True) if not known}
        self.num_missing = int(self.is_fresh.sum()) + len(self.fresh_dev)
        self.num_found = len(seen) + len(dev) - self.num_missing
        self.first_known = next(iter(np.flatnonzero(is_known).tolist()), None)

    def in_steps(self, division: Division) -> Iterator[tuple[MicroBatch, set[int], int]]:
        """(micro-row, ids of the examples that are due in its step, how many pairs all ranks have done with
        it) for the steps that lack something."""
        size = self.schedule.batch_rows
        fresh = np.flatnonzero(self.is_fresh)
        if not len(fresh):
            return
        last = int(fresh[-1]) // size
        for step in self.schedule.steps(division, start=int(fresh[0]) // size):
            if step.index > last:
                return
            places = range(step.index * size, min((step.index + 1) * size, len(self.rows)))
            wanted = {id(self.rows[place]) for place in places if self.is_fresh[place]}
            yield from _shared_out(step.micro_batches, wanted)

    def in_dev(self, division: Division) -> Iterator[tuple[MicroBatch, set[int], int]]:
        """The same for the held-out pairs."""
        if self.fresh_dev:
            yield from _shared_out(micro_batches(self.dev, division, preference=True), self.fresh_dev)

    def known_micro_row(self, division: Division) -> MicroBatch | None:
        """This rank's first micro-row of the first step (else of the held-out pairs) that the store knows."""
        candidates: tuple[MicroBatch, ...] = ()
        if self.first_known is not None:
            start = self.first_known // self.schedule.batch_rows
            candidates = next(self.schedule.steps(division, start=start)).micro_batches
        elif len(self.fresh_dev) < len(self.dev):
            candidates = micro_batches(self.dev, division, preference=True)
        return next((row for row in candidates if self.store.has(list(row.examples)).any()), None)

    def num_lacking(self) -> int:
        """Pairs that the store lacks now."""
        return int((~_has(self.store, self.rows)).sum() + (~_has(self.store, self.dev)).sum())


class _Work:
    """Computes micro-rows on this rank; what is known already is compared instead of kept."""

    def __init__(
        self,
        store: ReferenceStore,
        model: nn.Module,
        device: torch.device | str,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.store, self.model, self.device, self.context = store, model, device, context
        self.problem: str | None = None
        self.num_computed = 0

    def check(self, todo: _Todo, division: Division) -> None:
        """Computes one micro-row that the store knows again."""
        if self.store.folder is None:
            return  # nothing in it was made by an earlier run
        micro_batch = todo.known_micro_row(division)
        if micro_batch is not None:
            self._run(micro_batch, set())

    def compute(self, micro_batch: MicroBatch, wanted: set[int]) -> None:
        """Adds the wanted examples of a micro-row, unless all of them have become known."""
        due = [example for example in micro_batch.examples if id(example) in wanted]
        if due and not self.store.has(due).all():
            self._run(micro_batch, wanted)

    def _run(self, micro_batch: MicroBatch, wanted: set[int]) -> None:
        forest = micro_batch.forest.to(self.device)
        with self.context():
            _, log_probs = self.model(forest)
            dtype = _arithmetic(self.model, log_probs.device)
        sums = sequence_sums(log_probs, forest.target_sequence, forest.num_sequences).tolist()
        tokens = log_probs.float().cpu().numpy()
        examples = list(micro_batch.examples)
        start = first = 0
        for example, is_known in zip(examples, self.store.has(examples).tolist(), strict=True):
            count = len(example.sequences)
            end = start + sum(map(num_targets, example.sequences))
            if is_known and self.store.folder is not None:
                self._compare(example, sums[first : first + count], dtype)
            elif not is_known and id(example) in wanted:
                self.store.add([example], sums[first : first + count], tokens[start:end])
                self.num_computed += 1
            start, first = end, first + count

    def _compare(self, example: Example, sums: list[float], dtype: torch.dtype) -> None:
        stored = self.store.sums([example]).tolist()
        for number, (sequence, old, new) in enumerate(zip(example.sequences, stored, sums, strict=True)):
            allowed = ROUNDING[dtype] * math.sqrt(max(1, num_targets(sequence)))
            if not abs(old - new) <= allowed:
                self.problem = self.problem or (
                    f"{self.store.folder}: the store is wrong: for row {example.id}, sequence {number}, it "
                    f"holds a log-prob of {old:.6g} nats and the reference gives {new:.6g} (allowed "
                    f"difference {allowed:.2g}); remove the folder, and it is computed again"
                )


def _arithmetic(model: nn.Module, device: torch.device) -> torch.dtype:
    """The coarsest dtype that the model's matrix products go through."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    is_tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return torch.float16 if dtype == torch.float32 and is_tf32 else dtype  # TF32 has float16's mantissa


def _shared_out(rows: tuple[MicroBatch, ...], wanted: set[int]) -> Iterator[tuple[MicroBatch, set[int], int]]:
    """Each micro-row with the wanted pairs that count as done with it, as if all ranks were equally far."""
    if not wanted:
        return
    for number, micro_batch in enumerate(rows, 1):
        done = len(wanted) * number // len(rows) - len(wanted) * (number - 1) // len(rows)
        yield micro_batch, wanted, done


def _has(store: ReferenceStore, examples: list[Example]) -> NDArray[np.bool_]:
    pieces = (examples[at : at + EXAMPLES_AT_ONCE] for at in range(0, len(examples), EXAMPLES_AT_ONCE))
    return np.concatenate([np.empty(0, dtype=np.bool_), *map(store.has, pieces)])


def _raise_first(problems: list[str | None]) -> None:
    for problem in problems:
        if problem is not None:
            raise StoreError(problem, code="reference_store_wrong")
