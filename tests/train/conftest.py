"""A small tokenizer, small models and rows for the trainer's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tuning.chat import encode, encode_pair, load_template
from tuning.forest import Sequence
from tuning.model.tiny import train_tokenizer
from tuning.train.steps import Example

WORDS = [
    "the",
    "sea",
    "is",
    "wide",
    "and",
    "the",
    "river",
    "runs",
    "to",
    "it",
    "past",
    "a",
    "town",
    "where",
    "people",
    "sell",
    "rice",
    "fish",
    "and",
    "paper",
    "海",
    "は",
    "広い",
    "川",
    "が",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    made = train_tokenizer([" ".join(WORDS), "\n\n### 指示:\n\n\n### 応答:\n", *WORDS] * 5, vocab_size=400)
    load_template("llm-jp-v3").install(made)
    return made


def llama(vocab_size: int, seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


@pytest.fixture
def checkpoint(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def phrase(random: np.random.Generator, low: int = 2, high: int = 14) -> str:
    return " ".join(random.choice(WORDS, random.integers(low, high)))


def chats(count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "messages": [
                {"role": "user", "content": phrase(random)},
                {"role": "assistant", "content": phrase(random)},
            ]
        }
        for _ in range(count)
    ]


def preferences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "prompt": [{"role": "user", "content": phrase(random)}],
            "chosen": [{"role": "assistant", "content": phrase(random)}],
            "rejected": [{"role": "assistant", "content": phrase(random)}],
        }
        for _ in range(count)
    ]


def sft_examples(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    template = load_template("llm-jp-v3")
    examples = []
    for number, row in enumerate(rows):
        [encoded] = encode(row["messages"], tokenizer, template)
        sequence = Sequence(encoded.input_ids, encoded.is_target)
        examples.append(Example(f"row-{number}", ("one", "two")[number % 2], f"row-{number}", (sequence,)))
    return examples


def pair_examples(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    template = load_template("llm-jp-v3")
    examples = []
    for number, row in enumerate(rows):
        sides = encode_pair(row["prompt"], row["chosen"], row["rejected"], tokenizer, template)
        sequences = tuple(Sequence(side.input_ids, side.is_target) for side in sides)
        examples.append(Example(f"pair-{number}", "pairs", f"pair-{number}", sequences))
    return examples
