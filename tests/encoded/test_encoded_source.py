"""Encoded parts: the same ids whoever writes them, written once, whole or not at all, whatever is killed."""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from tests.conftest import WORDS, chat_row, write_lines
from tuning.chat import ChatError, EncodedSequence, encode_many, load_template
from tuning.encoded import EncodedSource, encoded_source, source
from tuning.encoded.part import write_part
from tuning.model.tiny import train_tokenizer
from tuning.schema import Conversation, Message, parse_row

TEMPLATE = load_template("llm-jp-v3")
NUM_ROWS, PART_ROWS = 90, 20
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    made = train_tokenizer([" ".join(WORDS), "\n\n### 指示:\n\n\n### 応答:\n", *WORDS] * 5, vocab_size=400)
    TEMPLATE.install(made)
    return made


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found = []
    for number in range(NUM_ROWS):
        row = {"id": f"r{number}", "source": "s", **chat_row(f"Say {number}.", f"{number} 海\n𠮷")}
        row |= {"group": f"g{number // 3}", "meta": {"language": "ja", "category": f"c{number % 2}", "x": 1}}
        if number % 7 == 0:
            row["loss_weight"] = 2.5
        if number % 11 == 0:  # which the template cannot carry
            row["messages"] = [*row["messages"], {"role": "tool", "content": "7"}, *row["messages"][1:]]
        found.append(row)
    return found


@pytest.fixture
def data(tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(source, "PART_ROWS", PART_ROWS)
    write_lines(tmp_path / "data.jsonl", rows)
    return tmp_path / "data.jsonl"


def assert_as_encoded_directly(
    found: EncodedSource, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> None:
    parsed = [parse_row(row) for row in rows]
    assert len(found) == len(rows)
    for one, row, result in zip(found, parsed, encode_many(parsed, tokenizer, TEMPLATE), strict=True):
        assert (one.id, one.group_key, one.loss_weight) == (row.id, row.group_key, row.loss_weight)
        assert (one.language, one.category) == ("ja", row.meta["category"])
        if isinstance(result, ChatError):
            assert one.result == result.code
            continue
        assert [part.input_ids.tolist() for part in one.result] == [
            part.input_ids.tolist() for part in result
        ]
        assert [part.is_target.tolist() for part in one.result] == [
            part.is_target.tolist() for part in result
        ]
        assert one.num_targets == sum(int(part.is_target[1:].sum()) for part in result)


def is_mapped(array: np.ndarray) -> bool:
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def contents(cache: Path) -> dict[str, bytes]:
    files = (path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in files}


def test_what_is_read_back_is_what_encoding_gives(
    data: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert_as_encoded_directly(encoded_source(data, tokenizer, TEMPLATE, cache), rows, tokenizer)
    written = contents(cache)
    assert (
        len([name for name in written if name.endswith("ends.npy")]) == 5
    )  # 4 parts of 20 rows and one of 10
    again = encoded_source(data, tokenizer, TEMPLATE, cache)
    assert contents(cache) == written
    assert_as_encoded_directly(again, rows, tokenizer)
    assert again[PART_ROWS + 1].id == "r21"
    assert is_mapped(again[1].result[0].input_ids)


def test_several_processes_write_the_same_bytes(
    data: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    encoded_source(data, tokenizer, TEMPLATE, tmp_path / "alone", workers=1)
    found = encoded_source(data, tokenizer, TEMPLATE, tmp_path / "together", workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")
    assert_as_encoded_directly(found, rows, tokenizer)


def test_an_empty_source_has_one_empty_part(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("\n")
    found = encoded_source(tmp_path / "data.jsonl", tokenizer, TEMPLATE, tmp_path / "cache")
    assert len(found) == 0
    assert list(found) == []


def test_a_source_that_is_read_keeps_few_bytes_a_row(tmp_path: Path) -> None:
    # Four numbers of 8 bytes: where its line and its sequences begin, its sequence's end, and its targets.
    num_rows = 5_000
    sequence = EncodedSequence(np.array([1, 2], dtype=np.int32), np.array([False, True]))
    message = (Message("user", "い"), Message("assistant", "は"))
    written = ((Conversation(f"row {n}", "s", message), [sequence]) for n in range(num_rows))
    write_part(tmp_path / "part", written, lambda: None)
    tracemalloc.start()
    found = EncodedSource([tmp_path / "part"])
    assert all(row.id == f"row {n}" for n, row in enumerate(found))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / num_rows < 64


SCRIPT = """
import sys, time
from pathlib import Path
from transformers import AutoTokenizer
from tuning.chat import load_template
from tuning.encoded import encoded_source, source
from tuning.encoded import part
source.PART_ROWS = int(sys.argv[4])
written = part.write_part
def counted(folder, *rest):
    print("writes", folder.name, flush=True)
    time.sleep(float(sys.argv[5]))
    written(folder, *rest)
source.write_part = counted
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
print("ready", flush=True)
encoded_source(Path(sys.argv[1]), tokenizer, load_template("llm-jp-v3"), sys.argv[3], workers=1)
"""


def encoder(data: Path, folder: Path, cache: Path, slowness: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(data), str(folder), str(cache), str(PART_ROWS), str(slowness)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def saved(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_two_processes_that_ask_at_once_write_each_part_once(
    data: Path, saved: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    both = [encoder(data, saved, cache, slowness=0.1) for _ in range(2)]
    lines = [line for process in both for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in both] == [0, 0]
    writes = [line for line in lines if line.startswith("writes")]
    assert len(writes) == len(set(writes)) == 5
    assert_as_encoded_directly(encoded_source(data, tokenizer, TEMPLATE, cache), rows, tokenizer)


def test_an_encoder_killed_at_any_moment_leaves_no_half_part_and_loses_no_whole_one(
    data: Path, saved: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    encoded_source(data, tokenizer, TEMPLATE, tmp_path / "undisturbed", workers=1)
    expected = contents(tmp_path / "undisturbed")
    moments = random.Random(3)
    cache = tmp_path / "cache"
    for _ in range(20 if os.environ.get("TUNING_FULL") else 4):
        before = contents(cache)
        process = encoder(data, saved, cache, slowness=0.05)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = {name: data for name, data in contents(cache).items() if not name.startswith(".")}
        assert left.items() <= expected.items()
        assert {
            name: data for name, data in before.items() if not name.startswith(".")
        }.items() <= left.items()
        parts = [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
        assert all(len(list(part.iterdir())) == 7 for part in parts)
    found = encoded_source(data, tokenizer, TEMPLATE, cache, workers=1)
    assert contents(cache) == expected  # what a killed encoder left beside a part is gone
    assert_as_encoded_directly(found, rows, tokenizer)


def test_a_slow_encoder_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from tuning import progress

    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    with progress.Progress("encode chats", 128) as shown:
        for _ in range(128):
            shown.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("encode chats rows=1/128 rows/s=")
    assert lines[-1].startswith("encode chats rows=128/128")
    assert json.dumps(lines).count("eta=") == len(lines)
