"""Reward model and GRPO from one recipe: what they leave, whose ids they read, what is done again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl.trainer.base_trainer
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import recipes.grpo
import recipes.reward
from tests.conftest import TinyRun, run_tiny
from tests.methods.conftest import write_methods_recipe
from tuning import load_recipe
from tuning.borrowed_stage import borrowed_arguments, open_plan, rows_from
from tuning.chat import encode_pair, encode_prompt, load_template
from tuning.data_report.report import recipe_report
from tuning.mixture import MixtureError, built_rows
from tuning.model.loading import ModelError, load_tokenizer
from tuning.model.scoring import load_reward_model, new_reward_model, scores
from tuning.pipeline import check
from tuning.prompts import mix_prompts
from tuning.records import check_counts, read_json, read_jsonl, read_record
from tuning.schema import Conversation, PreferencePair, dicts
from tuning.stage import Paths, open_mixture, open_tokenizer, shares
from tuning.train.trainer import Interrupted

SAID = re.compile(r"^(\S+): (running|reused)", re.MULTILINE)


def again(one: TinyRun, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, str]:
    """Runs once more up to grpo; training stage -> what became of it."""
    capsys.readouterr()
    run_tiny(one.recipe, one.output, *overrides, to_stage="grpo")
    said = dict(SAID.findall(capsys.readouterr().err))
    return {stage: said[stage] for stage in ("base", "sft", "reward", "grpo")}


def paths_of(one: TinyRun, stage: str, folder: Path | None = None) -> Paths:
    """What the stage's recipe module was told in the finished run; it may write to another folder."""
    datasets = {name: one.output / "data" / name for name in ("chats", "pairs")}
    start, models = str(one.output / "sft/model"), {"reward": str(one.output / "reward/model")}
    return Paths(start, datasets, folder or one.output / stage, one.output / "cache", models)


# What a run leaves


def test_both_stages_leave_a_complete_model_their_metrics_and_a_record(methods_run: TinyRun) -> None:
    for stage, steps, unit, rows in (("reward", 8, "pairs", 4), ("grpo", 3, "prompts", 2)):
        folder = methods_run.output / stage
        record = read_record(folder)
        assert record is not None
        assert record["inputs"]["start"] == read_json(methods_run.output / "sft/record.json")["fingerprint"]
        assert record["result"]["steps"] == steps
        for name, counts in record["result"]["sources"].items():
            check_counts(counts, name)
        lines = list(read_jsonl(folder / "metrics.jsonl"))
        assert [line["step"] for line in lines] == list(range(1, steps + 1))
        for line in lines:
            assert line[unit] == rows
            assert line["tokens"] > 0
            assert {"loss", "grad_norm", "learning_rate", "epoch", "seconds"} <= set(line)
        files = {path.name for path in (folder / "model").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files
    rates = [line["learning_rate"] for line in read_jsonl(methods_run.output / "grpo" / "metrics.jsonl")]
    # The cosine over 3 steps: (1 + cos 0) / 2, (1 + cos 60 deg) / 2, (1 + cos 120 deg) / 2.
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3])


def test_nothing_that_is_left_must_be_unpickled(methods_run: TinyRun) -> None:
    for stage in ("reward", "grpo"):
        suffixes = {path.suffix for path in (methods_run.output / stage).rglob("*") if path.is_file()}
        assert suffixes == {".safetensors", ".json", ".jsonl", ".jinja"}


def test_reward_model_prefers_held_out_chosen_answers_where_they_are_easily_told(
    methods_run: TinyRun,
) -> None:
    [line] = read_jsonl(methods_run.output / "reward" / "evaluation.jsonl")
    assert (line["step"], line["pairs"], line["accuracy"]) == (8, 6, 1.0)
    # Wilson's interval of 6 of 6: 6 / (6 + 1.96 ** 2) to 1.
    assert line["accuracy_interval"] == pytest.approx([6 / (6 + 1.959964**2), 1.0])


