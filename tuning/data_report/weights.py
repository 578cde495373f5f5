"""Other weights for a mix: what they would give, and the recipe that says so."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.config import TRAINED_STAGES, load_recipe, shipped_recipes
from tuning.data_report.figures import ReportError
from tuning.records import write_text
from tuning.shares import passes


def reweighted(stage: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """The share of target tokens that each source of a stage (`recipe_report(...)["stages"]`) would have.

    Sources without a new weight keep theirs; weight 0 takes a source out. Exact for whole passes; of the
    part of a pass, what an average part holds.
    """
    sources = stage["sources"]
    chosen = _checked(weights, sources) | {}
    wanted = {name: chosen.get(name, each["weight"]) for name, each in sources.items()}
    left = {name: weight for name, weight in wanted.items() if weight > 0}
    times = passes(
        stage["weigh_by"],
        left,
        {name: sources[name]["train_rows"] for name in left},
        {name: sources[name]["target_tokens"] for name in left},
    )
    tokens = {name: times.get(name, 0.0) * each["target_tokens"] for name, each in sources.items()}
    total = sum(tokens.values())
    return {name: count / total if total else 0.0 for name, count in tokens.items()}


def write_mix(
    recipe: str | Path, weights: Mapping[str, float], output: str | Path, *, stage: str = "sft"
) -> Path:
    """Writes a recipe that `extends` another one with other weights in `stage`, and returns its path.

    It is named after its file. Weight 0 takes a source out of the mix; sources without a new weight keep
    theirs. Raises `ReportError` for a source that the mix has not, a weight that is no number from 0, or a
    file that is there already and says anything but this; `RecipeError` if the outcome is no recipe.
    """
    import yaml

    output, base = Path(output), load_recipe(recipe)
    config = getattr(base, stage, None) if stage in TRAINED_STAGES else None
    if config is None:
        accepted = ", ".join(TRAINED_STAGES)
        raise ReportError(
            f"{recipe}: has no stage {stage!r} with a mix; accepted: {accepted}, if it is there"
        )
    chosen = _checked(weights, config.mix)
    mix = {name: {"weight": weight} if weight else None for name, weight in chosen.items()}
    values = {"name": output.stem, "extends": _seen_from(output.parent, recipe), stage: {"mix": mix}}
    text = "# Weights written by tuning.data_report.write_mix.\n" + yaml.safe_dump(
        values, allow_unicode=True, sort_keys=False
    )
    if output.exists() and not output.read_text(encoding="utf-8").startswith(text.splitlines()[0]):
        raise ReportError(f"{output}: is there already and was not written by write_mix; choose another name")
    write_text(output, text)
    load_recipe(output)
    return output


def _checked(weights: Mapping[str, float], known: Mapping[str, Any]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in known:
            raise ReportError(f"{name}: not a source of this mix; sources: {', '.join(known)}")
        if isinstance(weight, bool) or not math.isfinite(weight) or weight < 0:
            raise ReportError(f"{name}: weight {weight}; accepted: a number from 0 (0 takes it out)")
    if known and all(weights.get(name) == 0 for name in known):
        raise ReportError("every weight is 0; accepted: at least one source above 0")
    return {name: float(weight) for name, weight in weights.items()}


def _seen_from(folder: Path, recipe: str | Path) -> str:
    """A recipe as a file in `folder` names it: a shipped one by its name, else a relative path."""
    if not Path(recipe).is_file():
        name = str(recipe).removeprefix("recipes/").removesuffix(".yaml")
        if name in shipped_recipes():
            return name
    return Path(os.path.relpath(Path(recipe).resolve(), folder.resolve())).as_posix()
