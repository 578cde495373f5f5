"""The published DPO recipes, end to end on a tiny model: they pass `check` where their data is, and train at
the published learning rate in every step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, set_seed

from tests.conftest import WORDS, write_lines
from tuning import load_recipe, run
from tuning.config import RecipeError
from tuning.model.tiny import train_tokenizer
from tuning.pipeline import check
from tuning.records import read_jsonl, read_record

HEADERS = (
    "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\n\n### 指示:\n\n\n### 応答:\n"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the recipes name, in their published schemas: 40, 20 and 20 pairs."""
    folder = tmp_path_factory.mktemp("data")
    topics = [f"{one} {other}" for one in WORDS[:8] for other in WORDS[8:13]]
    write_lines(
        folder / "hh-rlhf-12k-ja.jsonl",
        [
            {
                "ID": f"hh-rlhf-12k-ja-{number:04d}",
                "conversations": [{"from": "human", "value": f"{topic}?"}],
                "chosen": f"{topic}。",
                "rejected": "知りません。",
            }
            for number, topic in enumerate(topics)
        ],
    )
    write_lines(
        folder / "ac-self-inst.jsonl",
        [{"prompt": f"{topic}!", "chosen": "できません。", "rejected": topic} for topic in topics[:20]],
    )
    write_lines(
        folder / "aya-ja-evol-inst.jsonl",
        [
            {"idx": number, "chosen": f"{topic}です。", "rejected": "?"}
            for number, topic in enumerate(topics[20:])
        ],
    )
    write_lines(
        folder / "aya-ja-evol-instruct-calm3-dpo-masked.jsonl",
        [
            {
                "idx": number,
                "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": f"{topic}とは?"}],
                "chosen": "-",
                "rejected": "-",
            }
            for number, topic in enumerate(topics[20:])
        ],
    )
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of either architecture: v1.1 is a GPT-2, instruct3 a Llama."""
    tokenizer = train_tokenizer([HEADERS, "知りません。できません。です。とは", *WORDS] * 5, vocab_size=500)
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    set_seed(0)
    models = {
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=512, **ids)
        ),
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                **ids,
            )
        ),
    }
    folders = {}
    for name, model in models.items():
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("name", ["llm-jp-13b-dpo-v1.1", "llm-jp-3-instruct3-dpo"])
def test_published_recipes_pass_check_where_their_data_is_and_else_name_each_file(
    name: str, data: Path
) -> None:
    assert check(load_recipe(name, [f"data_root={data}"])) == []
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, [f"data_root={data.parent}"])
    assert all("no file" in problem.message for problem in caught.value.problems)


def test_v1_1_trains_at_the_linear_rate_and_its_best_evaluation_is_the_model(
    data: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    """36 pairs in steps of 4, 3 epochs: 27 steps, of which ceil(2.7) = 3 are warm-up."""
    overrides = [
        *(f"base={bases['gpt2']}", f"data_root={data}", f"output={tmp_path / 'run'}"),
        *("dpo.batch_pairs=4", "dpo.epochs=3", "dpo.eval_steps=9", "dpo.save_steps=9"),
    ]
    run(load_recipe("llm-jp-13b-dpo-v1.1", overrides), quiet=True)
    lines = list(read_jsonl(tmp_path / "run/dpo/metrics.jsonl"))
    # transformers' get_linear_schedule_with_warmup, as it is published.
    published = [5e-7 * (step / 3 if step < 3 else (27 - step) / (27 - 3)) for step in range(27)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(published, rel=1e-12)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)

    evaluations = list(read_jsonl(tmp_path / "run/dpo/evaluation.jsonl"))
    assert [line["step"] for line in evaluations] == [9, 18, 27]
    assert all(line["pairs"] == 4 for line in evaluations)
    record = read_record(tmp_path / "run/dpo")
    assert record is not None
    best = min(evaluations, key=lambda line: line["loss"])
    assert record["result"]["best"] == {
        **{"by": "loss", "step": best["step"], "figure": best["loss"], "evaluations": 3}
    }
    assert (tmp_path / "run/release/model.safetensors").is_file()


@pytest.mark.parametrize("num_steps", [124, 30])
def test_instruct3_trains_at_nemos_rate(
    data: Path, bases: dict[str, Path], tmp_path: Path, num_steps: int
) -> None:
    """124 steps fall over 4; 30 steps are fewer than warm-up and hold, and do not fall at all."""
    overrides = [
        *(f"base={bases['llama']}", f"data_root={data}", f"output={tmp_path / 'run'}"),
        *("dpo.batch_pairs=1", "dpo.epochs=null", f"dpo.max_steps={num_steps}"),
    ]
    run(load_recipe("llm-jp-3-instruct3-dpo", overrides), quiet=True, to_stage="dpo")
    lines = list(read_jsonl(tmp_path / "run/dpo/metrics.jsonl"))
    published = [nemo_rate(step, num_steps) for step in range(num_steps)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(published, rel=1e-12)
    if num_steps == 124:
        # By hand: from 0 in 20 equal steps, half way down at step 22, the last 100 steps at the minimum.
        assert published[0] == 0
        assert published[10] == pytest.approx(4.5e-7)
        assert published[20] == pytest.approx(9e-7)
        assert published[22] == pytest.approx(7e-7)
        assert published[24:] == [pytest.approx(5e-7)] * 100
        assert [line["learning_rate"] for line in lines].count(lines[-1]["learning_rate"]) == 100
    else:
        assert published[20] == pytest.approx(9e-7)
        assert published[21:] == [5e-7] * 9  # at the minimum right behind the peak
    assert "end_token/chosen" not in lines[0]  # this tokenisation scores no end token
    assert lines[0]["kl/chosen"] == 0


def nemo_rate(step: int, max_steps: int) -> float:
    """NeMo's CosineAnnealing at 0-based `step`, as its code defines it: rise, fall, constant."""
    peak, lowest, warmup, constant = 9e-7, 5e-7, 20, 100
    decay = max_steps - (constant + warmup)
    if step <= warmup:
        return peak * step / warmup
    if step > warmup + decay:
        return lowest
    return lowest + 0.5 * (math.cos(math.pi * (step - warmup) / decay) + 1.0) * (peak - lowest)
