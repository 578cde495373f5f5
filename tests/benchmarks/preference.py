"""How fast DPO trains beside TRL's `DPOTrainer` on the same pairs, weights, steps; and in how much memory.

    python tests/benchmarks/preference.py [--data hh|long] [--pairs 16] [--steps 2] [--rounds 3]
    python tests/benchmarks/preference.py --steps 1 --rounds 1 --sweep 4     to try it out
    python tests/benchmarks/preference.py --products

Each run is a process of its own, in turns (ours, TRL's default, TRL's best, ours ...): the same random
weights, ids, scored tokens, pairs of every optimizer step and their order, AdamW, rate and clipping. One pass
over the pairs, so the reference is computed once for each pair and counts: TRL's default computes it live,
TRL's best and ours beforehand.

- `ours`: `ChatTrainer` as `recipes/dpo.py` runs it.
- `trl default`: `DPOConfig()` at 8 pairs a device, the rest of a step by accumulation; checkpointed.
- `trl best`: references precomputed, no checkpointing, the pairs a device that the sweep found fastest.

`--data hh` takes the first pairs of HH-RLHF whose text TRL tokenises itself; the run stops if an id or a
scored token differs from ours. `--data long` has random ids of fixed lengths (log-normal: prompts of 1,500
tokens on average, answers of 300, both with a standard deviation of half the mean); TRL takes only text, so
there its `_prepare_dataset` is replaced by one that returns the ids, and nothing else is.
`--products` times an optimizer step of ours beside the matrix products it is made of.

On CUDA the same command measures `--shape 1.8b` and `7.2b` (llm-jp-3, random weights, float32 masters under
bf16 autocast, sdpa for TRL, peak of reserved memory). No GPU has run this yet.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Threads that wait sleep: spinning, they take the cores from each other wherever the machine has other work.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
SHARED = Path(os.environ.get("TUNING_SHARED", ROOT.parent / "shared"))
TEMPLATE, BETA = "llm-jp-v3", 0.1
SHAPES = {  # hidden, layers, heads, intermediate
    "51m": (256, 6, 4, 1024),
    "1.8b": (2048, 24, 16, 7168),
    "7.2b": (4096, 32, 32, 11008),
}
COMMON: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "seed": 7,
}
SYSTEMS = ("ours", "trl default", "trl best")


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


def make_pairs(kind: str, count: int, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Pairs as `ids` (chosen, rejected), `start` (first scored token), and for HH-RLHF the row itself."""
    import numpy as np

    if kind == "long":
        random = np.random.default_rng(20_261_122)

        def lengths(mean: int) -> list[int]:
            spread = np.log(1 + 0.5**2)
            drawn = random.lognormal(np.log(mean) - spread / 2, np.sqrt(spread), count)
            return drawn.round().astype(int).clip(mean // 8, 5 * mean // 2).tolist()  # type: ignore[no-any-return]

        pairs = []
        for prompt, chosen, rejected in zip(lengths(1500), lengths(300), lengths(300), strict=True):
            start = random.integers(1_000, 99_000, prompt).tolist()
            sides = [start + random.integers(1_000, 99_000, size).tolist() for size in (chosen, rejected)]
            pairs.append({"ids": sides, "start": prompt})
        return pairs
    from transformers import AutoTokenizer

    from data_builders import build
    from tuning.chat import encode_pair, load_template
    from tuning.records import read_jsonl

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with TemporaryDirectory() as built:
        build("hh_rlhf", [str(data / "hh-rlhf" / "harmless-base-part.jsonl.gz")], built)
        rows = [row for row, _ in zip(read_jsonl(Path(built) / "data.jsonl"), range(count), strict=False)]
    if len(rows) < count:
        raise SystemExit(f"{count} pairs are asked for, the file has {len(rows)}")
    pairs = []
    for row in rows:
        messages = {side: row[side] for side in ("prompt", "chosen", "rejected")}
        encoded = encode_pair(*messages.values(), tokenizer, load_template(TEMPLATE))
        starts = {int(np.flatnonzero(side.is_target)[0]) for side in encoded}
        assert len(starts) == 1 and all(side.is_target[min(starts) :].all() for side in encoded)
        pairs.append(
            {"ids": [side.input_ids.tolist() for side in encoded], "start": min(starts), "row": messages}
        )
    return pairs


def make_model(shape: str, folder: Path, tokenizer: Any) -> str:
    """Writes random weights; returns their number in words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, intermediate = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=99_584,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    vocabulary = sum(layer.weight.numel() for layer in (model.lm_head, model.model.embed_tokens))
    total = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{vocabulary / 1e6:.1f}M weights of embeddings and head, {(total - vocabulary) / 1e6:.1f}M of layers"
    )


def run_one(given: argparse.Namespace, place: Path, system: str, steps: int, micro: int) -> dict[str, Any]:
    """What a process of its own measured."""
    job = {"system": system, "steps": steps, "pairs": given.pairs, "micro": micro, "tokens": given.tokens}
    command = [sys.executable, __file__, "--tokenizer", str(given.tokenizer), "--job", json.dumps(job)]
    done = subprocess.run([*command, "--place", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def job_of_child(place: Path, tokenizer: Path, job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
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
    from tuning.train.objectives import PREFERENCE_LOSSES
    from tuning.train.reference import ReferenceStore
    from tuning.train.session import Session, training_arguments
    from tuning.train.step_objectives import preference_objective
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
    objective = preference_objective(PREFERENCE_LOSSES["sigmoid"], store, beta=BETA)
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


def rate(run: dict[str, Any], clock: int = 0) -> float:
    """Pairs per second of wall time (clock 0) or CPU time (1), the reference pass counted."""
    return float(run["pairs"] / (run["reference"][clock] + run["training"][clock]))


def sweep(given: argparse.Namespace, place: Path) -> int:
    """TRL's fastest number of pairs a device, each tried on one step."""
    sizes = [int(size) for size in given.sweep.split(",") if given.pairs % int(size) == 0]
    if len(sizes) == 1:
        return sizes[0]
    found = {size: run_one(given, place, "trl best", 1, size) for size in sizes}
    print("| TRL, references precomputed, pairs a device | pairs/s | peak MiB |\n| ---: | ---: | ---: |")
    for size, run in found.items():
        print(f"| {size} | {rate(run):.3f} | {run['peak']} |", flush=True)
    print()
    return max(found, key=lambda size: rate(found[size]))


def compare(given: argparse.Namespace, place: Path) -> None:
    """Prints the table of all systems and what ours gains."""
    micro = {"ours": 0, "trl default": min(8, given.pairs), "trl best": sweep(given, place)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    for _ in range(given.rounds):
        for name in SYSTEMS:
            runs[name].append(run_one(given, place, name, given.steps, micro[name]))
            latest = runs[name][-1]
            print(f"{name}: {rate(latest):.3f} pairs/s, {latest['peak']} MiB", file=sys.stderr, flush=True)
    print(
        "| system | pairs a device | pairs/s (median) | all | pairs per CPU second | reference s "
        "| training s "
        "| token slots a pair | peak MiB | after loading |\n"
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    speed, by_cpu, memory = {}, {}, {}
    for name, results in runs.items():
        speed[name] = statistics.median(map(rate, results))
        by_cpu[name] = statistics.median(rate(run, 1) for run in results)
        memory[name] = max(run["peak"] for run in results)
        every = " ".join(f"{rate(run):.3f}" for run in results)
        spent = [statistics.median(run[part][0] for run in results) for part in ("reference", "training")]
        print(
            f"| {name} | {micro[name] or 'by tokens'} | {speed[name]:.3f} | {every} | {by_cpu[name]:.3f} "
            f"| {spent[0]:.1f} | {spent[1]:.1f} | {results[0]['tokens'] / results[0]['pairs']:.0f} "
            f"| {memory[name]} | {results[0]['baseline']} |"
        )
    losses = runs["ours"][0]["losses"]
    print(f"\nOur loss goes from {losses[0]:.6f} to {losses[-1]:.6f} in {len(losses)} steps.")
    for name in SYSTEMS[1:]:
        worst = max(
            abs(one - other)
            for mine, theirs in zip(runs["ours"], runs[name], strict=True)
            for one, other in zip(mine["losses"], theirs["losses"], strict=True)
        )
        print(
            f"Against {name}: {speed['ours'] / speed[name]:.1f} times the pairs/s "
            f"({by_cpu['ours'] / by_cpu[name]:.1f} by CPU seconds), "
            f"{memory['ours'] / memory[name]:.0%} of the peak memory; losses differ by at most {worst:.1e}."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", choices=("hh", "long"), default="hh")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="51m")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of one optimizer step")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweep", default="1,2,4,8", help="pairs a device to try for TRL's best")
    parser.add_argument("--tokens", type=int, default=4096, help="our tokens_per_device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--products", action="store_true", help="our step beside its matrix products")
    parser.add_argument("--shared", type=Path, default=SHARED / "data", help="the folder of hh-rlhf/")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "llm-jp-v3")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(given.threads))
    if given.job is not None:
        job_of_child(given.place, given.tokenizer, given.job)
        return
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    if given.pairs % min(8, given.pairs):
        raise SystemExit(f"--pairs {given.pairs}: TRL's default takes 8 pairs a device; give a multiple of 8")
    for folder in (given.shared, given.tokenizer):
        if not folder.is_dir():
            raise SystemExit(f"{folder} is not here; name the folder with --shared or --tokenizer")
    from transformers import AutoTokenizer

    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        pairs = make_pairs(given.data, given.pairs * given.steps, given.shared, given.tokenizer)
        (place / "pairs.json").write_text(json.dumps(pairs))
        weights = make_model(given.shape, place / "model", AutoTokenizer.from_pretrained(given.tokenizer))
        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
        mean = [sum(len(pair["ids"][side]) for pair in pairs) / len(pairs) for side in (0, 1)]
        print(
            f"Python {platform.python_version()}, {packages}; {platform.machine()}, {given.threads} threads\n"
            f"{given.shape}: {weights}. {len(pairs)} pairs ({given.data}), {given.steps} steps of "
            f"{given.pairs};\n{mean[0]:.0f} and {mean[1]:.0f} tokens, of which the prompt has "
            f"{sum(pair['start'] for pair in pairs) / len(pairs):.0f}.\n",
            flush=True,
        )
        if given.products:
            from tests.benchmarks.products import print_products

            trainer, store = our_trainer(
                place / "model", pairs, {"pairs": given.pairs, "tokens": given.tokens}, place / "output"
            )
            print_products(trainer, store, given.rounds)
        else:
            compare(given, place)


if __name__ == "__main__":
    main()
