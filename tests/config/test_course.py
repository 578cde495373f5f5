"""What a recipe may say of a stage's course: rate, best step, early end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_recipe
from tuning import load_recipe
from tuning.config import RecipeError


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def mistakes(recipe: Path, *overrides: str) -> list[str]:
    try:
        load_recipe(recipe, list(overrides))
    except RecipeError as error:
        return [problem.message for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sft.best_by=loss"], "sft.best_by needs sft.eval_steps"),
        (
            ["sft.best_by=loss", "sft.eval_steps=1", "sft.dev_rows=0"],
            "sft.best_by: no row of any source of sft.mix is held out to compute it on; set dev_rows",
        ),
        (
            ["sft.best_by=loss/taught", "sft.eval_steps=1"],
            "sft.best_by: no row of sft.mix.taught is held out",
        ),
        (
            ["sft.best_by=accuracy", "sft.eval_steps=1"],
            "sft.best_by: saw 'accuracy'; accepted: loss, each also as name/source",
        ),
        (
            ["dpo.best_by=rewards/accuracys", "dpo.eval_steps=1"],
            "dpo.best_by: saw 'rewards/accuracys'; accepted: loss, accuracy, rewards/accuracies",
        ),
        (["sft.stop_after_evaluations=3"], "sft.stop_after_evaluations needs sft.best_by"),
        (
            ["sft.warmup_ratio=0.1", "sft.warmup_steps=3"],
            "sft.warmup_ratio and sft.warmup_steps (override 2",
        ),
        (["sft.hold_steps=3", "sft.schedule=constant"], "sft.hold_steps: a constant schedule never"),
        (
            ["dpo.mix.pairs.dev_share=0.1"],
            "dpo.mix.pairs.dev_share and dpo.mix.pairs.dev_rows both say how much is held out",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(recipe: Path, overrides: list[str], said: str) -> None:
    [message] = mistakes(recipe, *overrides)
    assert said in message


@pytest.mark.parametrize(
    "name", ["loss", "loss/pairs", "rewards/accuracies", "rewards/margins/pairs", "accuracy"]
)
def test_figures_of_a_preference_evaluation_choose_the_best_step(recipe: Path, name: str) -> None:
    assert mistakes(recipe, f"dpo.best_by={name}", "dpo.eval_steps=1", "dpo.stop_after_evaluations=2") == []


def test_share_of_rows_is_enough_to_be_held_out(recipe: Path) -> None:
    share = ["dpo.mix.pairs.dev_share=0.2", "dpo.mix.pairs.dev_rows=null", "dpo.dev_rows=0"]
    assert mistakes(recipe, *share, "dpo.best_by=loss", "dpo.eval_steps=1") == []


def test_run_too_short_for_warm_up_and_hold_is_worth_a_warning(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["dpo.warmup_steps=1", "dpo.hold_steps=1"])
    [warning] = loaded.warnings
    assert "dpo.hold_steps: 2 steps are no more than 1 of warm-up and 1 held" in warning.message
