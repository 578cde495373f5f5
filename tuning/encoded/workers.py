"""Several processes that encode the parts of a source: `python -m tuning.encoded.workers JOB`.

Plain child processes and not a pool: a pool imports the caller's script again, which a notebook or a script
without a main guard does not survive. A worker that dies leaves its part to the caller, who writes what is
missing himself.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tuning.chat import Template

if TYPE_CHECKING:
    from tuning.progress import Progress


def write_with_workers(
    data: Path,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    legacy: str | None,
    missing: Mapping[Path, tuple[int, int]],
    workers: int,
    progress: Progress,
) -> None:
    """Has the missing parts (folder -> piece of `data`) written by `workers` processes; returns when all of
    them have ended."""
    from tuning.encoded.source import tokenizer_fingerprint

    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        running = []
        for worker in range(workers):
            job = Path(place) / f"job-{worker}.json"
            # Every worker knows all parts and begins with its own share; a lock that is taken is passed over.
            own = list(missing)[worker::workers]
            parts = own + [folder for folder in missing if folder not in own]
            task = {
                "data": str(data.resolve()),
                "tokenizer": place,
                "fingerprint": tokenizer_fingerprint(tokenizer),
                "template": [template.name, template.source],
                "legacy": legacy,
                "parts": [[missing[folder], str(folder.resolve())] for folder in parts],
            }
            job.write_text(json.dumps(task), encoding="utf-8")
            command = [sys.executable, "-m", "tuning.encoded.workers", str(job)]
            environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _import_path()}
            running.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
                )
            )
        readers = [threading.Thread(target=_follow, args=(process, progress)) for process in running]
        try:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
        finally:
            for process in running:
                process.kill()
                process.wait()


def _follow(process: subprocess.Popen[str], progress: Progress) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("rows "):
            progress.advance(int(line.split()[1]))


def _import_path() -> str:
    """The caller's own, so that the workers run the same code."""
    return os.pathsep.join(path for path in (str(Path(__file__).parents[2]), *sys.path) if path)


def main(job: str) -> None:
    """Writes the parts of a job that nobody else has begun."""
    from tuning.encoded.source import tokenizer_fingerprint, write_missing

    numbers = itertools.count(1)

    def report() -> None:
        if next(numbers) % 256 == 0:
            print("rows 256", flush=True)

    task = json.loads(Path(job).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(task["tokenizer"])
    if tokenizer_fingerprint(tokenizer) != task["fingerprint"]:
        return  # saving has changed it: the caller, who has the real one, does the work
    template = Template(*task["template"])
    data, legacy = Path(task["data"]), task["legacy"]
    for piece, folder in task["parts"]:
        write_missing(data, piece, Path(folder), tokenizer, template, legacy, report, waits=False)


if __name__ == "__main__":
    main(sys.argv[1])