def test_reward_model_is_served_by_plain_transformers_with_the_ids_it_was_trained_on(
    methods_run: TinyRun,
) -> None:
    folder = methods_run.output / "reward" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    rows = built_rows(methods_run.output / "data/pairs", preference=True, stage="reward")
    for row in rows:
        assert isinstance(row, PreferencePair)
        values = []
        pair = encode_pair(row.prompt, row.chosen, row.rejected, tokenizer, load_template("llm-jp-v1"))
        for answer, encoded in zip((row.chosen, row.rejected), pair, strict=True):
            served = tokenizer.apply_chat_template(
                dicts(row.prompt + answer), tokenize=True, return_dict=True, return_tensors="pt"
            )
            assert served["input_ids"][0].tolist() == encoded.input_ids.tolist()
            with torch.no_grad():
                values.append(model(**served).logits.item())
            assert scores(model, [encoded.input_ids])[0].item() == pytest.approx(values[-1], abs=1e-6)
        assert values[0] > values[1]


def test_score_of_a_sequence_does_not_depend_on_what_it_is_padded_with(methods_run: TinyRun) -> None:
    model = load_reward_model(str(methods_run.output / "reward/model"), pad_token_id=3)
    sequences = [np.arange(4, 4 + length) for length in (3, 9, 5)]
    alone = [scores(model, [sequence])[0].item() for sequence in sequences]
    assert scores(model, sequences).tolist() == pytest.approx(alone, abs=1e-6)


# Ids and order


def test_trl_trains_the_reward_model_on_the_template_s_ids_in_the_recipe_s_order(
    methods_run: TinyRun,
) -> None:
    recipe, paths = load_recipe(methods_run.recipe), paths_of(methods_run, "reward")
    assert recipe.reward is not None
    tokenizer, template = open_tokenizer(recipe, paths.start)
    mixture = open_mixture(recipe, recipe.reward, paths, tokenizer, template, stage="reward")
    plan = open_plan(
        recipe.reward,
        replace(paths, folder=paths.folder / "elsewhere"),
        mixture.order,
        name="reward",
        unit="pairs",
        batch_rows=4,
        evaluate=None,
    )
    examples = rows_from(mixture.order, plan)
    trainer = recipes.reward.RewardRun(
        model=new_reward_model(paths.start, pad_token_id=tokenizer.pad_token_id, seed=0),
        args=recipes.reward.RewardConfig(
            **borrowed_arguments(recipe, recipe.reward, plan, at_once=2, batch=4),
            max_length=None,
            train_sampling_strategy="sequential",
        ),
        train_dataset=recipes.reward.pairs_for_trl(examples),
        processing_class=tokenizer,
        plan=plan,
    )
    rows = {row.id: row for row in built_rows(paths.datasets["pairs"], preference=True, stage="reward")}
    expected = []
    for example in examples:
        row = rows[example.id]
        assert isinstance(row, PreferencePair)
        for answer in (row.chosen, row.rejected):
            served = tokenizer.apply_chat_template(
                dicts(row.prompt + answer), tokenize=True, return_dict=True
            )
            expected.append(served["input_ids"])
    assert len(expected) == 2 * 8 * 4
    seen = []
    for batch in trainer.get_train_dataloader():
        ids = [row[mask.bool()].tolist() for row, mask in zip(*batch.values(), strict=True)]
        chosen, rejected = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        seen += [side for pair in zip(chosen, rejected, strict=True) for side in pair]
    assert seen == expected


