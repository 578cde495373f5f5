"""Stages, fingerprints, reuse: one recipe from raw data to a released model, each step done once.

    data -> base (only for `tiny`) -> sft -> dpo -> evaluate -> release

A stage's fingerprint is made of everything that changes its result: contents of data, template and tokenizer
files, the recipe's keys, the version of each room, the fingerprint of the stage before. Same fingerprint and
finished: reused. Same and unfinished: resumed. Different: the old folder is renamed `sft@<hash8>`, never
deleted, and taken up again if the recipe returns to it. This module imports no torch, so that a run with
nothing to do is over at once.
"""

from __future__ import annotations

import glob
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_builders import BuilderError, build, builders
from data_builders.info import BuilderInfo, checked_options
from data_builders.reading import open_input
from tuning.config import Problem, Recipe, RecipeError, TrainConfig
from tuning.records import (
    changed_keys,
    check_counts,
    fingerprint,
    read_json,
    read_record,
    sha256_of_file,
    write_json,
    write_text,
)

STAGES = ("data", "base", "sft", "dpo", "evaluate", "release")
VERSIONS = {"data": 1, "base": 1, "sft": 1, "dpo": 1, "evaluate": 1, "release": 1}
"""Raised when a stage's code changes what comes out of the same input."""

WITHOUT_EFFECT = {
    "tokens_per_device",
    "log_steps",
    "eval_steps",
    "save_steps",
    "keep_checkpoints",
    "report_to",
    "mix",
}
"""Keys of a training stage that do not change its weights; `mix` is fingerprinted by itself, in its order."""

ON_THE_CARD = (
    *("data_sha256", "builder", "revision", "rows_in", "rows_kept", "rows_dropped"),
    *("languages", "licence", "attribution", "use_restrictions"),
)
"""What of a manifest the released card shows: a change releases again, though the rows are the same."""


class StageError(RuntimeError):
    """A stage that failed for a reason that the user can mend; the message says which stage and how."""


@dataclass
class Run:
    """One execution of a recipe: where its stages lie and what each of them left."""

    recipe: Recipe
    output: Path
    fingerprints: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    quiet: bool = False

    def folder(self, stage: str) -> Path:
        return self.output / stage

    @property
    def cache(self) -> Path:
        return self.output / "cache"

    def say(self, text: str) -> None:
        if not self.quiet and is_first_process():
            print(text, file=sys.stderr, flush=True)


def run(
    recipe: Recipe, *, from_stage: str | None = None, to_stage: str | None = None, quiet: bool = False
) -> dict[str, Path]:
    """Runs the recipe's stages, reusing what is current; returns their folders by name.

    `from_stage` runs that stage and those behind it again even if they are current; `to_stage` is the last to
    run. Raises `RecipeError` before anything is written if the recipe cannot run.
    """
    problems = check(recipe)
    if problems:
        raise RecipeError(problems)
    this = Run(recipe, Path(recipe.output).absolute(), quiet=quiet)
    stages = stages_of(recipe)
    for name, wanted in (("--from", from_stage), ("--to", to_stage)):
        if wanted is not None and wanted not in stages:
            raise StageError(f"{name} {wanted}: this recipe has the stages {', '.join(stages)}")
    last = stages.index(to_stage) if to_stage else len(stages) - 1
    again = stages.index(from_stage) if from_stage else len(stages)
    if from_stage and again > last:
        raise StageError(f"--from {from_stage} --to {to_stage}: {from_stage} comes after {to_stage}")
    paths: dict[str, Path] = {}
    for number, stage in enumerate(stages[: last + 1]):
        paths[stage] = _STAGES[stage](this, number >= again)
    return paths


def stages_of(recipe: Recipe) -> list[str]:
    """The stages that this recipe has, in their order."""
    present = {
        "data": bool(recipe.data),
        "base": recipe.base == "tiny",
        **{stage: getattr(recipe, stage) is not None for stage in ("sft", "dpo", "evaluate", "release")},
    }
    return [stage for stage in STAGES if present[stage]]


