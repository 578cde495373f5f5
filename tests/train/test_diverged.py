"""A step whose numbers are none ends the run, and nothing keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import chats, llama, sft_examples
from tests.train.running import train
from tuning.records import read_jsonl
from tuning.train import checkpoint
from tuning.train.trainer import Diverged


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_ends_the_run_though_the_loss_is_one(
    value: float, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Clipping makes nan of every weight of such a step: inf times 0."""
    model, calls = llama(len(tokenizer)), []

    def spoil(gradient: torch.Tensor) -> torch.Tensor | None:
        calls.append(1)
        return gradient * value if len(calls) == 2 else None

    model.get_output_embeddings().weight.register_hook(spoil)
    examples = sft_examples(chats(12, seed=1), tokenizer)
    with pytest.raises(
        Diverged, match=r"gradient's norm of step 2 is (nan|inf); nothing of this step is kept"
    ):
        train(model, examples, tmp_path, num_steps=3, batch_rows=4)
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1]
    [alarm] = read_jsonl(tmp_path / "alarms.jsonl")
    assert (alarm["code"], alarm["step"]) == ("diverged", 2)
    newest, damaged = checkpoint.newest_whole(tmp_path / "checkpoints")
    assert newest is not None and checkpoint.step_of(newest) == 1 and not damaged
    weights = [tensor for file in newest.glob("*.safetensors") for tensor in load_file(file).values()]
    assert all(tensor.isfinite().all() for tensor in weights if tensor.is_floating_point())
