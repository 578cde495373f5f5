"""The stage between data and training that screens the sources of the mixes, if the recipe asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_builders import BuilderError, screen
from data_builders.evaluation_sets import read_evaluation_set
from tuning.config import TRAINED_STAGES, Recipe
from tuning.pipeline.execution import Run
from tuning.pipeline.reuse import stage
from tuning.records import read_json, sha256_of_file

VERSION = 1
"""Raised, like that of a builder, whenever the same rows and settings give other datasets."""


def screened_sources(recipe: Recipe) -> list[str]:
    """The sources that a stage mixes, in the order of `data`: the first copy of a duplicate stays."""
    if recipe.screening is None:
        return []
    configs = [getattr(recipe, stage) for stage in TRAINED_STAGES]
    mixes = [config.mix for config in configs if config is not None]
    return [name for name in recipe.data if any(name in mix for mix in mixes)]


def screen_data(this: Run, again: bool) -> Path:
    """Writes `screening/<source>/`, which takes the place of `data/<source>/` in every later stage."""
    from data_builders.screening import compared_with, summary

    recipe, config = this.recipe, this.recipe.screening
    assert config is not None
    sources = screened_sources(recipe)
    settings = recipe.as_dict()["screening"]
    inputs = {
        "settings": {key: value for key, value in settings.items() if key != "against"},
        "against": [[Path(file).name, _content(Path(file))] for file in config.against],
        # A list: the order decides which copy of a duplicate stays.
        "data": [[name, this.fingerprints[f"data/{name}"]] for name in sources],
        "version": VERSION,
    }

    def work(folder: Path) -> dict[str, Any]:
        manifests = screen(
            [this.folder("data") / name for name in sources],
            folder,
            against=config.against,
            contamination=config.contamination,
            duplicates=config.duplicates,
            near_duplicates=config.near_duplicates,
            similarity=config.similarity,
            quality=config.quality,
            safety=[name for name in config.safety if name in sources],
        )
        for line in (*compared_with(manifests), *map(summary, manifests.values())):
            this.say(f"  {line}")
        return {name: manifest["screening"] for name, manifest in manifests.items()}

    folder = stage(this, "screening", inputs, work, again)
    for name in sources:
        revision = {"revision": this.manifests[name]["revision"]}
        this.manifests[name] = read_json(folder / name / "manifest.json") | revision
    return folder


def evaluation_set_problems(recipe: Recipe) -> list[tuple[str, str]]:
    """What is wrong with the evaluation files, by the key that names them."""
    problems = []
    for number, file in enumerate(recipe.screening.against if recipe.screening else ()):
        try:
            read_evaluation_set(file)
        except BuilderError as error:
            problems.append((f"screening.against[{number}]", f"screening.against: {error}"))
    return problems


def _content(path: Path) -> str:
    return sha256_of_file(path / "data.jsonl" if path.is_dir() else path)
