"""What runs in a process of its own for `preference.py`: our trainer or TRL's, and how they are measured."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.preference_setup import TEMPLATE

BETA = 0.1
COMMON: dict[str, Any] = {
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "seed": 7,
}


class Clock:
    """Seconds of wall time and of CPU time (all threads) since it was made."""

    def __init__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def read(self) -> list[float]:
        return [time.perf_counter() - self.started[0], time.process_time() - self.started[1]]


def peak_mib() -> int:
    """Most memory that this process has held: reserved on the GPU, else resident. Not `ru_maxrss`, which a
    child takes over from the process that started it."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() >> 20
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) >> 10


def job_of_child(place: Path, tokenizer: Path, job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if job["memory"] and not torch.cuda.is_available():
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(job["memory"] * 2**30),) * 2)
    pairs = json.loads((place / "pairs.json").read_text())[: job["steps"] * job["pairs"]]
    with TemporaryDirectory() as output:
        measured = (ours if job["system"] == "ours" else trl)(
            place / "model", tokenizer, pairs, job, Path(output)
        )
    print(json.dumps({**measured, "pairs": len(pairs), "peak": peak_mib()}))


def recorder() -> Any:
    """A callback that knows the seconds from the start of training to the end of its last step, and every
    loss."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def __init__(self) -> None:
            self.clock, self.seconds = Clock(), [0.0, 0.0]
            self.losses: list[float] = []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.clock = Clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds = self.clock.read()

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "grad_norm" in logs:
                self.losses.append(logs["loss"])

    return Recorder()


def examples_of(pairs: list[dict[str, Any]]) -> list[Any]:
    import numpy as np

    from tuning.forest import Sequence
    from tuning.train.steps import Example

    examples = []
    for number, pair in enumerate(pairs):
        sides = [
            Sequence(np.array(ids, dtype=np.int32), np.arange(len(ids)) >= pair["start"])
            for ids in pair["ids"]
        ]
        examples.append(Example(f"pair-{number}", "pairs", f"pair-{number}", tuple(sides)))
    return examples


def order_of(examples: list[Any]) -> Any:
    from tuning.train.steps import Order

    return Order({"pairs": [[example] for example in examples]}, {"pairs": 1.0}, COMMON["seed"])


def our_trainer(model: Path, pairs: list[dict[str, Any]], job: dict[str, Any], output: Path) -> Any:
    """(trainer, store) as `recipes/dpo.py` makes them."""
    import torch

    from tuning.model.adapters import disable_dropout
    from tuning.model.head import TargetModel
    from tuning.model.loading import compute_dtype, load_model
    from tuning.train.reference import ReferenceStore
    from tuning.train.session import Session, training_arguments
    from tuning.train.step_objectives import PreferenceObjective
    from tuning.train.steps import Schedule
    from tuning.train.trainer import ChatTrainer

    policy = TargetModel(load_model(str(model), dtype=torch.float32))
    disable_dropout(policy)
    schedule = Schedule(order_of(examples_of(pairs)), job["pairs"], len(pairs), is_preference=True)
    session = Session(
        "dpo",
        output,
        schedule,
        tokens_per_device=job["tokens"],
        learning_rate=COMMON["learning_rate"],
        lr_schedule="constant",
        save_steps=1 << 30,
    )
    arguments = training_arguments(
        output, precision=compute_dtype("auto"), num_steps=schedule.num_steps, settings=COMMON
    )
    store = ReferenceStore()
    objective = PreferenceObjective({"sigmoid": 1.0}, store, beta=BETA)
    return ChatTrainer(policy, arguments, session, objective), store


def ours(
    model: Path, _: Path, pairs: list[dict[str, Any]], job: dict[str, Any], output: Path
) -> dict[str, Any]:
    from tuning.records import read_jsonl

    sys.stdout, stdout = sys.stderr, sys.stdout  # the meter's lines
    trainer, store = our_trainer(model, pairs, job, output)
    baseline, seen = peak_mib(), recorder()
    trainer.add_callback(seen)
    clock = Clock()
    trainer.compute_reference(store, [])
    reference = clock.read()
    trainer.run()
    sys.stdout = stdout
    tokens = sum(line["tokens"] for line in read_jsonl(output / "metrics.jsonl"))
    return {
        "reference": reference,
        "training": seen.seconds,
        "losses": seen.losses,
        "tokens": tokens,
        "baseline": baseline,
    }


def trl(
    model: Path, tokenizer: Path, pairs: list[dict[str, Any]], job: dict[str, Any], output: Path
) -> dict[str, Any]:
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tuning.chat import load_template

    disable_progress_bars()
    pairs = [pairs[int(example.id.split("-")[1])] for _, example in order_of(examples_of(pairs)).epoch(0)]
    ids = [
        {
            "prompt_ids": pair["ids"][0][: pair["start"]],
            "chosen_ids": pair["ids"][0][pair["start"] :],
            "rejected_ids": pair["ids"][1][pair["start"] :],
        }
        for pair in pairs
    ]
    measured: dict[str, Any] = {"reference": [0.0, 0.0], "tokens": 0}

    class Timed(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **options: Any) -> Any:
            if "row" not in pairs[0]:
                return Dataset.from_list(ids)
            prepared = super()._prepare_dataset(dataset, *args, **options)
            for index, (theirs, wanted) in enumerate(zip(prepared, ids, strict=True)):
                if any(theirs[name] != wanted[name] for name in wanted):
                    raise SystemExit(f"pair {index} has other ids or scored tokens under TRL")
            return prepared

        def _precompute_ref_logps(self, *args: Any, **options: Any) -> Any:
            clock = Clock()
            computed = super()._precompute_ref_logps(*args, **options)
            measured["reference"] = clock.read()
            return computed

        def training_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            measured["tokens"] += inputs["input_ids"].numel()
            return super().training_step(model, inputs, *args, **options)

    is_best = job["system"] == "trl best"
    processing = AutoTokenizer.from_pretrained(tokenizer)
    load_template(TEMPLATE).install(processing)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    measured["baseline"], seen = peak_mib(), recorder()
    on_gpu = torch.cuda.is_available()
    trainer = Timed(
        model=policy,
        args=DPOConfig(
            output_dir=str(output),
            beta=BETA,
            max_length=None,
            max_steps=job["steps"],
            per_device_train_batch_size=job["micro"],
            gradient_accumulation_steps=job["pairs"] // job["micro"],
            precompute_ref_log_probs=is_best,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            **({"gradient_checkpointing": False} if is_best else {}),
            **COMMON,
        ),
        train_dataset=Dataset.from_list([pair.get("row", {"prompt": ""}) for pair in pairs]),
        processing_class=processing,
        callbacks=[seen],
    )
    trainer.train()
    return {**measured, "training": seen.seconds, "losses": seen.losses}