def check(recipe: Recipe) -> list[Problem]:
    """What would stop this recipe, seen without weights, GPU or writing: options of builders, licences,
    checkpoint."""
    problems: list[Problem] = []

    def add(key: str, message: str) -> None:
        problems.append(problem_at(recipe, key, message))

    known = builders()
    for name, source in recipe.data.items():
        info = known[source.builder]
        for option, value in source.options.items():
            try:
                checked_options(info, {option: value})
            except BuilderError as error:
                add(f"data.{name}.options.{option}", str(error))
        for number, file in enumerate(source.input):
            try:
                open_input(file)
            except BuilderError as error:
                add(f"data.{name}.input[{number}]", f"data.{name}.input: {error}")
        terms = _terms_against(recipe.use, info, source.licence)
        if terms:
            places = ", ".join([f"data.{name}", *_uses_of(recipe, name)])
            add(f"data.{name}", f"use: commercial is forbidden by {name} ({terms}); remove {places}")
    output = Path(recipe.output).absolute()
    in_the_way = next((path for path in (output, *output.parents) if path.is_file()), None)
    if in_the_way is not None:
        add("output", f"output: {_shown(in_the_way)} is a file; accepted: a folder, or a name for a new one")
    if recipe.base == "tiny" and recipe.template == "base":
        message = "template: base is the checkpoint's own, and base: tiny has none"
        add("template", f"{message}; accepted: a name or a .jinja file")
    start = Path(recipe.base)
    if recipe.base != "tiny" and start.is_dir():
        if not (start / "config.json").is_file():
            add("base", f"{recipe.base} has no config.json; a Hugging Face checkpoint folder is accepted")
        elif not any(start.glob("*.safetensors")):
            add("base", f"{recipe.base} has no *.safetensors; pickled weights are not loaded, convert them")
    tokenizer = Path(recipe.tokenizer or recipe.base)
    if tokenizer.is_dir() and not (tokenizer / "tokenizer.json").is_file():
        key = "tokenizer" if recipe.tokenizer else "base"
        add(key, f"{tokenizer} has no tokenizer.json; a fast tokenizer is needed")
    return problems


def preview(recipe: Recipe, *, rows: int = 2, html: Path | None = None) -> None:
    """Shows what the model will be trained on, coloured, with counts per source; builds the data if it is not
    there.

    With `html`, also writes a self-contained page. Needs the tokenizer, no weights.
    """
    from tuning.stage import preview_sequences, preview_tokenizer

    problems = check(recipe)
    if problems:
        raise RecipeError(problems)
    this = Run(recipe, Path(recipe.output).absolute())
    _data(this, again=False)
    paths = _paths(this, "sft" if recipe.sft else "dpo")
    tokenizer, template = preview_tokenizer(recipe, paths, this.folder("base") / "model")
    sequences = preview_sequences(recipe, paths, tokenizer, template)
    from tuning.chat import preview_html, preview_terminal

    preview_terminal(sequences, tokenizer, per_source=rows)
    if html is not None:
        write_text(html, preview_html(sequences, tokenizer, title=f"{recipe.name}: what it is trained on"))
        this.say(f"written: {html}")


def _terms_against(use: str, info: BuilderInfo, licence: str | None) -> str | None:
    """The terms of a source that forbid the declared use, or None; a licence that the recipe states comes
    first."""
    if use != "commercial":
        return None
    if licence is not None:
        words = licence.lower().replace("_", "-").replace(" ", "-")
        is_free = not any(mark in words for mark in ("-nc", "noncommercial", "non-commercial"))
        return None if is_free else licence
    terms = [info.licence, "; ".join(info.use_restrictions)]
    return None if info.commercial else ": ".join(filter(None, terms))


def _uses_of(recipe: Recipe, source: str) -> list[str]:
    """The keys of the recipe that name a source, besides its own under `data`."""
    stages = [(name, getattr(recipe, name)) for name in ("sft", "dpo")]
    uses = [f"{name}.mix.{source}" for name, config in stages if config and source in config.mix]
    return uses + (["evaluate.questions"] if recipe.evaluate and source in recipe.evaluate.questions else [])


def problem_at(recipe: Recipe, key: str, message: str) -> Problem:
    """A problem at the line where the recipe says `key`, or the nearest key above it."""
    name = key
    while name and name not in recipe.origin:
        name = name[: max(name.rfind("."), name.rfind("["), 0)]
    file, _, rest = recipe.origin.get(name, recipe.files[0] if recipe.files else "recipe").partition(":")
    line = rest.split(":")[0]
    return Problem(file, int(line) if line.isdigit() else None, None, key, message)


# The stages


