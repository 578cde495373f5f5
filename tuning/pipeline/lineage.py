"""Which model comes from which: where a stage starts, what is compared, what is released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuning.config import CHAT_STAGES, TRAINED_STAGES
from tuning.pipeline.contents import model_content
from tuning.pipeline.execution import Run
from tuning.pipeline.screening import screened_sources

BEFORE = {
    "sft": ("base",),
    "dpo": ("base", "sft"),
    "reward": ("base", "sft"),
    "grpo": ("base", "sft", "dpo"),
}
"""The stages whose model a training stage can start from; it takes the last of them that was made."""


def start_of(this: Run, name: str) -> str:
    """The checkpoint that a stage starts from: the last model made before it, else the recipe's base."""
    before = [stage for stage in BEFORE.get(name, ("base", *CHAT_STAGES)) if stage in this.fingerprints]
    if name == "release" and this.recipe.release and this.recipe.release.from_:
        before = [this.recipe.release.from_]
    return str(this.folder(before[-1]) / "model") if before else this.recipe.base


def start_fingerprint(this: Run, name: str) -> str:
    """Of the stage that made the start, else of the checkpoint's files."""
    start = Path(start_of(this, name))
    for stage in ("base", *CHAT_STAGES):
        if start == this.folder(stage) / "model" and stage in this.fingerprints:
            return this.fingerprints[stage]
    return model_content(this, str(start))


def reward_fingerprints(this: Run) -> dict[str, str]:
    """Of the reward models that grpo asks, by the names of its rewards."""
    rewards = this.recipe.grpo.rewards if this.recipe.grpo else {}
    return {
        name: model_content(this, reward.model) if reward.model else this.fingerprints["reward"]
        for name, reward in rewards.items()
        if reward.rule == "model"
    }


def last_trained(this: Run) -> str:
    """The stage whose model is released unless the recipe names another."""
    trained = [stage for stage in CHAT_STAGES if stage in this.fingerprints]
    return trained[-1] if trained else "base"


def models_of(this: Run) -> dict[str, str]:
    """The models that an evaluation compares: stage -> folder."""
    assert this.recipe.evaluate is not None
    everything = {"base": this.recipe.base}
    for name in ("base", *CHAT_STAGES):
        if name in this.fingerprints:
            everything[name] = str(this.folder(name) / "model")
    wanted = this.recipe.evaluate.stages
    return {name: path for name, path in everything.items() if wanted is None or name in wanted}


def paths_of(this: Run, name: str) -> Any:
    """What the recipe module of a stage is told: its start, the datasets, its folder, the cache."""
    from tuning.stage import Paths

    screened = screened_sources(this.recipe)
    datasets = {
        source: this.folder("screening" if source in screened else "data") / source
        for source in this.recipe.data
    }
    made = [stage for stage in ("base", *TRAINED_STAGES) if stage in this.fingerprints and stage != name]
    models = {stage: str(this.folder(stage) / "model") for stage in made}
    return Paths(start_of(this, name), datasets, this.folder(name), this.cache, models)
