"""Reference log-probs: computed once, found again by content, never taken for another model's."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import pair_examples, preferences
from tuning.chat import encode_pair, load_template
from tuning.forest import Sequence
from tuning.train.reference import ReferenceStore, reference_key, sequence_key
from tuning.train.reference_index import Index
from tuning.train.reference_shards import StoreError
from tuning.train.steps import Example

KEY = "a reference"


def row(name: str, *answers: list[int]) -> Example:
    """A prompt `1 2` with these answers; an answer's tokens are the targets."""
    sequences = tuple(
        Sequence(np.array([1, 2, *answer], dtype=np.int32), np.array([False, False, *[True] * len(answer)]))
        for answer in answers
    )
    return Example(name, "source", name, sequences)


def filled(folder: Path, *rows: Example, **options: Any) -> ReferenceStore:
    """A store in which sequence n of these rows, counted through, has the sum -(n + 1); per token, the first
    target has all of it."""
    store = ReferenceStore(folder, KEY, **options)
    sequences = [sequence for example in rows for sequence in example.sequences]
    tokens = [
        value
        for number, sequence in enumerate(sequences, 1)
        for value in [-float(number), *[0.0] * (int(sequence.is_target.sum()) - 1)]
    ]
    sums = [-float(number) for number in range(1, len(sequences) + 1)]
    store.add(rows, sums, np.array(tokens, dtype=np.float32))
    store.flush()
    return store


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_sums_are_found_again_by_content_whatever_the_row_is_called(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples = pair_examples(preferences(3), tokenizer)
    filled(tmp_path, *examples)
    again = ReferenceStore(tmp_path, KEY)
    renamed = [replace(example, id="other", source="elsewhere") for example in reversed(examples)]
    assert again.has(renamed).all()
    assert again.of(renamed, 0).tolist() == [-5.0, -3.0, -1.0]
    assert again.of(renamed, 1).tolist() == [-6.0, -4.0, -2.0]


def test_a_row_may_have_any_number_of_sequences(tmp_path: Path) -> None:
    one, three = row("one", [5]), row("three", [5, 6], [7], [8, 9])
    filled(tmp_path, one, three)
    store = ReferenceStore(tmp_path, KEY)
    assert store.sums([three, one]).tolist() == [-2.0, -3.0, -4.0, -1.0]
    assert store.of([three], 2).tolist() == [-4.0]
    assert store.has([one, row("partly", [5], [6]), three]).tolist() == [True, False, True]


def test_another_token_target_or_template_is_another_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    """The target mask guards against TRL's cache that ignored what is scored (PEERS D3)."""
    [example] = pair_examples(preferences(1), tokenizer)
    chosen = example.sequences[0]
    fewer = replace(chosen, is_target=np.concatenate([chosen.is_target[:-1], [False]]))
    ids = chosen.input_ids.copy()
    ids[3] += 1
    assert len({sequence_key(one) for one in (chosen, fewer, replace(chosen, input_ids=ids))}) == 3
    assert sequence_key(replace(chosen, weight=3.0)) == sequence_key(chosen)
    [pair] = preferences(1)
    other = load_template("llm-jp-v1")
    side, _ = encode_pair(pair["prompt"], pair["chosen"], pair["rejected"], tokenizer, other)
    assert sequence_key(Sequence(side.input_ids, side.is_target)) != sequence_key(chosen)


def test_one_changed_weight_byte_setting_or_precision_is_another_reference(checkpoint: Path) -> None:
    def key(**options: Any) -> str:
        return reference_key(str(checkpoint), **{"precision": "fp32", **options})

    before = key()
    assert key() == before
    assert len({before, key(precision="bf16"), key(quantize="nf4")}) == 3
    [file] = checkpoint.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    changed = key()
    assert changed != before
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert key() not in (before, changed)


def test_files_that_do_not_change_log_probs_leave_the_reference_as_it_is(checkpoint: Path) -> None:
    before = reference_key(str(checkpoint), precision="fp32")
    (checkpoint / "README.md").write_text("a model card")
    (checkpoint / "generation_config.json").write_text('{"temperature": 0.5}')
    (checkpoint / "optimizer.safetensors").write_bytes(b"left over")
    (checkpoint / "checkpoint-7").mkdir()
    (checkpoint / "checkpoint-7" / "model.safetensors").write_bytes(b"left over")
    assert reference_key(str(checkpoint), precision="fp32") == before
    (checkpoint / "model-00002-of-00002.safetensors").write_bytes(b"weights")
    assert reference_key(str(checkpoint), precision="fp32") != before


def test_a_shard_of_another_reference_is_refused_by_name(tmp_path: Path) -> None:
    filled(tmp_path, row("a", [5], [6]))
    [shard] = shards(tmp_path)
    with pytest.raises(StoreError, match="made by another reference: its key is a reference") as caught:
        ReferenceStore(tmp_path, "another")
    assert caught.value.code == "reference_store_foreign"
    assert str(shard) in str(caught.value)


def test_a_file_that_is_no_shard_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match=r"model\.safetensors: not a shard"):
        ReferenceStore(tmp_path, KEY)


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty"])
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, row("a", [5], [6]))
    [shard] = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    if damage == "one bit":
        data[-3] ^= 4  # in the arrays: the format itself has no checksum
    shard.write_bytes({"cut": data[:-8], "one bit": data, "empty": b""}[damage])
    with pytest.raises(StoreError, match="damaged") as caught:
        ReferenceStore(tmp_path, KEY)
    assert caught.value.code == "reference_store_damaged"
    assert str(shard) in str(caught.value)


