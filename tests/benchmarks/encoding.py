"""How fast rows become packed ids, beside TRL's own preparation of the same rows; and in how much memory.

    python tests/benchmarks/encoding.py [--rows 4000] [--repeats 3]
    python tests/benchmarks/encoding.py --memory

Real dialogues (`tests/chat/real_data.py`) under `llm-jp-v3`; `--data` and `--tokenizer` name the folders that
hold them. One process, no threads, CPU seconds of this process and its children, from one JSONL file to
packed rows. Ours is what a training run does with a cold cache: `encoded_source` (JSON, template, ids,
targets, files on disk), then the rows read back, grown into trees and partitioned by tokens. TRL's is
`datasets.load_dataset` and `SFTTrainer._prepare_dataset` with `assistant_only_loss` and `packing`. Both have
to give the same ids and targets, row for row; `num_header_bytes_scored` tells the one exception.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
SHARED = Path(os.environ.get("TUNING_SHARED", ROOT.parent / "shared"))
MAX_LENGTH, BATCH_ROWS = 8192, 64
MEMORY_ROWS = (10_000, 100_000, 500_000)
TEMPLATE = "llm-jp-v3"

Encoded = Counter[tuple[bytes, bytes]]
"""How often each pair of ids (int32) and targets (bool) occurs."""


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def real_rows(data: Path, number: int) -> list[list[dict[str, str]]]:
    """Real dialogues without empty texts; an `input` stands behind its question, as llm-jp-v3 writes it."""
    from tests.chat.real_data import gathered

    rows = [row for row in gathered(data) if all(m["content"] for m in row)][:number]
    if len(rows) < number:
        raise SystemExit(f"--rows {number}: {data} has {len(rows)} different dialogues")
    return [
        [
            {"role": m["role"], "content": "\n\n".join(filter(None, [m["content"], m.get("input")]))}
            for m in row
        ]
        for row in rows
    ]


def write_rows(path: Path, rows: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, messages in enumerate(rows):
            row = {"id": f"r{number}", "source": "benchmark", "messages": messages}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def ours(file: Path, tokenizer: Any) -> tuple[float, Encoded]:
    """CPU seconds, and what came of it."""
    from tuning.chat import load_template
    from tuning.chat.lines import lines_of
    from tuning.chat.rendering import bind
    from tuning.encoded import encoded_source
    from tuning.forest import Sequence, grow, partition

    found: Encoded = Counter()
    lines = lines_of(bind(tokenizer, load_template(TEMPLATE)))
    if lines is not None and lines.stretches is not None:
        lines.stretches.forget()
    with TemporaryDirectory() as cache:
        started = cpu_seconds()
        rows = list(encoded_source(file, tokenizer, load_template(TEMPLATE), cache, workers=1))
        trees = [grow([Sequence(item.input_ids, item.is_target) for item in row.result]) for row in rows]
        for first in range(0, len(trees), BATCH_ROWS):
            sizes = [tree.num_tokens for tree in trees[first : first + BATCH_ROWS]]
            partition(sizes, 1, MAX_LENGTH)
        seconds = cpu_seconds() - started
        for row in rows:
            assert not isinstance(row.result, str), f"row {row.id} has no ids: {row.result}"
            found.update((item.input_ids.tobytes(), item.is_target.tobytes()) for item in row.result)
    return seconds, found


def trl(file: Path, tokenizer: Any) -> tuple[float, Encoded]:
    """CPU seconds, and what came of it."""
    import numpy as np
    from datasets import disable_caching, disable_progress_bars, load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    disable_caching()
    disable_progress_bars()
    seconds = 0.0

    class Timed(SFTTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, *args: Any, **options: Any) -> Any:
            nonlocal seconds
            started = cpu_seconds()
            prepared = super()._prepare_dataset(*args, **options)
            seconds += cpu_seconds() - started
            return prepared

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with TemporaryDirectory() as output:
        started = cpu_seconds()
        rows = load_dataset("json", data_files=str(file), cache_dir=output, split="train")
        seconds = cpu_seconds() - started
        trainer = Timed(
            model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **small)),
            args=SFTConfig(
                output_dir=output,
                assistant_only_loss=True,
                packing=True,
                max_length=MAX_LENGTH,
                report_to=[],
                bf16=False,
                use_cpu=True,
            ),
            train_dataset=rows.select_columns("messages"),
            processing_class=tokenizer,
        )
    found: Encoded = Counter()
    for packed in trainer.train_dataset:
        ends = np.cumsum(packed["seq_lengths"])[:-1]
        ids = np.split(np.array(packed["input_ids"], dtype=np.int32), ends)
        labels = np.split(np.array(packed["labels"]), ends)
        found.update((a.tobytes(), (b != -100).tobytes()) for a, b in zip(ids, labels, strict=True))
    return seconds, found


def with_generation_marks(source: str) -> str:
    """The template as TRL needs it: the answer and its end token inside {% generation %}."""
    plain = "{{ '\\n\\n### 応答:\\n' + message['content'] + eos_token }}"
    marked = "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    assert source.count(plain) == 1
    return source.replace(plain, "{{ '\\n\\n### 応答:\\n' }}" + marked)


def compare(data: Path, folder: Path, number: int, repeats: int) -> None:
    """Prints rows per CPU second of both, measured in turns, first run not counted."""
    from transformers import AutoTokenizer

    from tuning.chat import load_template

    rows = real_rows(data, number)
    tokenizer, marked = (AutoTokenizer.from_pretrained(folder) for _ in range(2))
    load_template(TEMPLATE).install(tokenizer)
    load_template(TEMPLATE).install(marked)
    marked.chat_template = with_generation_marks(load_template(TEMPLATE).source)
    with TemporaryDirectory() as place:
        file = Path(place) / "data.jsonl"
        write_rows(file, rows)
        runs: dict[str, Callable[[], tuple[float, Encoded]]] = {
            "tuning": lambda: ours(file, tokenizer),
            "trl": lambda: trl(file, marked),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats + 1):
            results = {}
            for name, run in runs.items():
                taken, results[name] = run()
                seconds[name].append(taken)
            header_bytes = num_header_bytes_scored(results["tuning"], results["trl"], tokenizer)
    tokens = sum(len(ids) // 4 * times for (ids, _), times in results["tuning"].items())
    print(
        f"{number} real dialogues, {tokens} tokens. Both give the same ids, row for row, and the same\n"
        f"targets but in {header_bytes} rows, whose answers begin with a byte token: there TRL also scores\n"
        "the line break of the header, which is part of the prompt when the model is served.\n"
    )
    print("| preparation | CPU seconds (median) | all | rows per CPU second |")
    print("| --- | ---: | --- | ---: |")
    for name, taken in seconds.items():
        median = statistics.median(taken[1:])
        every = " ".join(f"{value:.2f}" for value in taken[1:])
        print(f"| {name} | {median:.2f} | {every} | {number / median:.0f} |")
    ratio = statistics.median(seconds["trl"][1:]) / statistics.median(seconds["tuning"][1:])
    print(f"\nTRL takes {ratio:.2f} times the CPU time.")


def num_header_bytes_scored(one: Encoded, other: Encoded, tokenizer: Any) -> int:
    """In how many rows TRL also scores the header's line break: where the answer begins with a character that
    has no piece, both have the same offset, and TRL takes the first token at it. Ends the script at any
    other difference."""
    import numpy as np

    wider = {}
    for ids, targets in other - one:
        wider.setdefault(ids, []).append(np.frombuffer(targets, dtype=bool))
    differing = one - other
    for ids, targets in differing:
        tokens = tokenizer.convert_ids_to_tokens(np.frombuffer(ids, dtype=np.int32).tolist())
        is_byte = np.array([token.startswith("<0x") for token in tokens])
        ours = np.frombuffer(targets, dtype=bool)
        if ids not in wider:
            raise SystemExit(f"a row has other ids than TRL's: {tokens[:40]}")
        for theirs in wider[ids]:
            extra = theirs & ~ours
            opens_answer = np.append(~ours[:-1] & ours[1:] & is_byte[:-1] & is_byte[1:], False)
            if (ours & ~theirs).any() or (extra & ~opens_answer).any():
                raise SystemExit(f"a row has other targets than TRL's: {tokens[:40]}")
    return differing.total()


def memory(data: Path, folder: Path, sizes: tuple[int, ...]) -> None:
    """Prints the peak memory of processes that encode ever more rows and read them all back."""
    short = [row for row in real_rows(data, 4_000) if sum(len(m["content"]) for m in row) < 200]
    print("| rows | tokens | MiB before | peak MiB, encoding | peak MiB, reading all | seconds |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for number in sizes:
        with TemporaryDirectory() as place:
            changed = (
                [{**m, "content": f"{index} {m['content']}"} for m in short[index % len(short)]]
                for index in range(number)
            )
            write_rows(Path(place) / "data.jsonl", changed)
            command = [sys.executable, __file__, "--tokenizer", str(folder), "--encode-in", place]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seen = json.loads(done.stdout)
        figures = " | ".join(str(seen[key]) for key in ("tokens", "before", "encoding", "reading", "seconds"))
        print(f"| {number} | {figures} |", flush=True)


def encode_in(place: Path, folder: Path) -> None:
    """What one of those processes does."""
    import resource

    from transformers import AutoTokenizer

    from tuning.chat import encode, load_template
    from tuning.encoded import encoded_source

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    tokenizer, template = AutoTokenizer.from_pretrained(folder), load_template(TEMPLATE)
    row = [{"role": "user", "content": "い</s>"}, {"role": "assistant", "content": "は"}]
    encode(row, tokenizer, template)  # makes what is made once: copies of the tokenizer
    seen: dict[str, Any] = {"before": peak()}
    started = time.monotonic()
    rows = encoded_source(place / "data.jsonl", tokenizer, template, place / "cache", workers=1)
    seen |= {"encoding": peak(), "seconds": round(time.monotonic() - started)}
    seen["tokens"] = sum(len(item.input_ids) for row in rows for item in row.result)
    seen["reading"] = peak()
    print(json.dumps(seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=4_000, help="real dialogues to compare on")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each, after one that is not")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory of 10k, 100k and 500k rows instead"
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "llm-jp-v3")
    parser.add_argument("--encode-in", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.encode_in is not None:
        encode_in(given.encode_in, given.tokenizer)
        return
    for folder in (given.data, given.tokenizer):
        if not folder.is_dir():
            raise SystemExit(f"{folder} is not here; name the folder with --data or --tokenizer")
    packages = ("tokenizers", "transformers", *(() if given.memory else ("trl", "datasets")))
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}; {platform.machine()}, {os.cpu_count()} cores\n")
    if given.memory:
        memory(given.data, given.tokenizer, MEMORY_ROWS)
    else:
        compare(given.data, given.tokenizer, given.rows, given.repeats)


if __name__ == "__main__":
    main()
