"""What `reward:` and `grpo:` may say, and what their mistakes are answered with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import tuning.config as config
from tuning.config import Problem, Recipe, RecipeError, load_recipe
from tuning.config.trainer_keys import borrowed_arguments, keys_of

BOTH = """\
name: both
base: tiny
template: llm-jp-v3
data:
  faq: {builder: files, input: [faq.jsonl]}
  hh: {builder: hh_rlhf, input: [hh.jsonl]}
reward:
  mix: {hh: {}}
  learning_rate: 1e-5
grpo:
  mix: {faq: {}}
  learning_rate: 1e-6
  rewards:
    ends: {rule: stops}
    liked: {rule: model}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("faq.jsonl", "hh.jsonl", "scorer/config.json", "empty/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str) -> Recipe:
    Path("my.yaml").write_text(text, encoding="utf-8")
    return load_recipe("my.yaml", overrides)


def mistake(text: str, *overrides: str) -> Problem:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    [problem] = caught.value.problems
    return problem


def test_both_stages_load_with_their_defaults_and_back_from_their_own_dictionary() -> None:
    recipe = load(BOTH)
    assert recipe.reward and (recipe.reward.batch_pairs, recipe.reward.epochs) == (64, 1.0)
    assert recipe.grpo and (recipe.grpo.num_generations, recipe.grpo.temperature) == (8, 1.0)
    assert recipe.grpo.rewards["liked"].model is None
    assert recipe.warnings == []


def test_a_reward_models_folder_becomes_absolute() -> None:
    recipe = load(BOTH.replace("{rule: model}", "{rule: model, model: scorer}"))
    assert recipe.grpo and recipe.grpo.rewards["liked"].model == str(Path("scorer").absolute())


@pytest.mark.parametrize(
    ("old", "new", "key", "part"),
    [
        ("{rule: stops}", "{rule: stop}", "grpo.rewards.ends.rule", "did you mean stops?"),
        ("{rule: stops}", "{rule: stops, pattern: x}", "grpo.rewards.ends.pattern", "does not read it"),
        ("{rule: stops}", "{rule: length}", "grpo.rewards.ends", "needs min_tokens, max_tokens or both"),
        (
            "{rule: stops}",
            "{rule: length, min_tokens: 9, max_tokens: 3}",
            "grpo.rewards.ends.min_tokens",
            "saw 9; accepted: at most max_tokens, which is 3",
        ),
        ("{rule: stops}", "{rule: regex}", "grpo.rewards.ends", "needs pattern"),
        (
            "{rule: stops}",
            "{rule: regex, pattern: '(a'}",
            "grpo.rewards.ends.pattern",
            "no regular expression",
        ),
        ("{rule: stops}", "{weight: 2}", "grpo.rewards.ends.rule", "missing"),
        ("{rule: model}", "{rule: model, model: empty}", "grpo.rewards.liked.model", "has no config.json"),
        ("{rule: model}", "{rule: model, model: ./gone}", "grpo.rewards.liked.model", "no such folder"),
        (
            "rewards:\n    ends: {rule: stops}\n    liked: {rule: model}",
            "rewards: {}",
            "grpo.rewards",
            "is empty",
        ),
        (
            "1e-6",
            "1e-6\n  answers_per_device: 7",
            "grpo.answers_per_device",
            "a divisor of grpo.batch_prompts",
        ),
        ("1e-5", "1e-5\n  pairs_per_device: 7", "reward.pairs_per_device", "reward.batch_pairs, which is 64"),
        ("1e-6", "1e-6\n  max_new_tokens: 4096", "grpo.max_new_tokens", "less than grpo.max_length"),
        ("1e-6", "1e-6\n  num_generations: 1", "grpo.num_generations", "at least 2"),
        ("1e-6", "1e-6\n  weigh_by: target_tokens", "grpo.weigh_by", "one of passes, rows"),
        ("1e-6", "1e-6\n  tokens_per_device: 9", "grpo.tokens_per_device", "not a setting here"),
        ("1e-5", "1e-5\n  share_prefix: true", "reward.share_prefix", "not a setting here"),
        ("1e-5", "1e-5\n  lora: {rank: 8, quantize: nf4}", "reward.lora.quantize", "only sft and dpo"),
        ("1e-5", "1e-5\n  epochs: 1\n  max_steps: 2", "reward.max_steps", "both say when to stop"),
        ("{hh: {}}", "{hhh: {}}", "reward.mix.hhh", "did you mean hh?"),
        ("1e-6", "1e-6\n  trainer: {beta: 1}", "grpo.trainer.beta", "did you mean grpo.beta?"),
        ("1e-6", "1e-6\n  trainer: {use_vlm: true}", "grpo.trainer.use_vlm", "did you mean use_vllm?"),
        (
            "1e-6",
            "1e-6\n  trainer: {per_device_train_batch_size: 2}",
            "grpo.trainer.per_device_train_batch_size",
            "did you mean grpo.answers_per_device?",
        ),
        (
            "1e-5",
            "1e-5\n  trainer: {center_rewards_coeficient: 0.01}",
            "reward.trainer.center_rewards_coeficient",
            "not an argument of trl.RewardConfig; did you mean center_rewards_coefficient?",
        ),
        (
            "1e-5",
            "1e-5\n  trainer: {chat_template_path: x}",
            "reward.trainer.chat_template_path",
            "base, tokenizer and template of the recipe decide",
        ),
    ],
)
def test_one_mistake_gives_one_message(old: str, new: str, key: str, part: str) -> None:
    assert BOTH.count(old) == 1
    problem = mistake(BOTH.replace(old, new))
    assert problem.key == key, str(problem)
    assert part in problem.message


def test_the_recipes_own_reward_model_needs_a_reward_stage() -> None:
    problem = mistake(BOTH, "reward=null")
    assert "this recipe has no reward stage" in problem.message


def test_what_only_trl_knows_is_passed_on_under_its_own_spelling() -> None:
    given = {"use_vllm": True, "loss_type": "dr_grpo", "epsilon_high": 0.28, "optim": "adamw_torch"}
    recipe = load(BOTH, *(f"grpo.trainer.{name}={str(value).lower()}" for name, value in given.items()))
    assert recipe.grpo and recipe.grpo.trainer == given


def test_only_a_chat_model_is_evaluated_and_released() -> None:
    assert load(BOTH + "release: {from: grpo}\nevaluate: {stages: [base, grpo]}\n").release
    assert "did you mean grpo?" not in mistake(BOTH + "release: {from: reward}\n").message
    assert "this recipe makes grpo" in mistake(BOTH + "release: {from: sft}\n").message


def test_stages_that_hold_out_different_rows_of_one_source_are_warned_of() -> None:
    recipe = load(BOTH + "dpo:\n  mix: {hh: {dev_rows: 5}}\n  learning_rate: 1e-6\n")
    [warning] = recipe.warnings
    assert "reward holds out 100 rows and dpo 5" in warning.message


@pytest.mark.parametrize(("stage", "name"), [("reward", "RewardConfig"), ("grpo", "GRPOConfig")])
def test_known_arguments_are_the_fields_of_trls_own_class(stage: str, name: str) -> None:
    """Read from its source, since importing TRL takes seconds; compared with the class itself here."""
    trl = pytest.importorskip("trl")
    fields = {field.name for field in dataclasses.fields(getattr(trl, name)) if field.init}
    assert borrowed_arguments(stage, name) == fields


@pytest.mark.parametrize("section", [config.RewardConfig, config.GRPOConfig])
def test_arguments_that_belong_to_the_recipe_name_settings_that_exist(section: type) -> None:
    stage = section.__name__.removesuffix("Config").lower()
    keys = keys_of(stage)
    for owner in keys.owned.values():
        where, _, name = owner.rpartition(".")
        fields = {field.name for field in dataclasses.fields(section if where else Recipe)}
        assert where in ("", stage) and name in fields, owner
    assert not set(keys.owned) & set(keys.refused)
