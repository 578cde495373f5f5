"""Every preference loss in real processes: two and four of them make the step that one makes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.train.conftest import llama
from tests.train.running import train
from tests.train.test_preference_invariance import METHODS, rows_for
from tuning.records import read_jsonl
from tuning.train.preference_losses import PREFERENCE_LOSSES

NUM_ROWS = {2: 100, 4: 3}
"""Of an optimizer step, by the number of processes: all that there are, and so few that one has none."""


def methods(num_processes: int) -> list[str]:
    """All of them between two processes; between four, those that need to know of other ranks' rows."""
    return [
        name
        for name, method in METHODS.items()
        if num_processes == 2
        or method.get("sft_weight")
        or any(PREFERENCE_LOSSES[term].sees_step for term in method["terms"])
    ]


def one_step(method: str, num_rows: int, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """One step of plain gradient descent, so that the weights show the gradient element by element."""
    examples = rows_for(method, tokenizer)[:num_rows]
    policy = llama(len(tokenizer))
    train(
        policy,
        examples,
        folder,
        num_steps=1,
        batch_rows=len(examples),
        preference=True,
        reference=llama(len(tokenizer), seed=5),
        budget=120,
        method={"beta": 0.3, **METHODS[method]},
        learning_rate=1.0,
        optim="sgd",
        max_grad_norm=1e9,
    )
    if os.environ.get("RANK", "0") == "0":
        save_file(
            {name: part.detach() for name, part in policy.named_parameters()}, folder / "after.safetensors"
        )


@pytest.mark.parametrize("num_processes", NUM_ROWS)
def test_processes_make_the_step_of_one_with_every_loss(
    num_processes: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)],
            cwd=root,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=600)
        assert worker.returncode == 0, errors[-2000:]
    start = dict(llama(len(tokenizer)).named_parameters())
    for method in methods(num_processes):
        alone, together = tmp_path / "one" / method, tmp_path / "many" / method
        one_step(method, NUM_ROWS[num_processes], tokenizer, alone)
        [one], [many] = (list(read_jsonl(folder / "metrics.jsonl")) for folder in (alone, together))
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-6, abs=1e-9), method
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-6), method
        weights, others = (load_file(folder / "after.safetensors") for folder in (alone, together))
        assert any((weights[name] - start[name]).abs().max() > 1e-5 for name in weights), method
        for name, weight in weights.items():
            difference = (weight - others[name]).abs().max()
            assert difference <= 1e-6 * max(1.0, float(one["grad_norm"])), (method, name)


def main(place: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(Path(place) / "tokenizer")
    num_processes = int(os.environ["WORLD_SIZE"])
    for method in methods(num_processes):
        one_step(method, NUM_ROWS[num_processes], tokenizer, Path(place) / "many" / method)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
