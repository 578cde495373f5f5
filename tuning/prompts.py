"""Named sources become one weighted, seeded set of prompts: what a model is asked when it learns from its own
answers.

A conversation gives one prompt, everything up to its last user turn, and what the assistant said behind it is
the row's own answer. Prompts are counted, held out, weighed and ordered as the rows of other stages are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuning.chat import ChatError, Template, encode_prompt
from tuning.forest import Sequence as TokenSequence
from tuning.mixture import MixtureError, built_rows
from tuning.records import check_counts
from tuning.schema import Conversation, Message
from tuning.shares import Share, passes, split
from tuning.train.steps import Example, Order


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is asked, and the answer that the row has."""

    id: str
    source: str
    group: str
    messages: tuple[Message, ...]
    """Up to the last user turn, that one included."""
    answer: str
    input_ids: np.ndarray
    """int32, (tokens,): what the model is given, ending with the generation prompt."""


@dataclass(frozen=True)
class PromptMixture:
    """The prompts that a stage trains on, in which order, and those it holds out."""

    order: Order
    """Of examples without targets, whose sequence is the prompt."""
    prompts: Mapping[tuple[str, str], Prompt]
    """By source and row id."""
    dev: list[Prompt]
    sources: Mapping[str, Mapping[str, Any]]
    """Counts per source, as `Mixture.sources` has them, without target tokens."""


def mix_prompts(
    folders: Mapping[str, str | Path],
    shares: Mapping[str, Share],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    stage: str,
    max_length: int,
    too_long: str,
    seed: int,
    weigh_by: str = "passes",
) -> PromptMixture:
    """The prompts of the built datasets in `folders`, each with its share.

    `max_length` is in tokens of the prompt. A prompt that `apply_chat_template` renders otherwise than
    `encode_prompt` (a text spells a control token) is dropped as `served_otherwise`: the trainers that read
    this set tokenise prompts themselves. Raises `MixtureError` for a row with a `loss_weight` and where
    nothing is left.
    """
    prompts: dict[tuple[str, str], Prompt] = {}
    groups: dict[str, list[list[Example]]] = {}
    dev: list[Prompt] = []
    sources: dict[str, dict[str, Any]] = {}
    for name, share in shares.items():
        rows = built_rows(folders[name], preference=False, stage=stage)
        parts = split([row for row in rows if isinstance(row, Conversation)], share, seed, name)
        dropped = Counter(parts.left_out)
        kept: dict[str, Prompt] = {}
        for row in [*parts.train, *parts.dev]:
            refuse_loss_weight(row.loss_weight, f"{stage}: row {row.id} of {name}")
            prompt = prompt_of(row, name, tokenizer, template)
            if isinstance(prompt, str):
                dropped[prompt] += 1
            elif len(prompt.input_ids) <= max_length:
                kept[row.id] = prompt
            elif too_long != "error":
                dropped["too_long"] += 1
            else:
                seen = f"the prompt of row {row.id} has {len(prompt.input_ids)} tokens"
                raise MixtureError(f"{stage}: {seen}, and max_length leaves it {max_length}")
        for other in served_otherwise(list(kept.values()), tokenizer):
            del kept[other.id]
            dropped["served_otherwise"] += 1
        train = [kept[row.id] for row in parts.train if row.id in kept]
        held_out = [kept[row.id] for row in parts.dev if row.id in kept]
        dev += held_out
        prompts |= {(name, prompt.id): prompt for prompt in train}
        groups[name] = _grouped(train)
        sources[name] = {
            "rows_in": len(rows),
            "rows_kept": len(kept),
            "rows_dropped": dict(dropped),
            "train_rows": len(train),
            "dev_rows": len(held_out),
            "weight": share.weight,
        }
        check_counts(sources[name], f"{stage}: {name}")
        if not train and (parts.train or not held_out):  # a source may be held out whole, not dropped whole
            why = ", ".join(f"{code} {count}" for code, count in dropped.items()) or "it has no rows"
            raise MixtureError(f"{stage}: no prompt of {name} is left to train on ({why})")
    if not prompts:
        raise MixtureError(
            f"{stage}: every prompt of {', '.join(shares)} is held out; none is left to train on"
        )
    repeats = passes(
        weigh_by,
        {name: share.weight for name, share in shares.items()},
        {name: counts["train_rows"] for name, counts in sources.items()},
        {},
    )
    for name, times in repeats.items():
        if groups[name] and round(times * len(groups[name])) == 0:
            raise MixtureError(f"{stage}: weight {shares[name].weight:g} of {name} takes no prompt")
        sources[name]["passes"] = times
    return PromptMixture(Order(groups, repeats, seed), prompts, dev, sources)


def prompt_of(
    row: Conversation, source: str, tokenizer: PreTrainedTokenizerBase, template: Template
) -> Prompt | str:
    """The prompt of a conversation, or the code of the reason why its template cannot ask it."""
    last = max(index for index, message in enumerate(row.messages) if message.role == "user")
    messages = row.messages[: last + 1]
    try:
        ids = encode_prompt(messages, tokenizer, template)
    except ChatError as error:
        return error.code
    return Prompt(row.id, source, row.group_key, messages, row.messages[-1].content, ids)


def asked(prompts: Sequence[Prompt]) -> list[list[dict[str, Any]]]:
    """The messages of prompts as a chat template reads them, every message with the same fields."""
    extra = [
        name
        for name in ("input", "thinking")
        if any(getattr(message, name) is not None for prompt in prompts for message in prompt.messages)
    ]
    return [
        [
            {
                "role": message.role,
                "content": message.content,
                **{name: getattr(message, name) for name in extra},
            }
            for message in prompt.messages
        ]
        for prompt in prompts
    ]


def served_otherwise(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The prompts whose ids under `apply_chat_template` are not `encode_prompt`'s."""
    if not prompts:
        return []
    served: Any = tokenizer.apply_chat_template(
        asked(prompts), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return [
        prompt
        for prompt, ids in zip(prompts, served["input_ids"], strict=True)
        if prompt.input_ids.tolist() != list(ids)
    ]


def refuse_loss_weight(weight: float, where: str) -> None:
    """Raises where a row asks for a weight of its own, which trainers that are not ours cannot give it."""
    if weight != 1.0:
        message = f"{where} has loss_weight {weight:g}, which TRL's trainers do not know"
        raise MixtureError(f"{message}; accepted: 1, or a weight for its source")


def _grouped(prompts: list[Prompt]) -> list[list[Example]]:
    groups: dict[str, list[Example]] = {}
    for prompt in prompts:
        sequence = TokenSequence(prompt.input_ids, np.zeros(len(prompt.input_ids), dtype=bool))
        example = Example(prompt.id, prompt.source, prompt.group, (sequence,))
        groups.setdefault(prompt.group, []).append(example)
    return list(groups.values())
