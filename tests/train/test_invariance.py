"""The same step whatever the token budget, the number of ranks and the sharing of prefixes; resume bit for
bit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import chats, llama, pair_examples, preferences, sft_examples
from tests.train.running import train
from tuning.train.checkpoint import checkpoints
from tuning.train.trainer import Interrupted

ROWS = 12
BUDGETS = {1: 100_000, 3: None, 12: 1}
"""Micro-steps wanted of 12 rows -> token budget; None is found from the step's size."""


def examples_for(preference: bool, tokenizer: PreTrainedTokenizerBase, count: int = ROWS) -> list[Any]:
    return (
        pair_examples(preferences(count), tokenizer) if preference else sft_examples(chats(count), tokenizer)
    )


def one_step(
    preference: bool, tokenizer: PreTrainedTokenizerBase, folder: Path, **options: Any
) -> dict[str, Any]:
    size = len(tokenizer)
    reference = llama(size, seed=5) if preference else None
    examples = examples_for(preference, tokenizer)
    [line] = train(
        llama(size),
        examples,
        folder,
        num_steps=1,
        batch_rows=ROWS,
        preference=preference,
        reference=reference,
        **options,
    )
    return line


@pytest.mark.parametrize("preference", [False, True])
def test_one_step_is_the_same_for_any_token_budget(
    preference: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = one_step(preference, tokenizer, tmp_path / "1")
    assert whole["micro_steps"] == 1
    third = one_step(preference, tokenizer, tmp_path / "3", budget=-(-whole["tokens"] // 3) + 8)
    single = one_step(preference, tokenizer, tmp_path / "12", budget=1)
    apart = one_step(preference, tokenizer, tmp_path / "apart", share_prefix=False)
    assert third["micro_steps"] == 3
    assert single["micro_steps"] == ROWS
    if preference:
        assert abs(whole["loss"] - 0.6931) > 1e-4  # the reference differs from the policy
        assert apart["tokens"] > whole["tokens"]
    for other in (third, single, apart):
        assert other["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert other["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-6)
        assert other["target_tokens"] == whole["target_tokens"]


@pytest.mark.parametrize("preference", [False, True])
def test_two_gloo_processes_make_the_same_step_as_one(
    preference: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(int(preference))],
            cwd=root,
            env={
                **os.environ,
                "PYTHONPATH": str(root),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors[-2000:]
    whole = one_step(preference, tokenizer, tmp_path / "one")
    for name in ("two", "two-tight"):
        [line] = [json.loads(text) for text in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert line["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert line["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-6)
    assert line["micro_steps"] == ROWS // 2


@pytest.mark.parametrize("preference", [False, True])
def test_four_steps_equal_two_and_two_after_a_resume_bit_for_bit(
    preference: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples, size = examples_for(preference, tokenizer, 20), len(tokenizer)
    options: dict[str, Any] = {"num_steps": 4, "batch_rows": 5, "preference": preference, "weight_decay": 0.1}
    straight = llama(size)
    lines = train(straight, examples, tmp_path / "straight", **options)
    with pytest.raises(Interrupted, match="step 2/4"):
        train(llama(size), examples, tmp_path / "halves", stop_after=2, **options)
    resumed = llama(size)
    again = train(resumed, examples, tmp_path / "halves", **options)
    for (name, one), two in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two), name
    for name in ("step", "loss", "grad_norm", "learning_rate"):
        assert [line[name] for line in again] == [line[name] for line in lines]


def test_lora_with_dropout_resumes_bit_for_bit(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    from tuning.model.adapters import attach_lora

    def policy() -> Any:
        return attach_lora(llama(len(tokenizer)), rank=4, alpha=8, dropout=0.2, seed=1)

    examples = sft_examples(chats(20), tokenizer)
    options: dict[str, Any] = {"num_steps": 4, "batch_rows": 5}
    torch.manual_seed(11)
    train(policy(), examples, tmp_path / "straight", **options)
    torch.manual_seed(11)
    with pytest.raises(Interrupted):
        train(policy(), examples, tmp_path / "halves", stop_after=2, **options)
    torch.manual_seed(99)  # the checkpoint's random state must win
    train(policy(), examples, tmp_path / "halves", **options)
    one, two = (
        load_file(checkpoints(tmp_path / name / "checkpoints")[-1] / "model.safetensors")
        for name in ("straight", "halves")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all("lora" in name for name in one)  # only what is trained is kept


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples = sft_examples(chats(20), tokenizer)
    options: dict[str, Any] = {"num_steps": 4, "batch_rows": 5}
    lines = train(llama(len(tokenizer)), examples, tmp_path / "straight", **options)
    with pytest.raises(Interrupted):
        train(llama(len(tokenizer)), examples, tmp_path / "cut", stop_after=3, **options)
    newest = checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    again = train(llama(len(tokenizer)), examples, tmp_path / "cut", **options)
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]


def test_checkpoints_hold_no_pickle(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    train(llama(len(tokenizer)), sft_examples(chats(8), tokenizer), tmp_path, num_steps=1, batch_rows=4)
    [checkpoint] = checkpoints(tmp_path / "checkpoints")
    assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json"}


if __name__ == "__main__":  # one rank of the two-process test
    from transformers import AutoTokenizer

    folder, is_preference = Path(sys.argv[1]), sys.argv[2] == "1"
    torch.set_num_threads(1)
    loaded = AutoTokenizer.from_pretrained(folder / "tokenizer")
    one_step(is_preference, loaded, folder / "two")
    one_step(is_preference, loaded, folder / "two-tight", budget=1)
