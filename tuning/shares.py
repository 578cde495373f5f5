"""What a recipe says of a source in a mix, and what that leaves of its rows: held out, trained on, left out.

Everything here depends on the rows, the seed and the source's name alone, so base training, SFT and
evaluation see the same rows held out, whatever the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tuning.train.steps import generator

DEV_SHARE = 0.1
"""A source gives at most this share of its rows to the dev set, unless its mix entry names a number
itself."""


@dataclass(frozen=True)
class Share:
    """What a recipe says of a source in a mix."""

    weight: float = 1.0
    dev_rows: int = 0
    dev_rows_are_exact: bool = False
    """True when the mix entry itself names the number: then the 10 % cap does not apply."""
    languages: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None
    """Rows of other languages and categories are left out; None lets all of them in."""
    dev_share: float | None = None
    """Share of the wanted rows that is held out, instead of `dev_rows`."""
    max_rows: int | None = None
    """Rows that may be trained on before weighting: a seeded sample of whole groups."""
    beta: float | None = None
    """Of pairs that bring none of their own; None = the stage's."""
    min_margin: float | None = None
    max_margin: float | None = None
    """Pairs whose answers' scores differ by less or more are left out, and those that have no scores."""


class Member(Protocol):
    """What a split has to know of a row."""

    @property
    def group_key(self) -> str: ...
    @property
    def language(self) -> str | None: ...
    @property
    def category(self) -> str | None: ...


RowT = TypeVar("RowT", bound=Member)


@dataclass(frozen=True)
class Split(Generic[RowT]):
    """The rows of a source, divided by whole groups, each part in the order of the file."""

    train: list[RowT]
    dev: list[RowT]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that are in neither, by reason: `other_language`, `other_category`, `no_margin`, `small_margin`,
    `large_margin`, `over_max_rows`."""


def split(rows: Sequence[RowT], share: Share, seed: int, source: str) -> Split[RowT]:
    """Leaves out what the share does not want, holds out whole groups until `share.dev_rows` rows are reached
    (at most 10 % of what it wants), and caps the rest.

    Most rows stay for training, unless the mix entry itself asks for all of them: then the source is held out
    whole.
    """
    left_out: Counter[str] = Counter()
    wanted: list[RowT] = []
    for row in rows:
        if share.languages is not None and row.language not in share.languages:
            left_out["other_language"] += 1
        elif share.categories is not None and row.category not in share.categories:
            left_out["other_category"] += 1
        elif reason := _unwanted_margin(row, share):
            left_out[reason] += 1
        else:
            wanted.append(row)
    if share.dev_share is not None:
        limit = int(share.dev_share * len(wanted))
    elif share.dev_rows_are_exact:
        limit = share.dev_rows
    else:
        limit = min(share.dev_rows, int(DEV_SHARE * len(wanted)))
    held_out = _whole_groups(wanted, range(len(wanted)), limit, seed, "dev", source)
    rest = [index for index in range(len(wanted)) if index not in held_out]
    if share.max_rows is not None and len(rest) > share.max_rows:
        kept = _whole_groups(wanted, rest, share.max_rows, seed, "cap", source)
        left_out["over_max_rows"] += len(rest) - len(kept)
        rest = [index for index in rest if index in kept]
    return Split(
        train=[wanted[index] for index in rest],
        dev=[row for index, row in enumerate(wanted) if index in held_out],
        left_out=dict(left_out),
    )


def _unwanted_margin(row: Member, share: Share) -> str | None:
    if share.min_margin is None and share.max_margin is None:
        return None
    margin: float | None = getattr(row, "margin", None)
    if margin is None:
        return "no_margin"
    if share.min_margin is not None and margin < share.min_margin:
        return "small_margin"
    return "large_margin" if share.max_margin is not None and margin > share.max_margin else None


def passes(
    weigh_by: str, weights: Mapping[str, float], rows: Mapping[str, int], target_tokens: Mapping[str, int]
) -> dict[str, float]:
    """How often an epoch passes over each source.

    By `passes` that is its weight. By `rows` or `target_tokens` the weights are the sources' shares of an
    epoch, which has as many rows, or target tokens, as the sources have together: 3 : 1 over 100 and 300 rows
    is an epoch of 400 rows, 300 from the first (3 passes) and 100 from the second (a third of it).
    """
    if weigh_by == "passes":
        return dict(weights)
    sizes = rows if weigh_by == "rows" else target_tokens
    used = {name: weight for name, weight in weights.items() if sizes[name]}
    whole, total = sum(used.values()), sum(sizes.values())
    return {
        name: weight / whole * total / sizes[name] if name in used else weight
        for name, weight in weights.items()
    }


def _whole_groups(
    rows: Sequence[Member], indices: Sequence[int], limit: int, seed: int, purpose: str, source: str
) -> set[int]:
    """Seeded groups of the rows at `indices` that have at most `limit` rows together."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(rows[index].group_key, []).append(index)
    names = list(groups)
    taken: set[int] = set()
    for number in generator(seed, purpose, source).permutation(len(names)).tolist():
        if len(taken) == limit:
            break
        if len(taken) + len(groups[names[number]]) <= limit:
            taken.update(groups[names[number]])
    return taken
