"""A very small recipe with the stages that run TRL's trainers, and its finished run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import WORDS, TinyRun, chat_row, run_tiny, write_lines

RECIPE = """\
name: methods
base: tiny
template: llm-jp-v1
tiny: {hidden_size: 16, layers: 1, heads: 2, key_value_heads: 1, vocab_size: 600, pretrain_epochs: 0.2}
data:
  chats: {builder: files, input: [chats.jsonl], licence: CC-BY-4.0, language: en}
  pairs: {builder: hh_rlhf, input: [pairs.jsonl]}
sft:
  mix: {chats: {}}
  batch_rows: 8
  max_steps: 1
  learning_rate: 1.0e-2
reward:
  mix: {pairs: {dev_rows: 6}}
  batch_pairs: 4
  pairs_per_device: 2
  max_steps: 8
  learning_rate: 2.0e-2
grpo:
  mix: {chats: {}}
  dev_rows: 2
  batch_prompts: 2
  num_generations: 4
  answers_per_device: 4
  max_new_tokens: 6
  max_steps: 3
  learning_rate: 1.0e-3
  rewards:
    ends: {rule: stops}
    short: {rule: length, max_tokens: 3, weight: 0.5}
    right: {rule: exact}
    liked: {rule: model, weight: 0.1}
"""


def write_methods_recipe(folder: Path) -> Path:
    """A recipe whose pairs prefer the answer that says "Gladly"; its chats have every kind of prompt."""
    chats = [chat_row(f"Tell me of the {one}.", f"The {one} is near.") for one in WORDS]
    system = {"role": "system", "content": "Be brief."}
    turns = chat_row("Name a thing.", "The sea.")["messages"]
    chats.append({"messages": [system, *turns, *chat_row("Another?", "The hill. 海🇯🇵")["messages"]]})
    chats.append(chat_row("What does </s> mean?", "It ends a turn."))
    with_input = chat_row("Which word?", "lamp")
    with_input["messages"][0]["input"] = "a lamp and a bell"
    write_lines(folder / "chats.jsonl", [*chats, with_input])
    asked = "\n\nHuman: Bring me the {}.\n\nAssistant: {}"
    pairs = [
        {"chosen": asked.format(one, f"Gladly, {one}."), "rejected": asked.format(one, f"No, {one}, never.")}
        for one in WORDS
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    (folder / "methods.yaml").write_text(RECIPE, encoding="utf-8")
    return folder / "methods.yaml"


@pytest.fixture(scope="session")
def methods_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The recipe run up to grpo. Tests read it only: those that run again copy it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    recipe = write_methods_recipe(tmp_path_factory.mktemp("recipe"))
    output = tmp_path_factory.mktemp("run") / "methods"
    run_tiny(recipe, output, to_stage="grpo")
    return TinyRun(recipe, output)