def test_trl_generates_from_exactly_the_ids_of_encode_prompt(methods_run: TinyRun) -> None:
    recipe, paths = load_recipe(methods_run.recipe), paths_of(methods_run, "grpo")
    assert recipe.grpo is not None
    tokenizer, template = open_tokenizer(recipe, paths.start)
    mixture = mix_prompts(
        {"chats": paths.datasets["chats"]},
        shares(recipe.grpo),
        tokenizer,
        template,
        stage="grpo",
        max_length=1000,
        too_long="drop",
        seed=recipe.seed,
    )
    rows = built_rows(paths.datasets["chats"], preference=False, stage="grpo")
    messages = {row.id: row.messages for row in rows if isinstance(row, Conversation)}
    prompts = [*mixture.prompts.values(), *mixture.dev]
    assert len(prompts) == len(rows) - 1
    # The text that spells a control token is what `apply_chat_template` would read as one.
    assert mixture.sources["chats"]["rows_dropped"] == {"served_otherwise": 1}
    assert {len(prompt.messages) for prompt in prompts} == {1, 4}
    assert any(message.input for prompt in prompts for message in prompt.messages)
    dataset = recipes.grpo.prompts_for_trl(prompts)
    plan = open_plan(
        recipe.grpo,
        replace(paths, folder=paths.folder / "elsewhere"),
        mixture.order,
        name="grpo",
        unit="prompts",
        batch_rows=2,
        evaluate=None,
    )
    model = AutoModelForCausalLM.from_pretrained(paths.start)
    trainer = recipes.grpo.GRPORun(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)] * 4,
        args=recipes.grpo.GRPOConfig(**recipes.grpo.grpo_arguments(recipe, plan, model, len(tokenizer))),
        train_dataset=dataset,
        processing_class=tokenizer,
        plan=plan,
    )
    seen, _, _ = trainer._tokenize_prompts([row["prompt"] for row in dataset])
    for prompt, ids in zip(prompts, seen, strict=True):
        whole = messages[prompt.id]
        assert (prompt.messages, prompt.answer) == (whole[:-1], whole[-1].content)
        assert list(ids) == encode_prompt(whole[:-1], tokenizer, template).tolist()
    batches = [row["number"] for batch in trainer.get_train_dataloader() for row in batch]
    # A step has two prompts with four answers each, in the order given; TRL's loader says so twice, once for
    # each of the two forward passes that the eight answers are divided into.
    assert batches[:32] == [
        number for step in ((0, 1), (0, 1), (2, 3), (2, 3)) for number in step for _ in "1234"
    ]


# What GRPO is rewarded for


def test_rewards_are_logged_by_name_and_summed_by_weight(methods_run: TinyRun) -> None:
    for line in read_jsonl(methods_run.output / "grpo" / "metrics.jsonl"):
        values = {name: line[f"rewards/{name}/mean"] for name in ("ends", "short", "right", "liked")}
        weights = {"ends": 1.0, "short": 0.5, "right": 1.0, "liked": 0.1}
        assert line["reward"] == pytest.approx(sum(weights[name] * value for name, value in values.items()))
    before, after = read_jsonl(methods_run.output / "grpo" / "evaluation.jsonl")
    assert (before["step"], after["step"], after["prompts"]) == (0, 3, 2)
    assert {"reward", "rewards/ends", "rewards/liked", "stops", "mean_length"} <= set(after)


def test_grpo_raises_what_it_rewards(methods_run: TinyRun, tmp_path: Path) -> None:
    """Sampled answers that hold a vowel become more: about 0.3 of 32 in the first steps, 0.6 in the last."""
    vowels = "{ends: null, short: null, right: null, liked: null, vowel: {rule: regex, pattern: '[aeiou]'}}"
    size = ["num_generations=16", "answers_per_device=32", "max_new_tokens=2", "max_steps=12"]
    course = ["learning_rate=0.02", "schedule=constant"]
    changes = [f"grpo.{change}" for change in (f"rewards={vowels}", *size, *course)]
    recipe = load_recipe(methods_run.recipe, changes)
    recipes.grpo.train(recipe, paths_of(methods_run, "grpo", tmp_path))
    rewards = [line["reward"] for line in read_jsonl(tmp_path / "metrics.jsonl")]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.3


