"""The stages: what each is made of, and the recipe module that does its work."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_builders import build, builders
from tuning.config import CHAT_STAGES, TRAINED_STAGES, Recipe, StageConfig
from tuning.pipeline.contents import data_hash, held_out, mixed, template_content, tokenizer_content
from tuning.pipeline.execution import Run, shown
from tuning.pipeline.lineage import (
    last_trained,
    models_of,
    paths_of,
    reward_fingerprints,
    start_fingerprint,
    start_of,
)
from tuning.pipeline.reuse import stage
from tuning.pipeline.screening import screen_data
from tuning.pipeline.terms import released_sources, source_terms, terms_dict, terms_for_card
from tuning.records import check_counts, read_json, read_jsonl, sha256_of_file

VERSIONS = {"data": 2, "base": 1, "sft": 1, "dpo": 1, "reward": 1, "grpo": 2, "evaluate": 1, "release": 1}
"""Raised when a stage's code changes what comes out of the same input."""

WITHOUT_EFFECT = {
    "tokens_per_device",
    "pairs_per_device",
    "log_steps",
    "eval_steps",
    "save_steps",
    "keep_checkpoints",
    "report_to",
    "reference_store",
    "mix",
}
"""Keys of a training stage that do not change its weights; `mix` is fingerprinted by itself, in its order."""

ON_THE_CARD = (
    *("data_sha256", "builder", "revision", "rows_in", "rows_kept", "rows_dropped"),
    *("languages", "licence", "licences", "attribution", "use_restrictions", "licence_instead_of"),
    *("languages", "licence", "attribution", "use_restrictions", "screening"),
)
"""What of a manifest the released card shows: a change releases again, though the rows are the same."""


def build_data(this: Run, again: bool) -> Path:
    """Each source is a stage of its own, with its folder under `data/`."""
    for name, source in this.recipe.data.items():
        info = builders()[source.builder]
        inputs = {
            "builder": source.builder,
            "builder_version": info.version,
            # A list: the order makes the rows' ids, and two files may have one name in different folders.
            "files": [[Path(file).name, sha256_of_file(file)] for file in source.input],
            "options": source.options,
            "on_bad_row": source.on_bad_row,
            # All that holds, so that a corrected licence table writes the manifest again.
            "terms": source_terms(source).as_dict(),
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
                licence_reason=source.licence_reason,
                attribution=source.attribution,
                terms=terms_dict(source.terms),
                language=source.language,
                **source.options,
            )
            check_counts(manifest, name)
            dropped = ", ".join(f"{code} {count}" for code, count in manifest["rows_dropped"].items())
            this.say(
                f"  {name}: {manifest['rows_in']} rows in, {manifest['rows_kept']} kept"
                + (f", dropped: {dropped}" if dropped else "")
            )
            for note in manifest["notes"]:
                this.say(f"    {note}")
            return {}

        stage(this, f"data/{name}", inputs, work, again)
        manifest = read_json(this.folder("data") / name / "manifest.json")
        this.manifests[name] = manifest | {"revision": source.revision}
    return this.folder("data")


def make_base(this: Run, again: bool) -> Path:
    recipe = this.recipe
    inputs = {
        "tiny": recipe.as_dict()["tiny"],
        "seed": recipe.seed,
        "precision": recipe.precision,
        "template": template_content(recipe),
        "tokenizer": tokenizer_content(this),
        "data": {source: digest for name in TRAINED_STAGES for source, digest in mixed(this, name).items()},
        "held_out": held_out(recipe),
        "version": VERSIONS["base"],
    }

    def work(folder: Path) -> dict[str, Any]:
        return dict(_story("base").train(recipe, paths_of(this, "base")))

    return stage(this, "base", inputs, work, again, together=True)


def training(name: str) -> Callable[[Run, bool], Path]:
    def train(this: Run, again: bool) -> Path:
        recipe = this.recipe
        config: StageConfig = getattr(recipe, name)
        values = recipe.as_dict()[name]
        inputs = {
            "settings": {key: value for key, value in values.items() if key not in _without_effect(config)},
            "mix": [[source, entry] for source, entry in values["mix"].items()],
            "data": mixed(this, name),
            "seed": recipe.seed,
            "precision": recipe.precision,
            "template": template_content(recipe),
            "tokenizer": tokenizer_content(this),
            "start": start_fingerprint(this, name),
            "version": VERSIONS[name],
            **({"reward_models": reward_fingerprints(this)} if name == "grpo" else {}),
        }
        this.say(f"{name}: {len(config.mix)} sources from {start_of(this, name)}")

        def work(folder: Path) -> dict[str, Any]:
            result = dict(_story(name).train(recipe, paths_of(this, name)))
            # As known when it was trained; the manifests and the card have what is known now.
            licences = {"licences": {source: this.manifests[source]["licence"] for source in config.mix}}
            return result | licences | _course_of(folder)

        return stage(this, name, inputs, work, again, together=True)

    return train


