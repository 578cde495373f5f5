"""A whole run: the stages that a recipe has, one after the other, from one to another."""

from __future__ import annotations

from pathlib import Path

from tuning.config import TRAINED_STAGES, Recipe, RecipeError
from tuning.pipeline.checks import check, warnings
from tuning.pipeline.execution import Run, shown
from tuning.pipeline.stages import STAGES


class StageError(RuntimeError):
    """A stage that failed for a reason that the user can mend; the message says which stage and how."""


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
    for warning in warnings(recipe):
        this.say(f"{warning} (warning)")
    paths: dict[str, Path] = {}
    for number, stage in enumerate(stages[: last + 1]):
        paths[stage] = STAGES[stage](this, number >= again)
    tell_alarms(this)
    return paths


def tell_alarms(this: Run) -> None:
    """Says once more, at the end, which alarms rang in which stage."""
    for stage, record in this.records.items():
        for alarm in record.get("alarms", ()):
            this.say(f"{stage}: ALARM at step {alarm['step']} ({alarm['code']}): {alarm['seen']}")
        if record.get("alarms"):
            this.say(f"{stage}: what it means and what to try: {shown(this.folder(stage))}/alarms.jsonl")


def stages_of(recipe: Recipe) -> list[str]:
    """The stages that this recipe has, in their order."""
    present = {
        "data": bool(recipe.data),
        "screening": recipe.screening is not None,
        "base": recipe.base == "tiny",
        **{stage: getattr(recipe, stage) is not None for stage in (*TRAINED_STAGES, "evaluate", "release")},
    }
    return [stage for stage in STAGES if present[stage]]
