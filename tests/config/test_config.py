"""The recipe: what loads, and what every mistake is answered with."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tuning.config as config
from tuning.config import Problem, Recipe, RecipeError, load_recipe, shipped_recipes
from tuning.config.trainer_keys import OWNED, REFUSED, trainer_arguments
from tuning.config.types import REQUIRED, is_within

TEMPLATES = {"base", "chatml", "llm-jp-v3", "llm-jp-v3-system"}
BUILDERS = {"dolly", "files", "hh_rlhf", "oasst"}

DESIGN = """\
name: my-chat-model
base: llm-jp/llm-jp-3-150m      # `tiny` builds a small Llama and its tokenizer here, for the quickstart
template: llm-jp-v3             # a name from tuning/chat/templates, a .jinja file, or `base`
seed: 42
use: research                   # or commercial
output: runs/${name}
data:                           # every source once, by name
  dolly-ja: {builder: dolly, input: [databricks-dolly-15k-ja.jsonl]}
  own-faq:  {builder: files, input: [faq.jsonl]}
  hh-ja:    {builder: hh_rlhf, input: [hh-rlhf-12k-ja.jsonl]}
sft:
  mix: {dolly-ja: {weight: 1}, own-faq: {weight: 4}}
  dev_rows: 100
  max_length: 4096
  batch_rows: 64
  tokens_per_device: 16384
  epochs: 2                     # or max_steps
  learning_rate: 2.0e-5
  lora: null                    # {rank: 16, ...} turns it on; quantize: nf4 makes it QLoRA
  trainer: {}
dpo:
  mix: {hh-ja: {}}
  dev_rows: 100
  loss: sigmoid
  beta: 0.1
  batch_pairs: 256
  max_length: 4096
  tokens_per_device: 16384
  epochs: 1
  learning_rate: 9.0e-7
evaluate: {}
release: {}
"""

EVERYTHING = """\
name: everything
base: tiny
template: llm-jp-v3
seed: 7
use: commercial
output: runs/${name}
data_root: raw
tokenizer: llm-jp/llm-jp-3-150m
precision: fp32
trust_remote_code: false
tiny:
  hidden_size: 64
  layers: 2
  heads: 4
  key_value_heads: 2
  vocab_size: 512
  pretrain_epochs: 0.5
  batch_rows: 8
  learning_rate: 1e-3
data:
  dolly-ja:
    builder: dolly
    input: [dolly.jsonl, more.jsonl]
    on_bad_row: quarantine
    licence: CC-BY-SA-3.0
    language: ja
    revision: "2024"
  taught: {builder: files, input: [faq.jsonl]}
  hh-ja: {builder: hh_rlhf, input: [hh.jsonl]}
screening:
  against: [faq.jsonl]
  contamination: flag
  duplicates: flag
  near_duplicates: drop
  similarity: 0.75
  quality: {citation_mark: drop}
  safety: [hh-ja]
sft:
  mix:
    dolly-ja: {weight: 0.5, dev_rows: 3}
    taught: {weight: 4}
  dev_rows: 5
  max_length: 1024
  too_long: error
  tokens_per_device: 2048
  batch_rows: 16
  max_steps: 10
  learning_rate: 2.0e-5
  schedule: linear
  warmup_steps: 2
  min_learning_rate: 1e-6
  weight_decay: 0.1
  adam_beta1: 0.9
  adam_beta2: 0.98
  adam_epsilon: 1e-8
  max_grad_norm: 0.5
  share_prefix: false
  gradient_checkpointing: true
  lora:
    rank: 8
    alpha: 32
    dropout: 0.05
    targets: [q_proj, v_proj]
    quantize: nf4
  log_steps: 2
  eval_steps: 5
  save_steps: 5
  keep_checkpoints: 1
  report_to: [wandb, tensorboard]
  trainer: {optim: adafactor, dataloader_num_workers: 2}
dpo:
  mix:
    hh-ja: {}
  batch_pairs: 4
  loss: sigmoid
  beta: 0.3
  label_smoothing: 0.1
  epochs: 1
  learning_rate: 9.0e-7
evaluate:
  questions: [taught]
  max_new_tokens: 32
  stages: [base, dpo]
  answers: 10
release:
  from: dpo
  dtype: float32
  licence: Apache-2.0
  language: [ja, en]
"""

MINIMAL = """\
name: small
base: tiny
template: llm-jp-v3
data:
  faq: {builder: files, input: [faq.jsonl]}