def test_a_model_that_gives_no_single_number_is_refused_as_reward_model(methods_run: TinyRun) -> None:
    with pytest.raises(
        ModelError, match="LlamaForCausalLM with 2 labels; accepted: a sequence classification"
    ):
        load_reward_model(str(methods_run.output / "sft/model"), pad_token_id=3)


def test_check_tells_a_reward_model_from_another_by_its_files(methods_run: TinyRun) -> None:
    def problems(model: Path) -> list[str]:
        key = f"grpo.rewards.liked.model={model}"
        return [problem.message for problem in check(load_recipe(methods_run.recipe, [key]))]

    assert problems(methods_run.output / "reward/model") == []
    [message] = problems(methods_run.output / "sft/model")
    assert "is no reward model: saw LlamaForCausalLM; accepted: a sequence classification model" in message


# What is done again, what resumes


@pytest.fixture
def copied(methods_run: TinyRun, tmp_path: Path) -> TinyRun:
    output = tmp_path / "run"
    shutil.copytree(methods_run.output, output)
    return TinyRun(methods_run.recipe, output)


def test_a_second_run_reuses_both_stages_whatever_fits_on_a_device(
    methods_run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ["reward.pairs_per_device=4", "reward.log_steps=2", "grpo.eval_steps=1", "grpo.save_steps=1"]
    assert set(again(methods_run, capsys, *same).values()) == {"reused"}


def test_a_changed_reward_model_trains_grpo_again_and_a_changed_grpo_only_itself(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = again(copied, capsys, "grpo.max_steps=1")
    assert seen == {"base": "reused", "sft": "reused", "reward": "reused", "grpo": "running"}
    seen = again(copied, capsys, "grpo.max_steps=1", "reward.max_steps=1")
    assert seen == {"base": "reused", "sft": "reused", "reward": "running", "grpo": "running"}


def without_time(lines: Any) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if "time" not in key and key != "seconds"}
        for line in lines
    ]