@pytest.mark.parametrize("what", ["a link to nothing", "a folder"])
def test_what_is_named_like_a_shard_and_cannot_be_read_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "sums-000003-aa.safetensors"
    if what == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"sums-000003-aa\.safetensors: damaged"):
        ReferenceStore(tmp_path, KEY)


def test_a_store_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="no reference store can be made here") as caught:
        filled(tmp_path / "file" / "store", row("a", [5], [6]))
    assert caught.value.code == "reference_store_folder"


def test_rows_are_written_every_so_many_and_after_a_while(tmp_path: Path) -> None:
    rows = [row(f"row-{number}", [number], [number + 50]) for number in range(10, 16)]
    store = ReferenceStore(tmp_path / "by rows", KEY, shard_rows=4)
    for example in rows:
        store.add([example], [-1.0, -2.0])
    assert len(shards(tmp_path / "by rows")) == 3  # 12 sequences, 4 at a time
    store = ReferenceStore(tmp_path / "by time", KEY, shard_seconds=0.05)
    store.add(rows[:1], [-1.0, -2.0])
    assert not shards(tmp_path / "by time")
    time.sleep(0.06)
    store.add(rows[1:2], [-1.0, -2.0])
    assert len(shards(tmp_path / "by time")) == 1
    assert len(ReferenceStore(tmp_path / "by time", KEY)) == 4


def test_two_stores_that_fill_one_folder_at_once_share_what_is_whole(tmp_path: Path) -> None:
    """Both compute row a; the value that was written first counts for everyone, and is written once."""
    one, other = ReferenceStore(tmp_path, KEY), ReferenceStore(tmp_path, KEY)
    a, b, c = row("a", [5]), row("b", [6]), row("c", [7])
    one.add([a, b], [-1.0, -2.0])
    other.add([a, c], [-9.0, -3.0])
    assert other.sums([a]).tolist() == [-9.0]
    one.flush()
    other.flush()
    assert other.sums([a, b, c]).tolist() == [-1.0, -2.0, -3.0]
    assert not one.has([c]).any()
    one.refresh()
    assert one.sums([a, b, c]).tolist() == [-1.0, -2.0, -3.0]
    assert sorted(len(load_file(shard)["sums"]) for shard in shards(tmp_path)) == [1, 2]