def _data(this: Run, again: bool) -> Path:
    for name, source in this.recipe.data.items():
        info = builders()[source.builder]
        inputs = {
            "builder": source.builder,
            "builder_version": info.version,
            # A list: the order makes the rows' ids, and two files may have one name in different folders.
            "files": [[Path(file).name, sha256_of_file(file)] for file in source.input],
            "options": source.options,
            "on_bad_row": source.on_bad_row,
            "licence": source.licence,
            "language": source.language,
            "version": VERSIONS["data"],
        }

        def work(folder: Path, name: str = name, source: Any = source) -> dict[str, Any]:
            manifest = build(
                source.builder,
                source.input,
                folder,
                source=name,
                on_bad_row=source.on_bad_row,
                licence=source.licence,
                language=source.language,
                **source.options,
            )
            check_counts(manifest, name)
            dropped = ", ".join(f"{code} {count}" for code, count in manifest["rows_dropped"].items())
            this.say(
                f"  {name}: {manifest['rows_in']} rows in, {manifest['rows_kept']} kept"
                + (f", dropped: {dropped}" if dropped else "")
            )
            return {}

        stage(this, f"data/{name}", inputs, work, again)
        manifest = read_json(this.folder("data") / name / "manifest.json")
        this.manifests[name] = manifest | {"revision": source.revision}
    return this.folder("data")


def _base(this: Run, again: bool) -> Path:
    recipe = this.recipe
    inputs = {
        "tiny": recipe.as_dict()["tiny"],
        "seed": recipe.seed,
        "precision": recipe.precision,
        "template": _template_content(recipe),
        "tokenizer": this_tokenizer(this),
        "data": _mixed(this, "sft") | _mixed(this, "dpo"),
        "held_out": _held_out(recipe),
        "version": VERSIONS["base"],
    }
    return stage(
        this, "base", inputs, lambda folder: _story("base").train(recipe, _paths(this, "base")), again
    )


def _training(name: str) -> Callable[[Run, bool], Path]:
    def train(this: Run, again: bool) -> Path:
        recipe = this.recipe
        config: TrainConfig = getattr(recipe, name)
        values = recipe.as_dict()[name]
        inputs = {
            "settings": {key: value for key, value in values.items() if key not in WITHOUT_EFFECT},
            "mix": [[source, entry] for source, entry in values["mix"].items()],
            "data": _mixed(this, name),
            "seed": recipe.seed,
            "precision": recipe.precision,
            "template": _template_content(recipe),
            "tokenizer": this_tokenizer(this),
            "start": _start_fingerprint(this, name),
            "version": VERSIONS[name],
        }
        this.say(f"{name}: {len(config.mix)} sources from {_start(this, name)}")
        return stage(this, name, inputs, lambda folder: _story(name).train(recipe, _paths(this, name)), again)

    return train


def _evaluate(this: Run, again: bool) -> Path:
    recipe = this.recipe
    assert recipe.evaluate is not None
    models = models_of(this)
    inputs = {
        "settings": recipe.as_dict()["evaluate"],
        "models": {name: this.fingerprints.get(name) or _start_fingerprint(this, "sft") for name in models},
        "data": _mixed(this, "sft") | _mixed(this, "dpo"),
        "questions": {source: _data_hash(this, source) for source in recipe.evaluate.questions},
        "held_out": _held_out(recipe),
        "max_length": [config.max_length for config in (recipe.sft, recipe.dpo) if config is not None],
        "template": _template_content(recipe),
        "seed": recipe.seed,
        "version": VERSIONS["evaluate"],
    }
    folder = stage(
        this,
        "evaluate",
        inputs,
        lambda folder: _story("evaluate").evaluate(recipe, _paths(this, "evaluate"), models),
        again,
    )
    from tuning.evaluate.table import comparison, plain

    this.say("\n" + plain(comparison(this.records["evaluate"]["figures"])) + "\n")
    return folder


def _release(this: Run, again: bool) -> Path:
    recipe = this.recipe
    assert recipe.release is not None
    source = recipe.release.from_ or _last_trained(this)
    trained = [name for name in ("sft", "dpo") if name in this.records]
    behind = trained[trained.index(source) + 1 :] if source in trained else []
    records = {name: record for name, record in this.records.items() if name not in behind}
    # The tiny base has read the text of every mix; of a real base only the stages up to the released one
    # count.
    mixes = trained if recipe.base == "tiny" else [name for name in trained if name not in behind]
    used = {entry for name in mixes for entry in getattr(recipe, name).mix}
    manifests = {name: manifest for name, manifest in this.manifests.items() if name in used}
    inputs = {
        "settings": recipe.as_dict()["release"],
        "from": this.fingerprints.get(source) or source,
        "evaluate": this.fingerprints.get("evaluate"),
        "name": recipe.name,
        "use": recipe.use,
        "data": {name: {key: manifest[key] for key in ON_THE_CARD} for name, manifest in manifests.items()},
        "version": VERSIONS["release"],
    }

    def work(folder: Path) -> dict[str, Any]:
        paths = _paths(this, "release")
        return _story("release").release(
            recipe, paths, records=records, manifests=manifests, recipe_yaml=recipe_text(recipe)
        )

    folder = stage(this, "release", inputs, work, again)
    this.say(f"released: {_shown(folder)}\ntalk to it: tuning chat {_shown(folder)}")
    return folder


