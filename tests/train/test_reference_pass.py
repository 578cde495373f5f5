"""The reference pass: each pair once whatever the ranks, on from the last shard, never from a wrong store."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from tests.conftest import run_tiny, write_recipe
from tests.train.conftest import llama, pair_examples, preferences
from tests.train.running import order_of
from tuning.forest import Sequence
from tuning.model.adapters import attach_lora
from tuning.model.head import TargetModel
from tuning.model.loading import use_forest_attention
from tuning.train.reference import ReferenceStore
from tuning.train.reference_pass import fill_store
from tuning.train.reference_shards import StoreError
from tuning.train.session import Session, training_arguments
from tuning.train.step_objectives import PreferenceObjective
from tuning.train.steps import Division, Example, Order, Schedule
from tuning.train.trainer import ChatTrainer, Interrupted

ROOT = Path(__file__).parents[2]
KEY = "the model of seed 0"
PAIRS, HELD_OUT, BATCH = 20, 4, 5


def pairs(tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], list[Example]]:
    """(trained on, held out)."""
    examples = pair_examples(preferences(PAIRS + HELD_OUT), tokenizer)
    return examples[:PAIRS], examples[PAIRS:]


def model(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> nn.Module:
    lm = llama(len(tokenizer), seed)
    use_forest_attention(lm)
    return lm


def trainer_of(
    lm: nn.Module,
    examples: list[Example],
    store: ReferenceStore,
    folder: Path,
    *,
    budget: int = 1,
    seed: int = 7,
    weight: float = 1.0,
) -> ChatTrainer:
    """A DPO run of three epochs, each `weight` passes over these pairs; a `budget` of 1 makes every pair a
    micro-row of its own."""
    order = Order(order_of(examples).groups, {"pairs": weight}, seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = int(3 * weight * len(examples))
    session = Session(
        name="dpo",
        folder=folder,
        schedule=Schedule(order, BATCH, rows, is_preference=True),
        tokens_per_device=budget,
        learning_rate=1e-3,
    )
    arguments = training_arguments(
        folder, precision=torch.float32, num_steps=session.schedule.num_steps, settings={"seed": 7}
    )
    objective = PreferenceObjective({"sigmoid": 1.0}, store, beta=0.1)
    return ChatTrainer(TargetModel(lm), arguments, session, objective)


def stored(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *, of: nn.Module | None = None, **options: Any
) -> tuple[ReferenceStore, ChatTrainer]:
    """A store in `folder` after the pass of a run over the pairs, and the run's trainer."""
    examples, dev = pairs(tokenizer)
    store = ReferenceStore(folder, KEY, per_token=options.pop("per_token", False))
    trainer = trainer_of(of or model(tokenizer), examples, store, folder.with_suffix(".run"), **options)
    trainer.compute_reference(store, dev)
    return store, trainer


def sequences_in(folder: Path) -> int:
    return sum(len(load_file(shard)["sums"]) for shard in folder.glob("*.safetensors"))


@contextmanager
def counted_forwards() -> Iterator[list[int]]:
    """One entry a forward pass of any `TargetModel`: how many sequences it computed."""
    seen: list[int] = []
    plain = TargetModel.forward

    def forward(self: TargetModel, batch: Any, **options: Any) -> Any:
        seen.append(batch.num_sequences)
        return plain(self, batch, **options)

    TargetModel.forward = forward  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        TargetModel.forward = plain  # type: ignore[method-assign]


