"""What fingerprints hold besides settings: the contents of data, template, tokenizer and checkpoint files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tuning.config import TRAINED_STAGES, Recipe
from tuning.pipeline.execution import Run, is_first_process
from tuning.records import fingerprint, read_json, sha256_of_file, write_json


def data_hash(this: Run, name: str) -> str:
    """Digest of a source's built rows, as its manifest says."""
    return str(this.manifests[name]["data_sha256"])


def mixed(this: Run, name: str) -> dict[str, str]:
    """The digests of what a training stage mixes, by source; none if the recipe has no such stage."""
    config = getattr(this.recipe, name)
    return {source: data_hash(this, source) for source in config.mix} if config else {}


def held_out(recipe: Recipe, stages: Iterable[str] = TRAINED_STAGES) -> dict[str, list[list[Any]]]:
    """Per stage its sources in order, the rows held out of each, and whether the mix entry itself names
    them."""
    return {
        stage: [
            [
                source,
                next(held for held in (entry.dev_share, entry.dev_rows, config.dev_rows) if held is not None),
                entry.dev_rows is not None or entry.dev_share is not None,
            ]
            for source, entry in config.mix.items()
        ]
        for stage, config in ((stage, getattr(recipe, stage)) for stage in stages)
        if config is not None
    }


def template_content(recipe: Recipe) -> str:
    """Digest of the template file; `base` stands for the checkpoint's own, which counts with its files."""
    if recipe.template == "base":
        return "base"
    path = Path(recipe.template)
    if path.suffix != ".jinja":
        path = Path(__file__).parents[1] / "chat" / "templates" / f"{recipe.template}.jinja"
    return sha256_of_file(path)


def tokenizer_content(this: Run) -> str | None:
    """What decides ids besides the base itself."""
    return model_content(this, this.recipe.tokenizer) if this.recipe.tokenizer else None


def model_content(this: Run, folder_or_hub_id: str) -> str:
    """Digest of a checkpoint folder's files; hashes of unchanged files are remembered by size and date."""
    folder = Path(folder_or_hub_id)
    if not folder.is_dir():
        return folder_or_hub_id
    memory_file = this.cache / "hashes.json"
    memory: dict[str, str] = read_json(memory_file) if memory_file.is_file() else {}
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = path.stat()
        key = f"{path.absolute()}:{status.st_size}:{status.st_mtime_ns}"
        memory[key] = digests[path.relative_to(folder).as_posix()] = memory.get(key) or sha256_of_file(path)
    if is_first_process():
        write_json(memory_file, memory)
    return fingerprint(digests)
