"""The typed recipe, and a reader that reports every mistake in it at once with file, line and the nearest
name.

    YAML files --nodes, files--> layers --walk against the dataclasses--> values --checks--> Recipe

`recipe` holds the dataclasses, which are the only description of what a recipe may say, and `load_recipe`;
the other files are its steps.
"""

from tuning.config.checks import CHAT_STAGES, PREFERENCE_STAGES, TRAINED_STAGES
from tuning.config.recipe import (
    DPOConfig,
    EvaluateConfig,
    GRPOConfig,
    LoraConfig,
    MixEntry,
    Problem,
    Recipe,
    RecipeError,
    ReleaseConfig,
    RewardConfig,
    RuleConfig,
    ScreeningConfig,
    SFTConfig,
    SourceConfig,
    StageConfig,
    TermsConfig,
    TinyConfig,
    TrainConfig,
    load_recipe,
    shipped_recipes,
)

__all__ = [
    "CHAT_STAGES",
    "PREFERENCE_STAGES",
    "TRAINED_STAGES",
    "DPOConfig",
    "EvaluateConfig",
    "GRPOConfig",
    "LoraConfig",
    "MixEntry",
    "Problem",
    "Recipe",
    "RecipeError",
    "ReleaseConfig",
    "RewardConfig",
    "RuleConfig",
    "SFTConfig",
    "ScreeningConfig",
    "SourceConfig",
    "StageConfig",
    "TermsConfig",
    "TinyConfig",
    "TrainConfig",
    "load_recipe",
    "shipped_recipes",
]