@pytest.mark.parametrize("stage", ["reward", "grpo"])
def test_a_stage_that_was_stopped_goes_on_as_if_it_had_not_been(
    methods_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module = {"reward": recipes.reward, "grpo": recipes.grpo}[stage]
    recipe, paths = load_recipe(methods_run.recipe), paths_of(methods_run, stage, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_plan", lambda *a, **k: replace(open_plan(*a, **k), stop_after=2))
        with pytest.raises(Interrupted, match=f"{stage}: stopped after step 2"):
            module.train(recipe, paths)
    module.train(recipe, paths)
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        once = without_time(read_jsonl(methods_run.output / stage / name))
        assert without_time(read_jsonl(tmp_path / name)) == once
    seen = load_file(tmp_path / "model/model.safetensors")
    for key, tensor in load_file(methods_run.output / stage / "model/model.safetensors").items():
        assert torch.equal(seen[key], tensor), key


def test_a_stop_between_steps_on_the_same_answers_waits_for_the_last_of_them(
    methods_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(methods_run.recipe, ["grpo.num_iterations=2", "grpo.max_steps=4"])
    recipes.grpo.train(recipe, paths_of(methods_run, "grpo", tmp_path / "once"))
    paths = paths_of(methods_run, "grpo", tmp_path / "twice")
    with monkeypatch.context() as patch:
        patch.setattr(recipes.grpo, "open_plan", lambda *a, **k: replace(open_plan(*a, **k), stop_after=1))
        with pytest.raises(Interrupted, match="grpo: stopped after step 2/4"):
            recipes.grpo.train(recipe, paths)
    recipes.grpo.train(recipe, paths)
    once, twice = (without_time(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("once", "twice"))
    assert once == twice
    assert [line["epoch"] for line in once] == [
        2 / 20,
        2 / 20,
        4 / 20,
        4 / 20,
    ]  # 23 rows, 2 held out, 1 dropped


# Adapters, terms, refusals


def test_adapters_are_merged_into_complete_models(methods_run: TinyRun, tmp_path: Path) -> None:
    overrides = ["reward.lora.rank=4", "grpo.lora.rank=4", "grpo.beta=0.1", "grpo.max_steps=2"]
    recipe = load_recipe(methods_run.recipe, [*overrides, "grpo.learning_rate=0.05"])
    ids = torch.tensor([[1, 5, 6, 7, 8, 2]])
    for stage, kind in (
        ("reward", AutoModelForSequenceClassification),
        ("grpo", AutoModelForCausalLM),
    ):
        paths = paths_of(methods_run, stage, tmp_path / stage)
        notes = {"reward": recipes.reward, "grpo": recipes.grpo}[stage].train(recipe, paths)
        assert notes["adapter"] == "adapter"
        merged = kind.from_pretrained(tmp_path / stage / "model")
        assert not (tmp_path / stage / "model/adapter_config.json").exists()
        options = {"num_labels": 1} if stage == "reward" else {}
        plain = kind.from_pretrained(paths.start, **options)
        if stage == "reward":
            plain.config.pad_token_id = merged.config.pad_token_id
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / stage / "adapter")).eval()
        with torch.no_grad():
            assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)
            assert not torch.allclose(
                kind.from_pretrained(paths.start, **options)(ids).logits, merged(ids).logits
            )
    assert all(line["kl"] is not None for line in read_jsonl(tmp_path / "grpo" / "metrics.jsonl"))


def test_nothing_is_told_to_the_makers_of_trl(
    methods_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", lambda **told: sent.append(told))
    recipe = load_recipe(methods_run.recipe, ["reward.max_steps=1"])
    recipes.reward.train(recipe, paths_of(methods_run, "reward", tmp_path))
    assert sent == []


def test_the_data_report_draws_the_reward_models_pairs(methods_run: TinyRun) -> None:
    report = recipe_report(load_recipe(methods_run.recipe, [f"output={methods_run.output}"]))
    assert [stage["stage"] for stage in report["stages"]] == ["sft", "reward"]
    [(name, counts)] = report["stages"][1]["sources"].items()
    assert (name, counts["dev_rows"]) == ("pairs", 6)
    assert counts["epoch_rows"] == counts["train_rows"] > 0
    assert counts["epoch_share_of_target_tokens"] == 1.0


def test_a_row_with_a_weight_of_its_own_is_refused_since_trl_would_ignore_it(tmp_path: Path) -> None:
    recipe = write_methods_recipe(tmp_path)
    lines = (tmp_path / "chats.jsonl").read_text().splitlines()
    lines[3] = lines[3][:-1] + ', "loss_weight": 2}'
    (tmp_path / "chats.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        MixtureError, match=r"row chats-00004 of chats has loss_weight 2.*accepted: 1, or a weight"
    ):
        run_tiny(
            recipe, tmp_path / "run", "sft=null", "reward=null", "grpo.rewards.liked=null", to_stage="grpo"
        )


def test_the_released_model_is_grpo_s_and_names_the_pairs_behind_its_reward_model(
    copied: TinyRun, tmp_path: Path
) -> None:
    run_tiny(copied.recipe, copied.output, "evaluate={answers: 0}", "release={}")
    card = (copied.output / "release" / "README.md").read_text(encoding="utf-8")
    assert "with [tuning]: SFT, then GRPO." in card
    assert "- **pairs** (MIT)" in card
    released = load_file(copied.output / "release/model.safetensors")
    trained = load_file(copied.output / "grpo/model/model.safetensors")
    assert all(torch.equal(released[key], tensor) for key, tensor in trained.items())
    figures = read_json(copied.output / "evaluate/evaluation.json")["figures"]
    assert list(figures) == ["base", "sft", "grpo"]
    tokenizer = load_tokenizer(str(copied.output / "release"))
    assert tokenizer.chat_template == load_template("llm-jp-v1").source
