"""Greedy answers of a chat model, batch by batch, and whether they stopped by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    text: str
    stopped: bool
    """Whether the end-of-turn token came before the limit of new tokens."""
    num_tokens: int


@torch.no_grad()
def greedy_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
) -> list[Answer]:
    """One answer per prompt, in order; prompts are ids that end with the generation prompt.

    Prompts of similar length are answered together, padded on the left. Ids beyond the tokenizer's
    vocabulary, which padded embeddings have, are never generated.
    """
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    beyond = list(range(len(tokenizer), model.config.get_text_config().vocab_size)) or None
    answers: dict[int, Answer] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = max(len(prompts[index]) for index in batch)
        ids = torch.full((len(batch), longest), pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            prompt = torch.from_numpy(np.asarray(prompts[index], dtype=np.int64))
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad,
            suppress_tokens=beyond,
        )
        for row, index in enumerate(batch):
            answers[index] = answer_of(output[row, longest:].tolist(), tokenizer, end)
    return [answers[index] for index in range(len(prompts))]


def answer_of(ids: list[int], tokenizer: PreTrainedTokenizerBase, end: int) -> Answer:
    """What the generated ids say, up to the first end-of-turn token."""
    stopped = end in ids
    ids = ids[: ids.index(end)] if stopped else ids
    return Answer(str(tokenizer.decode(ids, skip_special_tokens=False)).strip(), stopped, len(ids))


def exact_share(answers: Sequence[Answer], expected: Sequence[str]) -> float:
    """Share of answers that equal the expected text but for outer white space."""
    pairs = list(zip(answers, expected, strict=True))
    return sum(answer.text == text.strip() for answer, text in pairs) / len(pairs) if pairs else 0.0