_STAGES: dict[str, Callable[[Run, bool], Path]] = {
    "data": _data,
    "base": _base,
    "sft": _training("sft"),
    "dpo": _training("dpo"),
    "evaluate": _evaluate,
    "release": _release,
}


# Reuse, resume, keep


def stage(
    this: Run, name: str, inputs: dict[str, Any], work: Callable[[Path], dict[str, Any]], again: bool
) -> Path:
    """Does a stage's work unless its folder already holds the result of the same inputs."""
    folder, key = this.folder(name), fingerprint(inputs)
    this.fingerprints[name] = key
    record = read_record(folder)
    if record is not None and record["fingerprint"] == key and not again and _is_whole(folder, record):
        this.say(f"{name}: reused")
        this.reused.append(name)
        this.records[name] = record["result"]
        return folder
    if is_first_process():
        _make_room(this, name, folder, key, inputs, again)
        record = read_record(folder)
        if record is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "started.json", {"fingerprint": key, "inputs": inputs})
    _wait_for_all()
    record = read_record(folder)
    if record is not None and record["fingerprint"] == key and not again:
        this.say(f"{name}: taken up again from an earlier run")
        this.reused.append(name)
        this.records[name] = record["result"]
        return folder
    started = time.monotonic()
    this.say(f"{name}: running")
    result = work(folder)
    if is_first_process():
        write_json(
            folder / "record.json",
            {
                "stage": name,
                "fingerprint": key,
                "inputs": inputs,
                "result": result,
                "files": _files(folder),
                "seconds": time.monotonic() - started,
                "versions": _versions(),
            },
        )
        (folder / "started.json").unlink(missing_ok=True)
    _wait_for_all()
    this.records[name] = result
    this.say(f"{name}: done in {time.monotonic() - started:.1f} s")
    return folder


def _make_room(this: Run, name: str, folder: Path, key: str, inputs: dict[str, Any], again: bool) -> None:
    """Renames a folder made from other inputs; takes back an older one made from these."""
    if not folder.is_dir():
        _take_back(folder, key, this, name)
        return
    started = folder / "started.json"
    old = read_record(folder) or (read_json(started) if started.is_file() else None)
    if old is None:
        if any(folder.iterdir()):
            _keep(folder, "unknown")
            this.say(f"{name}: a folder without a record was in the way; it is kept beside")
        return
    is_unfinished = read_record(folder) is None
    if old["fingerprint"] == key and is_unfinished and not again:
        return  # resumed
    if is_unfinished and [path.name for path in folder.iterdir()] == ["started.json"]:
        # An attempt that failed before it made anything, such as a build stopped by a malformed row.
        shutil.rmtree(folder)
        if not again:
            _take_back(folder, key, this, name)
        return
    if old["fingerprint"] != key:
        keys = changed_keys(old["inputs"], inputs)
        this.say(f"{name}: changed: {', '.join(keys) or 'everything'}")
    elif not again:
        this.say(f"{name}: files of the result are missing or cut short")
    kept = _keep(folder, old["fingerprint"][:8])
    this.say(f"{name}: the old result is kept as {kept.name}")
    if old["fingerprint"] != key:
        _take_back(folder, key, this, name)


def _keep(folder: Path, suffix: str) -> Path:
    kept = folder.with_name(f"{folder.name}@{suffix}")
    number = 1
    while kept.exists():
        number += 1
        kept = folder.with_name(f"{folder.name}@{suffix}-{number}")
    os.replace(folder, kept)
    return kept


def _take_back(folder: Path, key: str, this: Run, name: str) -> None:
    """Renames a kept folder made from the same inputs back: a whole result first, else an unfinished one."""
    unfinished = None
    for kept in sorted(folder.parent.glob(f"{glob.escape(folder.name)}@{key[:8]}*")):
        record = read_record(kept)
        if record is not None and record["fingerprint"] == key and _is_whole(kept, record):
            os.replace(kept, folder)
            return
        if record is None and (kept / "started.json").is_file():
            unfinished = kept if read_json(kept / "started.json")["fingerprint"] == key else unfinished
    if unfinished is not None:
        os.replace(unfinished, folder)


