"""Which rows make which optimizer step, and how a step becomes micro-rows on each rank.

The order of rows is a pure function of the mixture and the seed. A step is the next `batch_rows` rows of that
order, whatever the number of GPUs and the token budget; only afterwards is it divided by tokens. So resuming
needs one integer, and changing the hardware changes nothing that is learnt.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tuning.forest import Sequence, Tree, grow, partition
from tuning.forest.batch import ForestBatch, collate


@dataclass(frozen=True)
class Example:
    """One encoded row: the sequence of a conversation (several where a template expands turns), or a pair's
    two."""

    id: str
    source: str
    group: str
    sequences: tuple[Sequence, ...]
    weight: float = 1.0
    beta: float | None = None
    """A pair's own; None = the stage's."""
    desirable: bool | None = None
    """Of a single answer that was judged; a pair's first is, its last is not."""
    has_stranger: bool = False
    """Whether the last sequence is the prompt with another row's answer, from which KTO estimates a KL."""

    @property
    def answers(self) -> tuple[Sequence, ...]:
        """The sequences of the row itself."""
        return self.sequences[:-1] if self.has_stranger else self.sequences

    @property
    def num_targets(self) -> int:
        """Scored tokens, sequence by sequence, before weights."""
        return sum(map(_num_targets, self.answers))


def _num_targets(sequence: Sequence) -> int:
    return int(np.count_nonzero(sequence.is_target[1:]))


def _imitated_weight(example: Example) -> float:
    """The weight of an example's first answer in an SFT term: an answer judged bad is not to be imitated."""
    return 0.0 if example.desirable is False else example.weight


Placed = tuple[float, tuple[object, ...], list[Example]]
"""One occurrence of a group in an epoch: its place in it (0 to 1), the key (epoch, source, pass, number of
the group), its rows."""


@dataclass(frozen=True)
class Division:
    """How steps are divided: the only thing that hardware decides."""

    tokens_per_device: int
    rank: int = 0
    num_ranks: int = 1
    share_prefix: bool = True
    pad_to_multiple_of: int = 1


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes in one micro-step."""

    forest: ForestBatch
    examples: tuple[Example, ...]
    """In the order of the row's sequences; for pairs, sequences 2 i and 2 i + 1 are example i's chosen and
    rejected."""
    sequence_source: Tensor
    """int64, (sequences,): index of each sequence's source in `sources`."""
    sources: tuple[str, ...]
    pair_weight: Tensor
    """float64, (pairs,): divided by the total of the step; empty for SFT."""
    pair_beta: Tensor
    """float64, (pairs,): the pair's own beta, nan where it has none."""
    sft_weight: Tensor
    """float64, (pairs,): the pair's weight, divided by the total over the chosen targets of the step; 0 for
    an answer that was judged bad."""
    number: int = 0
    """Of this rank's micro-rows in the step, from 0."""

    def to(self, device: torch.device | str) -> MicroBatch:
        return replace(
            self,
            forest=self.forest.to(device),
            sequence_source=self.sequence_source.to(device),
            pair_weight=self.pair_weight.to(device),
            pair_beta=self.pair_beta.to(device),
            sft_weight=self.sft_weight.to(device),
        )


@dataclass(frozen=True)
class Step:
    """One optimizer step as one rank sees it, with the totals that every rank knows."""

    index: int
    epoch: float
    micro_batches: tuple[MicroBatch, ...]
    num_rows: int
    num_tokens: int
    """Tokens computed over all ranks, without padding."""
    num_unshared_tokens: int
    """What would be computed if no beginning were shared."""
    num_targets: int
    """Scored tokens over all ranks, sequence by sequence, before weights."""
    total_weight: float


@dataclass(frozen=True)
class Order:
    """The order of a mixture's rows: groups shuffled by seed and epoch, every pass by itself, then
    interleaved."""

    groups: Mapping[str, list[list[Example]]]
    """Per source, its groups in the order of the file."""
    weights: Mapping[str, float]
    """Passes over a source in an epoch: 4 is four differently shuffled passes, 0.5 a seeded half of the
    groups."""
    seed: int

    @property
    def rows_per_epoch(self) -> int:
        return sum(
            len(group) for source in self.groups for _, groups in self._passes(source) for group in groups
        )

    def epoch(self, epoch: int) -> list[tuple[tuple[object, ...], Example]]:
        """The rows of an epoch with the key of the group occurrence that each belongs to."""
        placed: list[Placed] = []
        for source in self.groups:
            for number, groups in self._passes(source):
                random = generator(self.seed, "order", epoch, source, number)
                shuffled = random.permutation(len(groups))
                # Group i of n lands somewhere in the i-th n-th of the epoch, so a source is spread over all
                # of it.
                places = (np.arange(len(groups)) + random.random(len(groups))) / max(1, len(groups))
                for place, index in zip(places.tolist(), shuffled.tolist(), strict=True):
                    placed.append((place, (epoch, source, number, index), groups[index]))
        placed.sort(key=lambda item: (item[0], repr(item[1])))
        return [(key, example) for _, key, group in _parted(placed) for example in group]

    def _passes(self, source: str) -> Iterator[tuple[int, list[list[Example]]]]:
        groups, weight = self.groups[source], self.weights[source]
        whole = math.floor(weight)
        for number in range(whole):
            yield number, groups
        part = round((weight - whole) * len(groups))
        if part:
            chosen = generator(self.seed, "part", source).permutation(len(groups))[:part]
            yield whole, [groups[index] for index in sorted(chosen.tolist())]


