"""How fast DPO trains beside TRL's `DPOTrainer` on the same pairs, weights, steps; and in how much memory.

    python tests/benchmarks/preference.py [--data hh|long] [--pairs 16] [--steps 2] [--rounds 3]
    python tests/benchmarks/preference.py --steps 1 --rounds 1 --sweep 4     to try it out
    python tests/benchmarks/preference.py --products

Each run is a process of its own, in turns (ours, TRL's default, TRL's best, ours ...): the same random
weights, ids, scored tokens, pairs of every optimizer step and their order, AdamW, rate and clipping. One pass
over the pairs, so the reference is computed once for each pair and counts: TRL's default computes it live,
TRL's best and ours beforehand.

- `ours`: `ChatTrainer` as `recipes/dpo.py` runs it.
- `trl default`: `DPOConfig()` at 8 pairs a device, or as many as fit, the rest of a step by accumulation;
  checkpointed.
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
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.preference_setup import SHAPES, make_model, make_pairs  # noqa: E402

SHARED = Path(os.environ.get("TUNING_SHARED", ROOT.parent / "shared"))
SYSTEMS = ("ours", "trl default", "trl best")
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "MemoryError")


def run_one(
    given: argparse.Namespace, place: Path, system: str, steps: int, micro: int
) -> dict[str, Any] | None:
    """What a process of its own measured; None if it needed more memory than there is."""
    job = {"system": system, "steps": steps, "pairs": given.pairs, "micro": micro, "tokens": given.tokens}
    job["memory"] = given.memory
    command = [sys.executable, __file__, "--tokenizer", str(given.tokenizer), "--job", json.dumps(job)]
    done = subprocess.run([*command, "--place", str(place)], capture_output=True, text=True, check=False)
    if done.returncode and any(words in done.stderr for words in OUT_OF_MEMORY):
        return None
    if done.returncode:
        raise SystemExit(f"{system} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def rate(run: dict[str, Any], clock: int = 0) -> float:
    """Pairs per second of wall time (clock 0) or CPU time (1), the reference pass counted."""
    return float(run["pairs"] / (run["reference"][clock] + run["training"][clock]))


def sweep(given: argparse.Namespace, place: Path) -> int:
    """TRL's fastest number of pairs a device, each tried on one step."""
    sizes = [int(size) for size in given.sweep.split(",") if given.pairs % int(size) == 0]
    if len(sizes) == 1:
        return sizes[0]
    found: dict[int, float] = {}
    print("| TRL, references precomputed, pairs a device | pairs/s | peak MiB |\n| ---: | ---: | ---: |")
    for size in sizes:
        run = run_one(given, place, "trl best", 1, size)
        if run is not None:
            found[size] = rate(run)
        cells = f"{rate(run):.3f} | {run['peak']}" if run is not None else "| out of memory"
        print(f"| {size} | {cells} |", flush=True)
    print()
    return max(found, key=lambda size: found[size])


def compare(given: argparse.Namespace, place: Path) -> None:
    """Prints the table of all systems and what ours gains."""
    micro = {"ours": 0, "trl default": min(8, given.pairs), "trl best": sweep(given, place)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    for _ in range(given.rounds):
        for name in SYSTEMS:
            latest = run_one(given, place, name, given.steps, micro[name])
            while latest is None:
                if micro[name] < 2:
                    raise SystemExit(f"{name} needs more memory than there is")
                micro[name] //= 2
                print(f"{name}: out of memory, now {micro[name]} pairs a device", file=sys.stderr, flush=True)
                latest = run_one(given, place, name, given.steps, micro[name])
            runs[name].append(latest)
            print(f"{name}: {rate(latest):.3f} pairs/s, {latest['peak']} MiB", file=sys.stderr, flush=True)
    print(
        "| system | pairs a device | pairs/s (median) | all | pairs per CPU second | reference s "
        "| training s | token slots a pair | peak MiB | after loading |\n"
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for name, results in runs.items():
        every = " ".join(f"{rate(run):.3f}" for run in results)
        spent = [statistics.median(run[part][0] for run in results) for part in ("reference", "training")]
        cells = [
            name,
            micro[name] or "by tokens",
            f"{statistics.median(map(rate, results)):.3f}",
            every,
            f"{statistics.median(rate(run, 1) for run in results):.3f}",
            *(f"{seconds:.1f}" for seconds in spent),
            f"{results[0]['tokens'] / results[0]['pairs']:.0f}",
            max(run["peak"] for run in results),
            results[0]["baseline"],
        ]
        print(f"| {' | '.join(map(str, cells))} |")
    losses = runs["ours"][0]["losses"]
    print(f"\nOur loss goes from {losses[0]:.6f} to {losses[-1]:.6f} in {len(losses)} steps.")
    for name in SYSTEMS[1:]:
        rounds = list(zip(runs["ours"], runs[name], strict=True))
        by_wall, by_cpu = (
            statistics.median(rate(mine, clock) / rate(theirs, clock) for mine, theirs in rounds)
            for clock in (0, 1)
        )
        memory = max(mine["peak"] for mine, _ in rounds) / max(theirs["peak"] for _, theirs in rounds)
        worst = max(
            abs(one - other)
            for mine, theirs in rounds
            for one, other in zip(mine["losses"], theirs["losses"], strict=True)
        )
        print(
            f"Against {name}: {by_wall:.1f} times the pairs/s ({by_cpu:.1f} by CPU seconds; medians over "
            f"rounds), {memory:.0%} of the peak memory; losses differ by at most {worst:.1e}."
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
    parser.add_argument("--memory", type=float, help="GiB that a run may take, on a CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--products", action="store_true", help="our step beside its matrix products")
    parser.add_argument("--shared", type=Path, default=SHARED / "data", help="the folder of hh-rlhf/")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "llm-jp-v3")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(given.threads))
    if given.job is not None:
        from tests.benchmarks.preference_systems import job_of_child

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
            from tests.benchmarks.preference_systems import our_trainer
            from tests.benchmarks.products import print_products

            trainer, store = our_trainer(
                place / "model", pairs, {"pairs": given.pairs, "tokens": given.tokens}, place / "output"
            )
            print_products(trainer, store, given.rounds)
        else:
            compare(given, place)


if __name__ == "__main__":
    main()