def test_what_a_killed_writer_left_is_removed_once_nobody_writes(tmp_path: Path) -> None:
    filled(tmp_path, row("a", [5]))
    ours = tmp_path / f".writing.{socket.gethostname()}.1.abcd"
    elsewhere = tmp_path / ".writing.another-machine.1.abcd"
    for path in (ours, elsewhere):
        path.write_bytes(b"half")
    with (tmp_path / ".lock").open("a") as writer:
        fcntl.flock(writer, fcntl.LOCK_SH)  # as someone does who writes a shard
        ReferenceStore(tmp_path, KEY)
        assert ours.exists()
    ReferenceStore(tmp_path, KEY)
    assert not ours.exists()
    assert elsewhere.exists()  # its machine may write still: locks do not always reach over the network
    os.utime(elsewhere, (0, 0))
    ReferenceStore(tmp_path, KEY)
    assert not elsewhere.exists()


def test_a_per_token_store_keeps_every_target_and_serves_sums(tmp_path: Path) -> None:
    a, b = row("a", [5, 6, 7], [8]), row("b", [9, 10])
    store = ReferenceStore(tmp_path, KEY, per_token=True, shard_rows=2)
    store.add([a], [-3.5, -1.0], np.array([-0.5, -1.0, -2.0, -1.0], dtype=np.float32))
    store.add([b], [-0.75], np.array([-0.25, -0.5], dtype=np.float32))
    pending = store.token_log_probs([b, a]).tolist()
    store.flush()
    again = ReferenceStore(tmp_path, KEY, per_token=True)
    assert pending == [-0.25, -0.5, -0.5, -1.0, -2.0, -1.0]
    assert again.token_log_probs([b, a]).tolist() == pending
    assert again.token_log_probs([b, a]).dtype == torch.float32
    assert ReferenceStore(tmp_path, KEY).sums([a, b]).tolist() == [-3.5, -1.0, -0.75]


def test_sums_alone_do_not_satisfy_who_asks_per_token(tmp_path: Path) -> None:
    a, b = row("a", [5, 6]), row("b", [7])
    filled(tmp_path, a)
    store = filled(tmp_path, b, per_token=True)
    assert store.has([a, b]).tolist() == [False, True]
    assert ReferenceStore(tmp_path, KEY).has([a, b]).tolist() == [True, True]
    assert [path.name.split("-")[0] for path in shards(tmp_path)] == ["sums", "tokens"]
    with pytest.raises(TypeError, match="per_token=True"):
        ReferenceStore(tmp_path, KEY).token_log_probs([b])


def test_a_missing_row_and_a_log_prob_that_is_no_number_are_named(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, KEY)
    with pytest.raises(KeyError, match="row a: no log-prob"):
        store.of([row("a", [5])], 0)
    with pytest.raises(StoreError, match="row a: its log-prob under the reference is nan"):
        store.add([row("a", [5])], [float("nan")])


@given(st.lists(st.lists(st.binary(min_size=1, max_size=3), max_size=6), max_size=6))
def test_the_index_finds_what_a_dictionary_finds(batches: list[list[bytes]]) -> None:
    """Keys with zero bytes at any place, added in any batches, some of them again."""
    index, expected = Index(), dict[bytes, float]()
    for number, batch in enumerate(batches):
        keys = [name.rjust(8, b"\0").ljust(16, b"\0") for name in batch]
        values = [number + place / 10 for place in range(len(keys))]
        index.add(np.frombuffer(b"".join(keys), dtype="S16"), np.array(values), None)
        for key, value in zip(keys, values, strict=True):
            expected.setdefault(key, value)
    asked = [*expected, b"not among them.."]
    is_known, sums, _ = index.find(np.frombuffer(b"".join(asked), dtype="S16"))
    assert is_known.tolist() == [True] * len(expected) + [False]
    assert sums[:-1].tolist() == list(expected.values())
    assert len(index) == len(expected)


def test_a_million_sequences_take_less_than_forty_bytes_each(tmp_path: Path) -> None:
    """Measured by the operating system in a process of its own, Python and numpy taken off."""
    script = """
import resource, sys, numpy as np
from tuning.train.reference_index import Index
peak = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
keys = np.random.default_rng(0).integers(0, 256, (1 << 20, 16), dtype=np.uint8).reshape(-1).view("S16")
values = np.zeros(1 << 20)
before = peak()
index = Index()
for start in range(0, 1 << 20, 32768):
    index.add(keys[start : start + 32768], values[start : start + 32768], None)
print((peak() - before) / (1 << 20))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 40