sft:
  mix: {faq: {}}
  learning_rate: 1e-4
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipes folder and the files that the recipes above name."""
    names = ["databricks-dolly-15k-ja.jsonl", "faq.jsonl", "hh-rlhf-12k-ja.jsonl"]
    names += ["raw/dolly.jsonl", "raw/more.jsonl", "raw/faq.jsonl", "raw/hh.jsonl"]
    for name in names:
        path = tmp_path / "recipes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, overrides: tuple[str, ...] = (), name: str = "my.yaml") -> Recipe:
    path = Path("recipes", name)
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides, templates=TEMPLATES, builders=BUILDERS)


def mistakes(text: str, overrides: tuple[str, ...] = ()) -> list[Problem]:
    """The problems of a recipe; every one of them prints with its place, and none twice."""
    with pytest.raises(RecipeError) as caught:
        load(text, overrides)
    problems = caught.value.problems
    assert str(caught.value).splitlines() == [str(problem) for problem in problems]
    assert len(set(problems)) == len(problems) > 0
    return problems


def mistake(text: str, overrides: tuple[str, ...] = ()) -> Problem:
    problems = mistakes(text, overrides)
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


def with_line(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


# What loads


def test_recipe_of_the_design_loads_as_it_stands(folder: Path) -> None:
    recipe = load(DESIGN)
    assert recipe.sft and recipe.dpo and recipe.evaluate and recipe.release
    assert recipe.sft.mix["own-faq"].weight == 4 and recipe.sft.mix["dolly-ja"].dev_rows is None
    assert (recipe.sft.epochs, recipe.sft.max_steps, recipe.sft.learning_rate) == (2.0, None, 2e-5)
    assert (recipe.dpo.beta, recipe.dpo.batch_pairs, recipe.dpo.lora) == (0.1, 256, None)
    assert recipe.base == "llm-jp/llm-jp-3-150m"
    assert recipe.output == "runs/my-chat-model"
    assert recipe.data["own-faq"].input == [str(folder / "recipes" / "faq.jsonl")]
    assert recipe.warnings == [] and recipe.files == ["recipes/my.yaml"]


def test_every_setting_arrives_with_the_value_that_was_written(folder: Path) -> None:
    recipe = load(EVERYTHING)
    written = yaml.safe_load(EVERYTHING.replace("1e-", "1.0e-"))
    written["output"] = "runs/everything"
    written["data_root"] = str(folder / "recipes" / "raw")
    for source in written["data"].values():
        source["input"] = [str(folder / "recipes" / "raw" / name) for name in source["input"]]
    written["screening"]["against"] = [str(folder / "recipes" / "raw" / "faq.jsonl")]
    loaded = recipe.as_dict()

    def check(expected: Any, seen: Any, key: str) -> None:
        if isinstance(expected, dict):
            for name, value in expected.items():
                check(value, seen[name], f"{key}.{name}")
        else:
            assert seen == expected and isinstance(seen, type(expected) | float), key

    check(written, loaded, "")
    unset = {f"dpo.{item.name}" for item in dataclasses.fields(config.DPOConfig)} - {
        key for key in recipe.origin if key.startswith("dpo.")
    }
    assert "dpo.max_length" in unset and loaded["dpo"]["max_length"] == 4096


def test_defaults_fill_what_a_small_recipe_leaves_out(folder: Path) -> None:
    recipe = load(MINIMAL)
    assert (recipe.seed, recipe.use, recipe.precision, recipe.trust_remote_code) == (
        42,
        "research",
        "auto",
        False,
    )
    assert recipe.tiny and (recipe.tiny.hidden_size, recipe.tiny.vocab_size) == (192, 4096)
    assert recipe.sft and (recipe.sft.epochs, recipe.sft.max_steps) == (1.0, None)
    assert recipe.dpo is None and recipe.evaluate is None and recipe.release is None
    assert load(MINIMAL + "  max_steps: 3\n").sft.epochs is None  # type: ignore[union-attr]


def test_recipe_with_only_preference_optimisation_is_a_recipe(folder: Path) -> None:
    text = with_line(MINIMAL, "sft:", "dpo:")
    assert load(text).dpo is not None
    assert load("name: e\nbase: org/model\ntemplate: base\nevaluate: {}\n").evaluate is not None


def test_lora_alpha_is_twice_the_rank_and_targets_take_a_text_or_a_list(folder: Path) -> None:
    adapter = load(MINIMAL, ("sft.lora={rank: 16}",)).sft.lora  # type: ignore[union-attr]
    assert adapter and (adapter.alpha, adapter.targets, adapter.quantize) == (32.0, "all-linear", None)
    adapter = load(MINIMAL, ("sft.lora={rank: 16, targets: [q_proj], quantize: nf4}",)).sft.lora  # type: ignore
    assert adapter and (adapter.targets, adapter.quantize) == (["q_proj"], "nf4")


def test_dictionary_of_a_recipe_loads_back_as_the_same_recipe(folder: Path) -> None:
    recipe = load(EVERYTHING)
    again = load(yaml.safe_dump(recipe.as_dict(), allow_unicode=True), name="again.yaml")
    assert again == recipe
    assert again.as_dict() == recipe.as_dict()
    assert recipe.as_dict()["release"]["from"] == "dpo" and "extends" not in recipe.as_dict()


def test_numbers_are_read_as_people_write_them(folder: Path) -> None:
    for written, value in [("1e-5", 1e-5), ("0", 0.0), ("2.5E-05", 2.5e-5), ("1", 1.0), (".1", 0.1)]:
        recipe = load(with_line(MINIMAL, "1e-4", written))
        assert recipe.sft and recipe.sft.learning_rate == value
    recipe = load(MINIMAL + "  tokens_per_device: 16_384\n")
    assert recipe.sft and recipe.sft.tokens_per_device == 16384


def test_free_settings_keep_their_yaml_types(folder: Path) -> None:
    numbers = "ddp_timeout: 60, neftune_noise_alpha: 1e-1"
    trainer = f"{{optim_args: a, {numbers}, tf32: true, fsdp_config: {{version: 2, a: [x]}}}}"
    recipe = load(MINIMAL + f"  trainer: {trainer}\n")
    assert recipe.sft and recipe.sft.trainer == {
        "optim_args": "a",
        "ddp_timeout": 60,
        "neftune_noise_alpha": 0.1,
        "tf32": True,
        "fsdp_config": {"version": 2, "a": ["x"]},
    }
    options = "{text: '', nothing: null, quoted: '1', sizes: [1, 2.5]}"
    recipe = load(with_line(MINIMAL, "[faq.jsonl]}", f"[faq.jsonl], options: {options}}}"))
    assert recipe.data["faq"].options == {"text": "", "nothing": None, "quoted": "1", "sizes": [1, 2.5]}


def test_yaml_alias_stands_for_what_it_names(folder: Path) -> None:
    text = with_line(EVERYTHING, "hh-ja: {}", "hh-ja: &one {weight: 2}\n    taught: *one")
    assert load(text).dpo.mix["taught"].weight == 2  # type: ignore[union-attr]


def test_origin_names_the_line_of_every_value(folder: Path) -> None:
    recipe = load(EVERYTHING, ("sft.batch_rows=32", "dpo.lora={rank: 2}"))
    assert recipe.origin["sft.adam_beta2"] == f"recipes/my.yaml:{line_of(EVERYTHING, 'adam_beta2')}"
    assert recipe.origin["data.dolly-ja.input[1]"] == f"recipes/my.yaml:{line_of(EVERYTHING, 'more.jsonl')}"
    assert recipe.origin["sft.batch_rows"] == "override 1 'sft.batch_rows=32'"
    assert recipe.origin["dpo.lora.rank"] == "override 2 'dpo.lora={rank: 2}'"
    assert recipe.origin["release.from"].startswith("recipes/my.yaml:")
    assert "dpo.max_length" not in recipe.origin


# Paths, names, interpolation


def test_paths_start_where_they_were_written(folder: Path) -> None:
    (folder / "here.jsonl").touch()
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "faq.jsonl").touch()
    in_recipes = str(folder / "recipes" / "faq.jsonl")
    assert load(MINIMAL).data["faq"].input == [in_recipes]
    assert load(MINIMAL, ("data.faq.input=[here.jsonl]",)).data["faq"].input == [str(folder / "here.jsonl")]
    recipe = load(MINIMAL, ("data_root=elsewhere",))
    assert recipe.data_root == str(folder / "elsewhere")
    assert recipe.data["faq"].input == [str(folder / "elsewhere" / "faq.jsonl")]
    assert load(MINIMAL + "data_root: ../elsewhere\n").data_root == str(folder / "elsewhere")
    recipe = load(MINIMAL, ("data_root=elsewhere", "data.faq.input=[here.jsonl]"))
    assert recipe.data["faq"].input == [str(folder / "here.jsonl")]
    assert load(MINIMAL, ("output=./a/../b",)).output == "b"


def test_input_refers_to_data_root_and_name(folder: Path) -> None:
    (folder / "recipes" / "raw" / "small.jsonl").touch()
    text = with_line(MINIMAL, "[faq.jsonl]", '["${data_root}/${name}.jsonl"]') + "data_root: raw\n"
    assert load(text).data["faq"].input == [str(folder / "recipes" / "raw" / "small.jsonl")]
    assert load(MINIMAL + "output: out/${name}-${seed}\n").output == "out/small-42"


@pytest.mark.parametrize(
    ("value", "part", "suggestion"),
    [
        ("${oc.env:HOME}", "resolvers are not run", None),
        ("${nmae}", "cannot refer", "name"),
        ("${sft.epochs}", "cannot refer", None),
        ("${output}", "refers to itself", None),
        ("${data_root}/x", "has no value", None),
        ("${name", "not closed", None),
        ("${na${seed}}", "not closed or holds another", None),
    ],
)
def test_references_that_cannot_be_filled_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, part: str, suggestion: str | None
) -> None:
    monkeypatch.setenv("HOME", "the-secret")
    problem = mistake(MINIMAL + f"output: {value}\n")
    assert (problem.key, problem.line, problem.suggestion) == ("output", 9, suggestion)
    assert part in problem.message and "the-secret" not in problem.message


def test_references_are_refused_inside_free_settings_too(folder: Path) -> None:
    problem = mistake(MINIMAL + "  trainer:\n    optim_args: ${oc.env:HOME}\n")
    assert (problem.key, problem.line) == ("sft.trainer.optim_args", 10)


def test_base_is_tiny_a_folder_or_a_hub_id(folder: Path) -> None:
    (folder / "recipes" / "models" / "mine").mkdir(parents=True)
    (folder / "models" / "mine").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    text = with_line(MINIMAL, "base: tiny", "base: models/mine")
    assert load(text).base == str(folder / "recipes" / "models" / "mine")
    assert load(text, ("base=models/mine",)).base == str(folder / "models" / "mine")
    assert load(with_line(MINIMAL, "tiny", "elsewhere")).base == str(folder / "elsewhere")
    assert load(with_line(MINIMAL, "tiny", "llm-jp/llm-jp-3-150m")).base == "llm-jp/llm-jp-3-150m"
    recipe = load(with_line(MINIMAL, "tiny", "models/mime"))
    assert recipe.base == "models/mime" and "taken for a hub id" in str(recipe.warnings[0])
    for value, suggestion in [("./models/mime", "./models/mine"), ("tny", "tiny"), ("/no/such/folder", None)]:
        problem = mistake(with_line(MINIMAL, "base: tiny", f"base: {value}"))
        assert (problem.key, problem.line, problem.suggestion) == ("base", 2, suggestion)
    assert mistake(MINIMAL + "tokenizer: ./tok\n").key == "tokenizer"


def test_template_is_a_known_name_or_a_file(folder: Path) -> None:
    (folder / "recipes" / "own.jinja").touch()
    recipe = load(with_line(MINIMAL, "llm-jp-v3", "own.jinja"))
    assert recipe.template == str(folder / "recipes" / "own.jinja")
    problem = mistake(with_line(MINIMAL, "llm-jp-v3", "llm-jp-v33"))
    assert (problem.line, problem.suggestion) == (3, "llm-jp-v3")
    assert "chatml" in problem.message
    assert mistake(with_line(MINIMAL, "llm-jp-v3", "owm.jinja")).suggestion == "own.jinja"


def test_shipped_recipe_is_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = shipped_recipes()
    assert "quickstart" in names
    recipe = load_recipe("quickstart")
    assert load_recipe("recipes/quickstart.yaml") == recipe
    assert all(os.path.isabs(path) and os.path.exists(path) for path in recipe.data["taught"].input)
    with pytest.raises(RecipeError, match="did you mean quickstart"):
        load_recipe("quikstart")


# Layers


def test_later_override_wins_and_mappings_merge(folder: Path) -> None:
    recipe = load(
        EVERYTHING,
        (
            "sft.batch_rows=1",
            "sft.batch_rows=2",
            "sft.lora={rank: 4}",
            "dpo=null",
            "release.from=sft",
            "evaluate.stages=null",
        ),
    )
    assert recipe.sft and recipe.sft.batch_rows == 2
    assert recipe.sft.lora and (recipe.sft.lora.rank, recipe.sft.lora.alpha) == (4, 32.0)
    assert recipe.dpo is None
    assert load(EVERYTHING, ("sft.lora=",)).sft.lora is None  # type: ignore[union-attr]


def test_what_others_call_the_settings_of_a_mix_is_understood(folder: Path) -> None:
    for name, meant in (("epochs", "weight"), ("cap", "max_rows"), ("test_size", "dev_share")):
        problem = mistake(MINIMAL, (f"sft.mix.faq.{name}=2",))
        assert problem.message == (f"sft.mix.faq.{name} is not a setting; did you mean sft.mix.faq.{meant}?")


def test_mistakes_in_overrides_name_the_override(folder: Path) -> None:
    problem = mistake(MINIMAL, ("sft.batch_rows=2", "sft.epohcs=1"))
    assert str(problem) == "override 2 'sft.epohcs=1': sft.epohcs is not a setting; did you mean epochs?"
    assert problem.line is None
    for override, part in [
        ("sft.epochs", "key=value"),
        ("=3", "key=value"),
        ("sft..epochs=1", "key=value"),
        ("sft.epochs=[", "not valid YAML"),
        ("sft.epochs=fast", "accepted: a number above 0, or null"),
        ("sft=3", "accepted: a mapping"),
        ("name.first=x", "name: saw a mapping"),
        ("extends=other.yaml", "belongs into the recipe file"),
        ("data.faq.input=[no.jsonl]", "no file no.jsonl"),
        ("name=", "name: saw null"),
    ]:
        problem = mistake(MINIMAL, (override,))
        assert problem.file == f"override 1 {override!r}" and part in problem.message, str(problem)


def test_extended_recipe_holds_where_this_one_says_nothing(folder: Path) -> None:
    (folder / "recipes" / "inner").mkdir()
    load(EVERYTHING, name="parent.yaml")
    child = "extends: ../parent.yaml\nname: child\nsft:\n  batch_rows: 2\n  lora: null\n"
    recipe = load(child, name="inner/child.yaml")
    assert (recipe.name, recipe.output) == ("child", "runs/child")
    assert recipe.sft and (recipe.sft.batch_rows, recipe.sft.lora, recipe.sft.max_length) == (2, None, 1024)
    assert recipe.data["taught"].input == [str(folder / "recipes" / "raw" / "faq.jsonl")]
    assert recipe.origin["sft.max_length"].startswith("recipes/parent.yaml:")
    assert recipe.origin["sft.batch_rows"] == "recipes/inner/child.yaml:4"
    assert recipe.files == ["recipes/inner/child.yaml", "recipes/parent.yaml"]


def test_null_takes_an_inherited_source_out(folder: Path) -> None:
    load(EVERYTHING, name="parent.yaml")
    recipe = load("extends: parent.yaml\nsft: {mix: {dolly-ja: null}}\ndata: {dolly-ja: null}\n")
    assert recipe.sft and list(recipe.sft.mix) == ["taught"] and "dolly-ja" not in recipe.data
    problem = mistake(with_line(MINIMAL, "{faq: {}}", "{faq: null}").replace("mix:", "mix: "))
    assert problem.key == "sft.mix.faq" and "{} for defaults" in problem.message


def test_mistakes_in_extended_files_name_those_files(folder: Path) -> None:
    Path("recipes/parent.yaml").write_text(with_line(EVERYTHING, "seed: 7", "sede: 7"))
    problem = mistake("extends: parent.yaml\nname: child\n")
    assert (problem.file, problem.line, problem.suggestion) == ("recipes/parent.yaml", 4, "seed")
    problem = mistake("extends: paremt.yaml\nname: child\n")
    assert (problem.file, problem.line, problem.suggestion) == ("recipes/my.yaml", 1, "parent.yaml")


def test_recipes_that_extend_each_other_are_refused(folder: Path) -> None:
    Path("recipes/parent.yaml").write_text("name: p\nextends: my.yaml\n")
    problem = mistake("extends: parent.yaml\n")
    assert (problem.file, problem.line, problem.key) == ("recipes/parent.yaml", 2, "extends")
    assert mistake("extends: my.yaml\n").line == 1


# Mistakes


def test_message_is_the_one_that_the_style_guide_promises(folder: Path) -> None:
    text = with_line(DESIGN, "dolly-ja: {weight: 1}", "dolly-ja: {weigth: 1}")
    assert (
        str(mistake(text))
        == "recipes/my.yaml:12: sft.mix.dolly-ja.weigth is not a setting; did you mean weight?"
    )


def test_five_mistakes_are_told_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = DESIGN
    for old, new in [
        ("seed: 42", "sede: 42"),
        ("use: research", "use: reserch"),
        ("[faq.jsonl]", "[fak.jsonl]"),
        ("batch_rows: 64", 'batch_rows: "64"'),
        ("mix: {hh-ja: {}}", "mix: {hh-jp: {}}"),
    ]:
        text = with_line(text, old, new)
    problems = mistakes(text)
    found = [(problem.line, problem.key, problem.suggestion) for problem in problems]
    assert found == [
        (4, "sede", "seed"),
        (5, "use", "research"),
        (9, "data.own-faq.input[0]", "faq.jsonl"),
        (15, "sft.batch_rows", None),
        (22, "dpo.mix.hh-jp", "hh-ja"),
    ]
    assert "leave out the quotes" in problems[3].message


def test_unknown_source_names_the_line_that_uses_it_and_the_nearest_definition(folder: Path) -> None:
    problem = mistake(with_line(DESIGN, "own-faq: {weight: 4}", "own-fak: {weight: 4}"))
    assert problem.line == 12 and "own-faq (recipes/my.yaml:9)" in problem.message
    problem = mistake(with_line(EVERYTHING, "questions: [taught]", "questions: [dolly-ja, tought]"))
    assert problem.key == "evaluate.questions[1]" and problem.suggestion == "taught"
    assert f"(recipes/my.yaml:{line_of(EVERYTHING, 'taught: {builder')})" in problem.message


def test_source_that_no_stage_uses_is_a_warning(folder: Path) -> None:
    recipe = load(DESIGN, ("dpo=null",))
    assert [str(warning) for warning in recipe.warnings] == [
        "recipes/my.yaml:10: data.hh-ja is defined, but no stage uses it"
    ]


@pytest.mark.parametrize(
    ("old", "new", "key", "part"),
    [
        ("name: small\n", "", "name", "name is missing and has no default"),
        ("base: tiny\n", "", "base", "base is missing"),
        ("template: llm-jp-v3\n", "", "template", "template is missing"),
        ("  learning_rate: 1e-4\n", "", "sft.learning_rate", "sft.learning_rate is missing"),
        ("  mix: {faq: {}}\n", "", "sft.mix", "sft.mix is missing"),
        ("builder: files, ", "", "data.faq.builder", "is missing"),
        (", input: [faq.jsonl]", "", "data.faq.input", "is missing"),
        (
            "{builder: files, input: [faq.jsonl]}",
            "{builder: filse, input: [faq.jsonl]}",
            "data.faq.builder",
            "mean files?",
        ),
        (
            "[faq.jsonl]",
            "faq.jsonl",
            "data.faq.input",
            "saw faq.jsonl; accepted: a list of text, such as [faq.jsonl]",
        ),
        ("[faq.jsonl]", "[faq.jsonl, faq.jsonl]", "data.faq.input[1]", "listed twice"),
        ("[faq.jsonl]", "[]", "data.faq.input", "at least one file"),
        ("[faq.jsonl]", "['*.jsonl']", "data.faq.input[0]", "patterns such as * are not expanded"),
        ("name: small", "name: no", "name", "saw no; accepted: text; quote it"),
        ("name: small", "name: 2024-01-01", "name", "saw 2024-01-01; accepted: text; quote it"),
        ("name: small", "name: 1.10", "name", "saw 1.10; accepted: text; quote it"),
        ("name: small", "name: ''", "name", "saw text ''"),
        ("name: small", "name: ???", "name", "still to be filled in"),
        ("name: small", "name: ../up", "name", "it names a folder"),
        ("name: small", "name: [a]", "name", "saw a list; accepted: text"),
        ("name: small", "name:", "name", "saw null; accepted: text"),
        ("name: small", "name: !!str small", "", "saw the YAML tag"),
        ("base: tiny", "base: a/b\ntiny: {}", "tiny", "only `base: tiny`"),
        ("base: tiny", "base: a/b\ntiny: {heads: 2}", "tiny", "only `base: tiny`"),
        ("1e-4", "-1e-4", "sft.learning_rate", "a number at least 0"),
        ("1e-4", ".nan", "sft.learning_rate", "saw .nan"),
        ("1e-4", "1e999", "sft.learning_rate", "saw 1e999"),
        ("1e-4", "fast", "sft.learning_rate", "saw fast; accepted: a number at least 0"),
        ("1e-4", "true", "sft.learning_rate", "saw true"),
        (
            "1e-4",
            "'1e-4'",
            "sft.learning_rate",
            "saw text '1e-4'; accepted: a number at least 0; leave out the quotes",
        ),
        ("mix: {faq: {}}", "mix: {}", "sft.mix", "at least one source"),
        (
            "mix: {faq: {}}",
            "mix: {faq: 4}",
            "sft.mix.faq",
            "saw 4; accepted: a mapping with weight, languages",
        ),
        ("mix: {faq: {}}", "mix: {faq: {weight: 0}}", "sft.mix.faq.weight", "a number above 0"),
        ("mix: {faq: {}}", "mix: [faq]", "sft.mix", "saw a list; accepted: a mapping"),
        ("data:\n", "data:\n  a.b: {}\n", "data.a.b", "letters, digits, - and _"),
        (
            "sft:",
            "evaluate: {stages: [base, dpo]}\nsft:",
            "evaluate.stages[1]",
            "this recipe makes base, sft",
        ),
        ("sft:", "release: {from: dpo}\nsft:", "release.from", "this recipe makes sft"),
    ],
)
def test_one_wrong_value_gives_one_message(folder: Path, old: str, new: str, key: str, part: str) -> None:
    check_only(with_line(MINIMAL, old, new), key, part)


@pytest.mark.parametrize(
    ("line", "key", "part"),
    [
        ("name: big", "name", "given twice, first in line 1"),
        ("seed: true", "seed", "saw true; accepted: a whole number"),
        ("seed: 1.5", "seed", "a whole number at least 0"),
        ("seed: 010", "seed", "saw 010"),
        ("seed: 12:30:45", "seed", "saw 12:30:45"),
        ("seed: -1", "seed", "at least 0 and at most 4294967295"),
        (f"seed: {'9' * 5000}", "seed", "999..."),
        ("trust_remote_code: yes", "trust_remote_code", "saw yes; accepted: true or false"),
        ("trust_remote_code: 1", "trust_remote_code", "saw 1; accepted: true or false"),
        ("precision: bf61", "precision", "one of auto, bf16, fp32; did you mean bf16?"),
        ("precision: 16", "precision", "saw 16; accepted: one of auto, bf16, fp32"),
        ("1: x", "1", "saw 1 as a key"),
        ("[a]: x", "", "saw a list as a key"),
        ("<<: {seed: 3}", "<<", "use `extends: other.yaml`"),
        ("legacy: x", "legacy", "legacy is not a setting"),
        ("data_root: rwa", "data_root", "no folder recipes/rwa; did you mean raw?"),
        ("tiny: {heads: 3, key_value_heads: 2}", "tiny.heads", "a multiple of 2"),
        ("tiny: {hidden_size: 20, heads: 4}", "tiny.hidden_size", "a multiple of 8"),
    ],
)
def test_one_wrong_line_at_the_top_gives_one_message(folder: Path, line: str, key: str, part: str) -> None:
    check_only(with_line(MINIMAL, "name: small\n", f"name: small\n{line}\n"), key, part)


@pytest.mark.parametrize(
    ("line", "key", "part"),
    [
        ("epochs: 0", "sft.epochs", "above 0"),
        ("batch_rows: 1.0", "sft.batch_rows", "a whole number at least 1"),
        ("batch_rows: 0", "sft.batch_rows", "a whole number at least 1"),
        ("epochs: 1\n  max_steps: 2", "sft.max_steps", "sft.epochs (recipes/my.yaml:9) both say"),
        ("min_learning_rate: 1e-3", "sft.min_learning_rate", "at most sft.learning_rate, which is 0.0001"),
        ("schedule: constant\n  min_learning_rate: 1e-5", "sft.min_learning_rate", "never comes down"),
        ("adam_beta2: 1.0", "sft.adam_beta2", "at least 0 and below 1"),
        ("report_to: [wand]", "sft.report_to[0]", "did you mean wandb?"),
        ("report_to: wandb", "sft.report_to", "such as [wandb]"),
        ("lora: {}", "sft.lora.rank", "is missing"),
        ("lora: true", "sft.lora", "a mapping with rank, alpha"),
        ("lora: {rank: 8, quantize: nf8}", "sft.lora.quantize", "did you mean nf4?"),
        ("batch_pairs: 8", "sft.batch_pairs", "did you mean dpo.batch_pairs or reward.batch_pairs?"),
        ("seed: 8", "sft.seed", "did you mean seed?"),
        ("mixx: {}", "sft.mixx", "did you mean mix?"),
        ("num_train_epochs: 2", "sft.num_train_epochs", "did you mean sft.epochs?"),
        ("lr_scheduler_type: cosine", "sft.lr_scheduler_type", "did you mean sft.schedule?"),
        ("optim: adafactor", "sft.optim", "did you mean sft.trainer.optim?"),
        ("packing: true", "sft.packing", "settings here: mix, weigh_by"),
        ("qqqq: 1", "sft.qqqq", "settings here: mix, weigh_by"),
        ("trainer: {tf32: yes}", "sft.trainer.tf32", "saw yes"),
        ("trainer: {learning_rate: 1}", "sft.trainer.learning_rate", "did you mean sft.learning_rate?"),
        ("trainer: {push_to_hub: true}", "sft.trainer.push_to_hub", "nothing is pushed"),
        ("trainer: {optm: x}", "sft.trainer.optm", "did you mean optim?"),
    ],
)
def test_one_wrong_line_in_a_stage_gives_one_message(folder: Path, line: str, key: str, part: str) -> None:
    check_only(MINIMAL + f"  {line}\n", key, part)


def check_only(text: str, key: str, part: str) -> None:
    problem = mistake(text)
    assert problem.key == key
    assert part in problem.message, str(problem)
    assert len(str(problem)) < 500


def test_recipe_with_nothing_to_do_is_refused(folder: Path) -> None:
    head = MINIMAL[: MINIMAL.index("data:")]
    assert "nothing to do" in mistake(head).message
    assert "nothing to do" in mistake(head + "sft: null\n").message
    assert "neither sft nor dpo" in mistake(head + "release: {}\n").message


def test_options_are_checked_against_what_the_builder_tells(folder: Path) -> None:
    @dataclasses.dataclass
    class Option:
        name: str
        accepted: tuple[str, ...] | None

    @dataclasses.dataclass
    class Info:
        options: tuple[Option, ...]

    builders = {"files": Info((Option("form", ("text", "messages")), Option("languages", None)))}

    def messages(options: str) -> list[str]:
        new = f"{{builder: files, input: [faq.jsonl], options: {options}}}"
        Path("recipes/my.yaml").write_text(with_line(MINIMAL, "{builder: files, input: [faq.jsonl]}", new))
        try:
            load_recipe("recipes/my.yaml", templates=TEMPLATES, builders=builders)
        except RecipeError as error:
            return [str(problem) for problem in error.problems]
        return []

    assert messages("{form: text, languages: [ja]}") == []
    assert messages("{from: text}") == [
        "recipes/my.yaml:5: data.faq.options.from is not an option of this builder; options: form, languages;"
        " did you mean form?"
    ]
    assert "accepted: one of text, messages; did you mean text?" in messages("{form: txt}")[0]
    assert "a list of text" in messages("{languages: ja}")[0]


def test_trainer_keys_of_the_recipe_name_settings_that_exist() -> None:
    names = {"sft": config.SFTConfig, "dpo": config.DPOConfig}
    for stage, batch in (("sft", "batch_rows"), ("dpo", "batch_pairs")):
        for owner in OWNED.values():
            section, _, name = owner.format(stage=stage, batch=batch).rpartition(".")
            fields = {item.name for item in dataclasses.fields(names.get(section, Recipe))}
            assert name in fields, owner
    assert not set(OWNED) & set(REFUSED)


def test_trainer_arguments_are_those_of_the_installed_transformers() -> None:
    known = trainer_arguments()
    if known is None:
        pytest.skip("transformers is not installed")
    assert {"optim", "learning_rate", "fsdp_config", "dataloader_num_workers"} <= known
    assert {"push_to_hub", "label_names", "remove_unused_columns"} <= known & set(REFUSED)


# Files that are hardly YAML


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", 1, "an empty file"),
        ("# nothing\n", 1, "an empty file"),
        ("- a\n- b\n", 1, "saw a list"),
        ("just words\n", 1, "saw just words"),
        ("name: x\nsft:\n\tmix: {}\n", 3, "a tab; YAML indents with spaces"),
        ("name: x\nsft: {mix: [\n", 3, "not valid YAML"),
        ("name: 'x\nbase: tiny\n", 3, "begun in line 1"),
        ("name: a: b\n", 1, "mapping values are not allowed here"),
        ("name: x\nbase: a\x07b\n", 2, "control character (U+0007)"),
        ("name: x\n---\nname: y\n", 2, "a second document"),
        ("name: *other\n", 1, "undefined alias"),
        ("name: &a [*a]\n", 1, "aliases make this"),
        ("name: " + "[" * 100_000, 1, "nested deeper than 32 levels"),
        ("".join(f"{' ' * depth}a{depth}:\n" for depth in range(1000)), 33, "nested deeper"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(15)
        ), None, "aliases make this"),
        ("name: [" + "a," * 200_000 + "]\n", 1, "more than 10000 values"),
        ("name: " + "x" * 1_100_000 + "\n", 1, "at most 1000000"),
        ("name: !!python/object/apply:os.system ['touch owned']\n", 1, "tags are not read"),
    ],
)  # fmt: skip
def test_hostile_and_broken_files_are_refused_quickly(
    folder: Path, text: str, line: int | None, part: str
) -> None:
    start = time.perf_counter()
    problem = mistake(text)
    assert time.perf_counter() - start < 5
    assert line is None or problem.line == line
    assert part in problem.message and len(problem.message) < 200
    assert not Path("owned").exists()


def test_file_that_is_not_utf8_names_its_line(folder: Path) -> None:
    Path("recipes/bad.yaml").write_bytes("name: x\nbase: 日本\n".encode("cp932"))
    with pytest.raises(RecipeError, match=r"recipes/bad.yaml:2: byte \d+ .* is not UTF-8"):
        load_recipe("recipes/bad.yaml")
    Path("recipes/bom.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_recipe("recipes/bom.yaml", templates=TEMPLATES, builders=BUILDERS).name == "small"


def test_recipe_file_that_does_not_exist_names_its_neighbour(folder: Path) -> None:
    load(MINIMAL)
    with pytest.raises(
        RecipeError, match=r"recipes/mi.yaml: there is no such file; .* did you mean recipes/my.yaml\?"
    ):
        load_recipe("recipes/mi.yaml")
    with pytest.raises(RecipeError, match="is a folder, not a recipe"):
        load_recipe("recipes")


# Mutations


def scalars_and_keys(text: str) -> tuple[list[tuple[str, yaml.ScalarNode]], list[tuple[str, yaml.Node]]]:
    """Every key with its dotted name, and every value with the dotted name of its key."""
    keys: list[tuple[str, yaml.ScalarNode]] = []
    values: list[tuple[str, yaml.Node]] = []

    def walk(node: yaml.Node, key: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                path = f"{key}.{name.value}" if key else name.value
                keys.append((path, name))
                values.append((path, value))
                walk(value, path)

    walk(yaml.compose(text), "")
    return keys, values


def replaced(text: str, node: yaml.Node, new: str) -> str:
    end = len(text[: node.end_mark.index].rstrip())  # a block mapping ends where the next key starts
    return text[: node.start_mark.index] + new + text[end:]


def misspellings(name: str, random_: random.Random) -> list[str]:
    """Two of four ways to misspell a name: a character gone, replaced, swapped with the next, doubled."""
    gone, other, swapped, doubled = (random_.randrange(len(name)) for _ in range(4))
    ways = [
        name[:gone] + name[gone + 1 :],
        name[:other] + "x" + name[other + 1 :],
        name[:swapped] + name[swapped : swapped + 2][::-1] + name[swapped + 2 :],
        name[:doubled] + name[doubled] + name[doubled:],
    ]
    return random_.sample([way for way in ways if way not in (name, "")], 2)


def check_misspelt_keys(text: str, read: Callable[[str], list[Problem]]) -> tuple[int, int]:
    """Counts the misspelt recipes, each refused at its place, and those answered with the true key."""
    keys, _ = scalars_and_keys(text)
    sources = {key.removeprefix("data.") for key, _ in keys if re.fullmatch(r"data\.[^.]+", key)}
    count = hits = 0
    for key, node in keys:
        name = key.rpartition(".")[2]
        for misspelt in misspellings(name, random.Random(key)):
            problems = read(replaced(text, node, misspelt))
            shown = f"{key} as {misspelt}:\n" + "\n".join(map(str, problems))
            count += 1
            if key.startswith("data.") and name in sources:
                # The definition is misspelt, so the uses are told, with the line of the definition.
                assert problems and all(f"'{name}'" in problem.message for problem in problems), shown
                assert all(f":{node.start_mark.line + 1})" in problem.message for problem in problems), shown
                hits += all(problem.suggestion == misspelt for problem in problems)
                continue
            assert len(problems) == 1, shown
            place = (node.start_mark.line + 1, node.start_mark.column + 1)
            assert (problems[0].line, problems[0].column) == place, shown
            hits += problems[0].suggestion == name
    return count, hits


def test_every_misspelt_key_is_refused_once_at_its_place_with_the_true_key(folder: Path) -> None:
    count, hits = check_misspelt_keys(EVERYTHING, mistakes)
    assert count > 150
    assert hits >= 0.99 * count, f"{hits} of {count}"


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_load_and_their_misspelt_keys_are_refused(name: str) -> None:
    path = shipped_recipes()[name]
    text = Path(path).read_text(encoding="utf-8")
    try:
        assert load_recipe(name).warnings == []
    except RecipeError as error:
        # A recipe that is pointed at a folder of data says so by its `data_root`, and has no other mistake.
        assert all(problem.key == "data_root" or "input" in problem.key for problem in error.problems), error
        pytest.skip("needs data_root=...")
    beside = Path(path).with_name(f".{name}-misspelt-{os.getpid()}.yaml")

    def read(changed: str) -> list[Problem]:
        beside.write_text(changed, encoding="utf-8")
        with pytest.raises(RecipeError) as caught:
            load_recipe(beside)
        return caught.value.problems

    try:
        count, hits = check_misspelt_keys(text, read)
    finally:
        beside.unlink(missing_ok=True)
    assert hits >= 0.99 * count, f"{hits} of {count}"


def test_every_value_of_the_wrong_type_is_refused_at_its_line(folder: Path) -> None:
    _, values = scalars_and_keys(EVERYTHING)
    for index, (key, node) in enumerate(values):
        is_section, is_free = isinstance(node, yaml.MappingNode), key.startswith("sft.trainer.")
        wrongs = ["2024-01-01", "'???'"]
        wrongs += [] if is_free else ["[[1]]"]
        wrongs += [] if is_free or is_section else ["{zz: 1}"]
        problem = mistake(replaced(EVERYTHING, node, wrongs[index % len(wrongs)]))
        assert problem.key.startswith(key), f"{key}: {problem}"
        assert problem.line == node.start_mark.line + 1, f"{key}: {problem}"


def test_every_quoted_number_and_every_list_made_text_is_refused(folder: Path) -> None:
    _, values = scalars_and_keys(EVERYTHING)
    for key, node in values:
        is_number = (
            isinstance(node, yaml.ScalarNode) and re.fullmatch(r"[0-9.e-]+", node.value) and not node.style
        )
        if (not is_number and not isinstance(node, yaml.SequenceNode)) or key in (
            "sft.trainer.dataloader_num_workers",
            "sft.lora.targets",
        ):
            continue
        problem = mistake(replaced(EVERYTHING, node, f"'{node.value}'" if is_number else "words"))
        assert problem.key == key and problem.line == node.start_mark.line + 1


def test_every_null_is_a_value_or_a_mistake_at_its_line(folder: Path) -> None:
    _, values = scalars_and_keys(EVERYTHING)
    accepted = 0
    for key, node in values[::3]:
        if key == "data_root":
            continue  # then every input is sought beside the recipe
        text = replaced(EVERYTHING, node, "null")
        try:
            load(text)
            accepted += 1
        except RecipeError as error:
            problem = error.problems[0]
            assert problem.key.startswith((key, "release.from", "evaluate.stages")), f"{key}: {error}"
            same_line = problem.line == node.start_mark.line + 1
            assert same_line or isinstance(node, yaml.MappingNode) or key in ("sft", "dpo"), f"{key}: {error}"
    assert accepted > 3


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_text_makes_anything_but_a_recipe_or_a_recipe_error(folder: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(DESIGN)))
    length = data.draw(st.integers(0, 30))
    pieces = st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            ": ",
            "\n",
            "  ",
            "- ",
            "'",
            '"',
            "&a ",
            "*a",
            "!x ",
            "#",
            "null",
            "${",
            "|\n",
            ">",
            "?",
            "%",
        ]
    )
    inserted = data.draw(st.one_of(st.text(max_size=8), st.lists(pieces, max_size=5).map("".join)))
    text = DESIGN[:start] + inserted + DESIGN[start + length :]
    try:
        load(text.encode("utf-8", "replace").decode())
    except RecipeError as error:
        assert error.problems and all(problem.message for problem in error.problems)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    override=st.one_of(
        st.text(max_size=20),
        st.tuples(
            st.sampled_from(
                ["sft", "sft.lora", "data", "sft.mix.own-faq", "name", "sft.trainer", "release.from"]
            ),
            st.text(max_size=12),
        ).map("=".join),
    )
)
def test_no_override_makes_anything_but_a_recipe_or_a_recipe_error(folder: Path, override: str) -> None:
    try:
        load(DESIGN, (override,))
    except RecipeError as error:
        assert error.problems


# The schema itself


def sections() -> list[type]:
    found = [getattr(config, name) for name in config.__all__]
    return [
        item
        for item in found
        if dataclasses.is_dataclass(item) and isinstance(item, type) and item is not Problem
    ]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_setting_is_described_and_its_default_keeps_to_its_limits(section: type) -> None:
    assert section.__doc__
    for item in dataclasses.fields(section):
        assert 10 < len(item.metadata["doc"]) < 110 and "\n" not in item.metadata["doc"], item.name
        if item.default is not REQUIRED and item.default is not None:
            assert is_within(item.default, item.metadata), item.name


def test_recipe_is_written_in_python_too() -> None:
    stage = config.SFTConfig(mix={"faq": config.MixEntry(weight=2)}, learning_rate=0.0, max_steps=3)
    recipe = Recipe(name="mine", base="tiny", template="base", sft=stage)
    assert (recipe.output, stage.epochs, recipe.origin) == ("runs/mine", None, {})
    with pytest.raises(ValueError, match="both say when to stop"):
        config.SFTConfig(mix={}, learning_rate=0.0, max_steps=3, epochs=1)
    stage.trainer["optim"] = "x"
    assert config.SFTConfig(mix={}, learning_rate=0.0).trainer == {}


def test_importing_the_recipe_is_quick_and_needs_no_torch() -> None:
    code = "import sys, tuning.config; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
    assert time.perf_counter() - start < 3  # 0.25 s on an idle machine