def _parted(placed: list[Placed]) -> list[Placed]:
    """The same occurrences with no two copies of one group side by side, as long as there is another group to
    put between them: a copy that follows its like moves to the nearest place without one."""

    def are_alike(one: Placed, other: Placed) -> bool:
        return one[1][1::2] == other[1][1::2]  # source and number of the group

    parted: list[Placed] = []
    waiting: list[tuple[int, Placed]] = []
    for item in placed:
        if parted and are_alike(parted[-1], item):
            waiting.append((len(parted), item))
        else:
            parted.append(item)
    for wanted, item in waiting:
        outwards = (place for step in range(len(parted) + 1) for place in {wanted + step, wanted - step})
        free = (
            place
            for place in outwards
            if 0 <= place <= len(parted)
            and not any(are_alike(item, beside) for beside in parted[max(0, place - 1) : place + 1])
        )
        parted.insert(next(free, wanted), item)
    return parted


@dataclass(frozen=True)
class Schedule:
    """The steps of a run: `num_steps` of `batch_rows` rows each, the last one perhaps shorter."""

    order: Order
    batch_rows: int
    num_rows: int
    """Rows of the whole run, repeats counted."""
    is_preference: bool

    @property
    def num_steps(self) -> int:
        return math.ceil(self.num_rows / self.batch_rows)

    def steps(self, division: Division, start: int = 0) -> Iterator[Step]:
        """The steps from 0-based `start` on, as the division's rank sees them."""
        rows_per_epoch = self.order.rows_per_epoch
        first_epoch, skip = divmod(start * self.batch_rows, rows_per_epoch)
        endless = (row for epoch in itertools.count(first_epoch) for row in self.order.epoch(epoch))
        rows = itertools.islice(endless, skip, None)
        for index in range(start, self.num_steps):
            count = min(self.batch_rows, self.num_rows - index * self.batch_rows)
            taken = list(itertools.islice(rows, count))
            units = [
                [example for _, example in members]
                for _, members in itertools.groupby(taken, key=lambda row: row[0])
            ]
            epoch = (index * self.batch_rows + count) / rows_per_epoch
            yield divide(units, division, is_preference=self.is_preference, index=index, epoch=epoch)


def divide(
    units: list[list[Example]],
    division: Division,
    *,
    is_preference: bool,
    index: int = 0,
    epoch: float = 0.0,
    total_weight: float | None = None,
) -> Step:
    """The step made of these groups. `total_weight` replaces what the weights are divided by (1 for
    evaluation sums)."""
    if not division.share_prefix:
        units = [[example] for unit in units for example in unit]
    grown = [_grow(unit, division.share_prefix) for unit in units]
    sizes = [sum(tree.num_tokens for tree, _ in trees) for trees in grown]
    examples = [example for unit in units for example in unit]
    sources = tuple(sorted({example.source for example in examples}))
    if is_preference:
        total = sum(example.weight for example in examples)
    else:
        total = sum(example.weight * example.num_targets for example in examples)
    total = total_weight if total_weight is not None else total
    chosen_total = sum(_imitated_weight(example) * _num_targets(example.sequences[0]) for example in examples)
    bins = partition(sizes, division.num_ranks, division.tokens_per_device)[division.rank]
    return Step(
        index=index,
        epoch=epoch,
        micro_batches=tuple(
            _micro_batch(
                [units[item] for item in items],
                [grown[item] for item in items],
                division,
                sources,
                total,
                chosen_total if is_preference else None,
                number,
            )
            for number, items in enumerate(bins)
        ),
        num_rows=len(examples),
        num_tokens=sum(sizes),
        num_unshared_tokens=sum(len(part.input_ids) for example in examples for part in example.sequences),
        num_targets=sum(example.num_targets for example in examples),
        total_weight=total,
    )


def _grow(unit: list[Example], share_prefix: bool) -> list[tuple[Tree, list[Sequence]]]:
    sequences = [
        replace(sequence, weight=sequence.weight * example.weight)
        for example in unit
        for sequence in example.sequences
    ]
    if share_prefix:
        return [(grow(sequences), sequences)]
    return [(grow([sequence]), [sequence]) for sequence in sequences]


def _micro_batch(
    units: list[list[Example]],
    grown: list[list[tuple[Tree, list[Sequence]]]],
    division: Division,
    sources: tuple[str, ...],
    total: float,
    chosen_total: float | None,
    number: int,
) -> MicroBatch:
    is_preference = chosen_total is not None
    examples = tuple(example for unit in units for example in unit)
    forest = collate(
        [pair for trees in grown for pair in trees],
        merge_targets=not is_preference,
        weight_scale=1.0 if is_preference else 1.0 / total,
        pad_to_multiple_of=division.pad_to_multiple_of,
    )
    owner = [sources.index(example.source) for example in examples for _ in example.sequences] or [0]
    pairs = examples if is_preference else ()
    betas = [math.nan if example.beta is None else example.beta for example in pairs]
    return MicroBatch(
        forest=forest,
        examples=examples,
        sequence_source=torch.tensor(owner, dtype=torch.int64),
        sources=sources,
        pair_weight=torch.tensor([example.weight / total for example in pairs], dtype=torch.float64),
        pair_beta=torch.tensor(betas, dtype=torch.float64),
        sft_weight=torch.tensor(
            [_imitated_weight(example) / (chosen_total or 1.0) for example in pairs], dtype=torch.float64
        ),
        number=number,
    )


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key's text alone, not on platform or hash seed."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