def _files(folder: Path) -> dict[str, int]:
    """Sizes of a stage's result files, by name; checkpoints and logs are not results."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    skip = ("checkpoints", "started.json", "record.json", "metrics.jsonl", "evaluation.jsonl")
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(files)
        if path.relative_to(folder).parts[0] not in skip
    }


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in record["files"].items()
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("tuning", "torch", "transformers", "trl", "peft", "accelerate", "tokenizers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


# What goes into fingerprints


def _data_hash(this: Run, name: str) -> str:
    return str(this.manifests[name]["data_sha256"])


def _mixed(this: Run, name: str) -> dict[str, str]:
    config = getattr(this.recipe, name)
    return {source: _data_hash(this, source) for source in config.mix} if config else {}


def _held_out(recipe: Recipe) -> dict[str, list[list[Any]]]:
    """Per stage its sources in order, the rows held out of each, and whether the mix entry itself names
    them."""
    return {
        stage: [
            [
                source,
                config.dev_rows if entry.dev_rows is None else entry.dev_rows,
                entry.dev_rows is not None,
            ]
            for source, entry in config.mix.items()
        ]
        for stage, config in (("sft", recipe.sft), ("dpo", recipe.dpo))
        if config is not None
    }


def _template_content(recipe: Recipe) -> str:
    if recipe.template == "base":
        return "base"
    path = Path(recipe.template)
    if path.suffix != ".jinja":
        path = Path(__file__).parent / "chat" / "templates" / f"{recipe.template}.jinja"
    return sha256_of_file(path)


def this_tokenizer(this: Run) -> str | None:
    """What decides ids besides the base itself."""
    return _model_content(this, this.recipe.tokenizer) if this.recipe.tokenizer else None


def _model_content(this: Run, folder_or_hub_id: str) -> str:
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


def _start(this: Run, name: str) -> str:
    """The checkpoint that a stage starts from: the last model made before it, else the recipe's base."""
    made = [stage for stage in ("base", "sft", "dpo") if stage in this.fingerprints]
    before: list[str] = [stage for stage in made if stage != name]
    if name == "sft":
        before = [stage for stage in before if stage == "base"]
    if name == "release" and this.recipe.release and this.recipe.release.from_:
        before = [this.recipe.release.from_]
    return str(this.folder(before[-1]) / "model") if before else this.recipe.base


def _start_fingerprint(this: Run, name: str) -> str:
    start = Path(_start(this, name))
    for stage in ("base", "sft", "dpo"):
        if start == this.folder(stage) / "model" and stage in this.fingerprints:
            return this.fingerprints[stage]
    return _model_content(this, str(start))


def _last_trained(this: Run) -> str:
    trained = [stage for stage in ("sft", "dpo") if stage in this.fingerprints]
    return trained[-1] if trained else "base"


def models_of(this: Run) -> dict[str, str]:
    """The models that an evaluation compares: stage -> folder."""
    assert this.recipe.evaluate is not None
    everything = {"base": this.recipe.base}
    for name in ("base", "sft", "dpo"):
        if name in this.fingerprints:
            everything[name] = str(this.folder(name) / "model")
    wanted = this.recipe.evaluate.stages
    return {name: path for name, path in everything.items() if wanted is None or name in wanted}


def _paths(this: Run, name: str) -> Any:
    from tuning.stage import Paths

    datasets = {source: this.folder("data") / source for source in this.recipe.data}
    return Paths(_start(this, name), datasets, this.folder(name), this.cache)


def _story(name: str) -> Any:
    """The recipe module of a stage; imported late, since it brings torch."""
    return importlib.import_module(f"recipes.{name}")


def recipe_text(recipe: Recipe) -> str:
    """The whole recipe as YAML, local folders shortened to their names."""
    import yaml

    values = recipe.as_dict()
    for source in values["data"].values():
        source["input"] = [Path(file).name for file in source["input"]]
    for key in ("base", "tokenizer", "template", "data_root", "output"):
        if isinstance(values.get(key), str) and os.path.isabs(values[key]):
            values[key] = Path(values[key]).name
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False)


def is_first_process() -> bool:
    """Whether this process writes folders: the only one, or rank 0 of a launch."""
    return int(os.environ.get("RANK", "0")) == 0


def _wait_for_all() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