def start_ranks(folder: Path, count: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """This file as the ranks of a launch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), *arguments],
            cwd=ROOT,
            env={
                **alone,
                "PYTHONPATH": str(ROOT),
                **({**launch, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
                "ACCELERATE_USE_CPU": "true",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_values_do_not_depend_on_the_number_of_ranks(
    ranks: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Every pair is computed once, by one of the ranks, though each comes three times in the run.

    In equal micro-rows (`alone`: each pair its own) values are equal bit for bit; in micro-rows that were put
    together differently to float32 rounding, 1e-5 nats in a sum of about 10 targets.
    """
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for rank in start_ranks(tmp_path, ranks, "both"):
        _, errors = rank.communicate(timeout=240)
        assert rank.returncode == 0, errors[-3000:]
    examples, dev = pairs(tokenizer)
    everything = [*examples, *dev]
    for name, budget, tolerance in (("alone", 1, 0.0), ("together", 200, 1e-5)):
        assert sequences_in(tmp_path / name) == 2 * len(everything)
        assert len(list((tmp_path / name).glob("*.safetensors"))) == ranks
        one, _ = stored(tokenizer, tmp_path / f"{name}-one", budget=budget)
        many = ReferenceStore(tmp_path / name, KEY)
        difference = (many.sums(everything) - one.sums(everything)).abs().max().item()
        assert difference <= tolerance
        with counted_forwards() as forwards:
            stored(tokenizer, tmp_path / name, budget=budget)  # one rank finds what several wrote
        assert len(forwards) == 1


def test_the_values_do_not_depend_on_the_order_or_on_prefix_sharing(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples, dev = pairs(tokenizer)
    one, _ = stored(tokenizer, tmp_path / "one")
    shuffled, _ = stored(tokenizer, tmp_path / "shuffled", seed=8)
    packed, _ = stored(tokenizer, tmp_path / "packed", seed=9, budget=10_000)
    everything = [*examples, *dev]
    assert torch.equal(one.sums(everything), shuffled.sums(everything))
    assert torch.allclose(one.sums(everything), packed.sums(everything), rtol=0, atol=1e-5)


def test_a_complete_store_costs_one_micro_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check that the store is right; nothing else is computed, by the policy itself and no copy of it."""
    with counted_forwards() as forwards:
        stored(tokenizer, tmp_path / "store", weight=2.5)
    assert sum(forwards) == 2 * (PAIRS + HELD_OUT)  # though pairs come several times in an epoch
    assert "24 pairs computed" in capsys.readouterr().err
    with counted_forwards() as forwards:
        stored(tokenizer, tmp_path / "store", seed=8)
    assert forwards == [2]
    said = capsys.readouterr().err
    assert "reference log-probs: 0 pairs computed in " in said
    assert "24 pairs from the store" in said


@pytest.mark.parametrize("budget", [1, 10_000])
def test_the_first_loss_is_ln_2_live_and_from_a_store_of_equal_micro_rows(
    budget: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for _ in range(2):
        _, trainer = stored(tokenizer, tmp_path / "store", budget=budget)
        step = next(trainer.session.schedule.steps(trainer.division))
        trainer.policy.eval()
        loss = sum(trainer.objective(trainer.policy, part)[0].item() for part in step.micro_batches)
        assert loss == pytest.approx(math.log(2), abs=1e-15)


def test_a_random_adapter_does_not_matter(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """The reference of a LoRA policy is the base: one store serves both, and every adapter."""

    def adapted(seed: int) -> nn.Module:
        policy = attach_lora(model(tokenizer), rank=4, alpha=8, seed=seed)  # type: ignore[arg-type]
        for name, weight in policy.named_parameters():
            if "lora_B" in name:  # no longer the base, were it switched on
                nn.init.normal_(weight, generator=torch.Generator().manual_seed(seed))
        return policy

    examples, dev = pairs(tokenizer)
    base, _ = stored(tokenizer, tmp_path / "base")
    one, _ = stored(tokenizer, tmp_path / "adapter", of=adapted(1))
    with counted_forwards() as forwards:
        stored(tokenizer, tmp_path / "adapter", of=adapted(2))
    assert len(forwards) == 1
    assert torch.equal(one.sums([*examples, *dev]), base.sums([*examples, *dev]))


def test_a_store_of_another_model_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    stored(tokenizer, tmp_path / "store", of=model(tokenizer, seed=1))
    with pytest.raises(
        StoreError, match=r"the store is wrong: for row pair-\d+, sequence 0, it holds"
    ) as caught:
        stored(tokenizer, tmp_path / "store")
    assert str(tmp_path / "store") in str(caught.value)
    assert caught.value.code == "reference_store_wrong"


def test_a_wrong_value_is_found_where_its_micro_row_is_computed(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Half of the pairs are known, the last of them wrongly by a tenth of a nat; both computed values and the
    row are named."""
    examples, _ = pairs(tokenizer)
    right, _ = stored(tokenizer, tmp_path / "right")
    store = ReferenceStore(tmp_path / "wrong", KEY)
    sums = right.sums(examples[:PAIRS:2]).tolist()
    sums[-2] -= 0.1
    store.add(examples[:PAIRS:2], sums)
    store.flush()
    wrong = examples[:PAIRS:2][-1]
    with pytest.raises(StoreError, match=f"row {wrong.id}, sequence 0") as caught:
        stored(tokenizer, tmp_path / "wrong", budget=10_000)
    assert f"{sums[-2]:.6g} nats and the reference gives {sums[-2] + 0.1:.6g}" in str(caught.value)


def test_only_what_is_missing_is_computed(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, _ = pairs(tokenizer)
    right, _ = stored(tokenizer, tmp_path / "right")
    store = ReferenceStore(tmp_path / "store", KEY)
    store.add(examples[:15], right.sums(examples[:15]).tolist())
    store.flush()
    capsys.readouterr()
    with counted_forwards() as forwards:
        again, _ = stored(tokenizer, tmp_path / "store")
    assert sum(forwards) == 2 * (PAIRS - 15 + HELD_OUT) + 2  # and one pair again, to check the store
    assert "9 pairs computed" in capsys.readouterr().err
    assert torch.equal(again.sums(examples), right.sums(examples))


def test_a_pass_killed_at_95_percent_goes_on_from_its_last_shard(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """One pair a shard; killed as soon as 22 or 23 of 24 are on disk."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    folder = tmp_path / "alone"
    [worker] = start_ranks(tmp_path, 1, "slow")
    while len(list(folder.glob("*.safetensors"))) < 0.9 * (PAIRS + HELD_OUT):
        assert worker.poll() is None, worker.communicate()[1][-3000:]
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    done = sequences_in(folder) // 2
    assert 22 <= done < 24
    with counted_forwards() as forwards:
        resumed, _ = stored(tokenizer, folder)
    assert len(forwards) == 24 - done + 1  # and one pair again, to check the store
    examples, dev = pairs(tokenizer)
    straight, _ = stored(tokenizer, tmp_path / "straight")
    assert torch.equal(resumed.sums([*examples, *dev]), straight.sums([*examples, *dev]))


def test_a_pass_asked_to_stop_keeps_what_is_done(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    class StopsItself(TargetModel):
        calls = 0

        def forward(self, *batch: Any, **options: Any) -> Any:
            StopsItself.calls += 1
            if StopsItself.calls == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(*batch, **options)

    examples, dev = pairs(tokenizer)
    store = ReferenceStore(tmp_path / "store", KEY)
    trainer = trainer_of(model(tokenizer), examples, store, tmp_path / "run")
    trainer.model = StopsItself(model(tokenizer))
    with pytest.raises(Interrupted, match="during the reference pass"):
        trainer.compute_reference(store, dev)
    assert sequences_in(tmp_path / "store") == 2 * 7
    with counted_forwards() as forwards:
        stored(tokenizer, tmp_path / "store")
    assert len(forwards) == 24 - 7 + 1


def test_a_pass_that_fails_keeps_what_is_done(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    class FailsAtLast(TargetModel):
        calls = 0

        def forward(self, *batch: Any, **options: Any) -> Any:
            FailsAtLast.calls += 1
            if FailsAtLast.calls == 8:
                raise MemoryError
            return super().forward(*batch, **options)

    examples, dev = pairs(tokenizer)
    store = ReferenceStore(tmp_path / "store", KEY)
    trainer = trainer_of(model(tokenizer), examples, store, tmp_path / "run")
    trainer.model = FailsAtLast(model(tokenizer))
    with pytest.raises(MemoryError):
        trainer.compute_reference(store, dev)
    assert sequences_in(tmp_path / "store") == 2 * 7


def test_values_per_token_are_those_of_the_micro_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """In the order of its targets, and bit for bit, although beginnings are shared."""
    store, trainer = stored(tokenizer, tmp_path / "store", per_token=True, budget=10_000)
    [micro_batch] = next(trainer.session.schedule.steps(trainer.division)).micro_batches
    with torch.no_grad():
        _, log_probs = trainer.policy(micro_batch.forest)
    assert torch.equal(store.token_log_probs(micro_batch.examples), log_probs)
    with counted_forwards() as forwards:
        sums, _ = stored(tokenizer, tmp_path / "store", budget=10_000)
    assert len(forwards) == 1
    assert torch.equal(sums.sums(micro_batch.examples), store.sums(micro_batch.examples))


def test_rows_with_one_and_with_three_answers_are_stored_sequence_by_sequence(tmp_path: Path) -> None:
    def answer(*ids: int) -> Sequence:
        return Sequence(np.array([1, 2, *ids], dtype=np.int32), np.array([False, False, *[True] * len(ids)]))

    examples = [
        Example("three", "s", "three", (answer(5, 6), answer(5, 7, 8), answer(9))),
        Example("one", "s", "one", (answer(4, 4),)),
    ]
    lm = llama(16)
    use_forest_attention(lm)
    whole, single = ReferenceStore(per_token=True), ReferenceStore()
    schedule = Schedule(order_of(examples), 2, 2, is_preference=True)
    filled = fill_store(whole, TargetModel(lm), schedule, Division(1000), [], device="cpu")
    assert (filled.computed, filled.found) == (2, 0)
    apart = [
        replace(example, id=f"{example.id} {number}", sequences=(sequence,))
        for example in examples
        for number, sequence in enumerate(example.sequences)
    ]
    schedule = Schedule(order_of(apart), 1, 4, is_preference=True)
    fill_store(single, TargetModel(lm), schedule, Division(1), [], device="cpu")
    assert torch.allclose(whole.sums(examples), single.sums(apart), rtol=0, atol=1e-6)
    assert whole.token_log_probs(examples[1:]).sum().item() == pytest.approx(whole.sums(apart[3:]).item())


def test_a_long_pass_says_how_far_it_is(
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tuning import progress

    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    stored(tokenizer, tmp_path / "store")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reference pairs=")]
    assert lines[0].startswith("reference pairs=1/24 pairs/s=")
    assert lines[-1].startswith("reference pairs=24/24 pairs/s=")
    assert all(" eta=" in line for line in lines)


def test_a_recipe_with_another_beta_rate_and_output_finds_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with another template it does not: the same rows are other tokens."""
    recipe = write_recipe(tmp_path)
    paths = run_tiny(recipe, tmp_path / "first", to_stage="sft")
    start = [f"base={paths['sft'] / 'model'}", "sft=null", "tiny=null", "evaluate=null", "release=null"]
    shared = f"dpo.reference_store={tmp_path / 'shared'}"

    def passes(name: str, *overrides: str) -> str:
        capsys.readouterr()
        run_tiny(recipe, tmp_path / name, *start, shared, *overrides)
        [line] = [line for line in capsys.readouterr().err.splitlines() if "reference log-probs:" in line]
        return line

    assert "12 pairs computed" in passes("one", "dpo.max_steps=3")
    others = ["dpo.beta=0.5", "dpo.learning_rate=0.1", "dpo.label_smoothing=0.1", "dpo.batch_pairs=3"]
    line = passes("other", *others, "dpo.max_steps=4")
    assert " 0 pairs computed" in line
    assert "12 pairs from the store" in line
    assert " 0 pairs from the store" in passes("template", "template=llm-jp-v1")
    assert len(list((tmp_path / "shared").iterdir())) == 1


if __name__ == "__main__":  # a rank
    from transformers import AutoTokenizer

    place, how = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    made = AutoTokenizer.from_pretrained(place / "tokenizer")
    if how == "both":
        stored(made, place / "alone", budget=1)
        stored(made, place / "together", budget=200)
    else:
        slow_store = ReferenceStore(place / "alone", KEY, shard_rows=2)
        training, held_out = pairs(made)
        slow = trainer_of(model(made), training, slow_store, place / "run")
        slow.policy.register_forward_pre_hook(lambda *_: time.sleep(0.1))
        slow.compute_reference(slow_store, held_out)
