"""One run of a very small recipe, from raw rows to a released model, for all tests that look at it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tuning import load_recipe, run

WORDS = [
    "sun",
    "moon",
    "sea",
    "river",
    "hill",
    "rain",
    "snow",
    "wind",
    "road",
    "house",
    "tree",
    "bird",
    "fish",
    "rice",
    "tea",
    "book",
    "door",
    "lamp",
    "bell",
    "song",
]


@dataclass(frozen=True)
class TinyRun:
    """A finished run: its recipe file and the folder of its stages."""

    recipe: Path
    output: Path

    @property
    def release(self) -> Path:
        return self.output / "release"


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def chat_row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_recipe(folder: Path) -> Path:
    """A recipe of a few dozen rows in `folder`; it trains in seconds and learns next to nothing."""
    chats = [
        chat_row(f"Tell me of the {one}.", f"The {one} is near the {WORDS[index - 1]}. 海🇯🇵")
        for index, one in enumerate(WORDS)
    ]
    chats.append(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                *chat_row("Name a {x}.", "The sea.")["messages"],
            ]
        }
    )
    chats.append(chat_row("What does </s> mean?", "It ends a turn."))
    write_lines(folder / "chats.jsonl", chats)
    write_lines(folder / "taught.jsonl", [chat_row(f"Say {one}.", f"{one} {one}") for one in WORDS[:4]])
    pairs = [
        {
            "chosen": f"\n\nHuman: Bring me the {one}.\n\nAssistant: Gladly. Here is the {one}.",
            "rejected": f"\n\nHuman: Bring me the {one}.\n\nAssistant: Here is the {one}.",
        }
        for one in WORDS[:12]
    ]
    # Dropped by the builder, each with its reason.
    pairs.append(
        {"chosen": "\n\nHuman: Hm?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hm?\n\nAssistant: Yes."}
    )
    pairs.append({"chosen": "\n\nHuman: Hm?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hm?\n\nAssistant:"})
    write_lines(folder / "pairs.jsonl", pairs)
    (folder / "tiny.yaml").write_text(
        """\
name: tiny-run
base: tiny
template: llm-jp-v3
tiny: {hidden_size: 16, layers: 1, heads: 2, key_value_heads: 1, vocab_size: 600, pretrain_epochs: 0.2}
data:
  chats: {builder: files, input: [chats.jsonl], licence: CC-BY-4.0, language: en}
  taught: {builder: files, input: [taught.jsonl], licence: CC0-1.0}
  pairs: {builder: hh_rlhf, input: [pairs.jsonl]}
sft:
  mix: {chats: {}, taught: {weight: 2, dev_rows: 0}}
  dev_rows: 2
  batch_rows: 8
  max_steps: 2
  learning_rate: 1.0e-2
dpo:
  mix: {pairs: {dev_rows: 2}}
  batch_pairs: 4
  max_steps: 2
  learning_rate: 1.0e-3
evaluate: {questions: [taught], max_new_tokens: 4, answers: 2}
release: {licence: apache-2.0}
""",
        encoding="utf-8",
    )
    return folder / "tiny.yaml"


def run_tiny(recipe: Path, output: Path, *overrides: str, **options: Any) -> dict[str, Path]:
    """Runs the recipe as a Python user would; returns the folders of its stages."""
    return run(load_recipe(recipe, [f"output={output}", *overrides]), **options)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with its raw files; tests that change a file make their own with `write_recipe`."""
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The recipe run to its end. Tests read it only: those that run again copy it with `copied`."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    output = tmp_path_factory.mktemp("run") / "tiny-run"
    run_tiny(tiny_recipe, output)
    return TinyRun(tiny_recipe, output)