def _without_effect(config: StageConfig) -> set[str]:
    """When evaluations choose the weights, their steps count."""
    chooses = getattr(config, "best_by", None) is not None
    return WITHOUT_EFFECT - ({"eval_steps"} if chooses else set())


def _course_of(folder: Path) -> dict[str, Any]:
    """What a training stage noted on its way: alarms, and the best step if one was chosen."""
    alarms, best = folder / "alarms.jsonl", folder / "best.json"
    course: dict[str, Any] = {"alarms": list(read_jsonl(alarms)) if alarms.is_file() else []}
    return course | ({"best": read_json(best)} if best.is_file() else {})


def evaluate(this: Run, again: bool) -> Path:
    recipe = this.recipe
    assert recipe.evaluate is not None
    models = models_of(this)
    inputs = {
        "settings": recipe.as_dict()["evaluate"],
        "models": {name: this.fingerprints.get(name) or start_fingerprint(this, "sft") for name in models},
        "data": mixed(this, "sft") | mixed(this, "dpo"),
        "questions": {source: data_hash(this, source) for source in recipe.evaluate.questions},
        "held_out": held_out(recipe, ("sft", "dpo")),
        "max_length": [config.max_length for config in (recipe.sft, recipe.dpo) if config is not None],
        "template": template_content(recipe),
        "seed": recipe.seed,
        "version": VERSIONS["evaluate"],
    }
    folder = stage(
        this,
        "evaluate",
        inputs,
        lambda folder: _story("evaluate").evaluate(recipe, paths_of(this, "evaluate"), models),
        again,
    )
    from tuning.evaluate.table import comparison, plain

    this.say("\n" + plain(comparison(this.records["evaluate"]["figures"])) + "\n")
    return folder


def release(this: Run, again: bool) -> Path:
    recipe = this.recipe
    assert recipe.release is not None
    source = recipe.release.from_ or last_trained(this)
    trained = [name for name in CHAT_STAGES if name in this.records]
    behind = trained[trained.index(source) + 1 :] if source in trained else []
    records = {name: record for name, record in this.records.items() if name not in behind}
    manifests = {name: this.manifests[name] for name in released_sources(recipe)}
    terms = terms_for_card(recipe, manifests)
    inputs = {
        "settings": recipe.as_dict()["release"],
        "from": this.fingerprints.get(source) or source,
        "evaluate": this.fingerprints.get("evaluate"),
        "name": recipe.name,
        "use": recipe.use,
        "data": {
            name: {key: manifest[key] for key in ON_THE_CARD if key in manifest}
            for name, manifest in manifests.items()
        },
        "version": VERSIONS["release"],
    }

    def work(folder: Path) -> dict[str, Any]:
        paths = paths_of(this, "release")
        return _story("release").release(
            recipe,
            paths,
            records=records,
            manifests=manifests,
            terms=terms,
            recipe_yaml=recipe_text(recipe),
        )

    folder = stage(this, "release", inputs, work, again)
    this.say(f"released: {shown(folder)}\ntalk to it: tuning chat {shown(folder)}")
    return folder


STAGES: dict[str, Callable[[Run, bool], Path]] = {
    "data": build_data,
    "screening": screen_data,
    "base": make_base,
    "sft": training("sft"),
    "dpo": training("dpo"),
    "reward": training("reward"),
    "grpo": training("grpo"),
    "evaluate": evaluate,
    "release": release,
}


def _story(name: str) -> Any:
    """The recipe module of a stage; imported late, since it brings torch."""
    return importlib.import_module(f"recipes.{name}")


def recipe_text(recipe: Recipe) -> str:
    """The whole recipe as YAML, local folders shortened to their names."""
    import yaml

    values = recipe.as_dict()
    for source in values["data"].values():
        source["input"] = [Path(file).name for file in source["input"]]
    if values["screening"] is not None:
        values["screening"]["against"] = [Path(file).name for file in values["screening"]["against"]]
    for key in ("base", "tokenizer", "template", "data_root", "output"):
        if isinstance(values.get(key), str) and os.path.isabs(values[key]):
            values[key] = Path(values[key]).name
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
