"""Rules one by one, a reward model against its own forward pass, a judge's replies, their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from data_builders import BuilderError
from tests.pairs.conftest import Model, Reply
from tuning.pairs.judge import Judge, judge_prompt, parsed_score
from tuning.pairs.prompts import Prompt
from tuning.pairs.reward_model import RewardModel
from tuning.pairs.rules import rule_of
from tuning.pairs.scorers import Candidate, scorers_of
from tuning.schema import Message

Serve = Callable[[Callable[[dict[str, Any]], Reply | int]], Model]


def scored(rule: str, answer: str, question: str = "?", is_finished: bool = True) -> float:
    name, _, value = rule.partition("=")
    return rule_of(name, value or None).score(question, answer, is_finished)


@pytest.mark.parametrize(
    ("characters", "expected"), [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0), (40, 0.5), (80, 0.25)]
)
def test_length_is_one_in_its_band_and_falls_in_proportion(characters: int, expected: float) -> None:
    assert scored("length=10..20", " " + "x" * characters + "\n") == expected


def test_stops_is_whether_the_end_token_came() -> None:
    assert (scored("stops", "a"), scored("stops", "a", is_finished=False)) == (1.0, 0.0)


def test_language_and_loops_are_those_of_the_rewards() -> None:
    assert scored("language", "It is Tokyo.", "首都はどこですか。") == 0.0
    assert scored("language", "東京です。", "首都はどこですか。") == 1.0
    assert scored("no_loop", "私は海が好きです。" * 12) == 0.0
    assert scored("no_loop", "The sea is wide.") == 1.0


def test_regular_expressions_forbid_and_require() -> None:
    assert scored("forbids=/https?:/", "see http://x") == 0.0
    assert scored("forbids=/https?:/", "see x") == 1.0
    assert scored("requires=/です。\\Z/", "東京です。") == 1.0
    assert scored("requires=/です。\\Z/", "東京だ。") == 0.0


def test_a_command_line_names_rules_with_weights_and_values() -> None:
    """A comma and an asterisk inside a regular expression end nothing."""
    found = scorers_of(r"2*rules:length=5..9,0.5*stops,-1*forbids=/a,b*\/c/")
    assert [(one.weight, one.scorer.name) for one in found] == [
        (2.0, "length"),
        (1.0, "stops"),
        (-2.0, r"forbids /a,b*\/c/"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("rules", "unknown_score"),
        ("model:x", "unknown_score"),
        ("rules:", "unknown_score"),
        ("rules:polite", "unknown_rule"),
        ("rules:stops=1", "bad_rule"),
        ("rules:length=9..5", "bad_rule"),
        ("rules:length=0..5", "bad_rule"),
        ("rules:forbids=x", "bad_rule"),
        ("rules:forbids=/(/", "bad_rule"),
        ("rules:stops,,length", "bad_rule"),
        ("reward:no/such/folder", "bad_model"),
        ("judge:http://localhost:1/v1", "no_model"),
        ("judge:localhost?model=x", "bad_endpoint"),
    ],
)
def test_a_score_that_is_none_is_refused(text: str, code: str) -> None:
    with pytest.raises(BuilderError, match=rf"\[{code}\]"):
        scorers_of(text)


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate(at, {"role": "assistant", "content": text}, True) for at, text in enumerate(texts)]


def prompt_of(*texts: str) -> Prompt:
    turns = tuple(Message(("user", "assistant")[at % 2], text) for at, text in enumerate(texts))
    return Prompt("row-1", "talks", turns, None, {})


@pytest.fixture
def reward_folder(model_folder: Path, tmp_path: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_labels=1, pad_token_id=3, max_position_embeddings=64, **size
    )
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    return tmp_path / "reward"


def test_a_reward_model_scores_in_a_batch_as_it_does_alone(reward_folder: Path) -> None:
    """Answers of 1, 4 and too many tokens: the last gets no score, padding changes none of the others."""
    scorer, prompt = RewardModel(reward_folder), prompt_of("the sea", "a river", "the town")
    steps = scorer.steps(prompt, answers := candidates("海", "a lamp and a bell", "song " * 80))
    [request] = next(steps)
    scorer.open()
    replies = scorer.ask([request])
    with pytest.raises(StopIteration) as end:
        steps.send(replies)
    model = LlamaForSequenceClassification.from_pretrained(reward_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    expected = []
    for answer in answers[:2]:
        turns = [{"role": one.role, "content": one.content} for one in prompt.messages]
        turns.append({"role": "assistant", "content": answer.content})
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected.append(float(model(ids).logits))
    assert end.value.value[:2] == pytest.approx(expected, abs=2e-6)
    assert end.value.value[2] is None
    assert abs(expected[0] - expected[1]) > 1e-4


def test_a_classifier_of_several_classes_is_no_reward_model(reward_folder: Path) -> None:
    config = LlamaConfig.from_pretrained(reward_folder)
    config.num_labels = 3
    config.save_pretrained(reward_folder)
    with pytest.raises(BuilderError, match="3 outputs"):
        RewardModel(reward_folder)


def test_a_base_model_is_no_reward_model(model_folder: Path) -> None:
    """Its head would be made up of random numbers."""
    with pytest.raises(BuilderError, match="2 outputs"):
        RewardModel(model_folder)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 7}', 7.0),
        ('{"reason": "fine", "score": 7.5}', 7.5),
        ('<think>{"score": 1}</think>\n{"score": 9}', 9.0),
        ('```json\n{"score": 3}\n```', 3.0),
        ("7", None),
        ("Score: 7", None),
        ('{"score": "7"}', None),
        ('{"score": true}', None),
        ('{"score": 11}', None),
        ('{"score": 0}', None),
        ('{"score": NaN}', None),
        ('{"score": 7} as I said', None),
        ('{"score": 7, "also": 1}', None),
        ('{"reason": "cut', None),
    ],
)
def test_a_judges_reply_counts_only_as_it_was_asked_for(reply: str, score: float | None) -> None:
    assert parsed_score(reply) == score


def test_the_judge_reads_the_whole_dialogue_in_the_language_of_the_question() -> None:
    japanese = judge_prompt(prompt_of("海はどこ？", "東です。", "では川は？"), "西です。")
    assert "採点" in japanese
    assert japanese.index("海はどこ？") < japanese.index("東です。") < japanese.index("では川は？")
    assert "<answer>\n西です。\n</answer>" in japanese
    assert "Judge the answer" in judge_prompt(prompt_of("Where is {the} sea?"), "East.")


def test_a_reply_that_is_no_score_is_asked_for_again_and_given_up_after_three(serve: Serve) -> None:
    """One answer is judged at the second attempt, one never; the third reads as asked."""

    def reply(body: dict[str, Any]) -> Reply:
        text = body["messages"][0]["content"]
        is_again = "The reply has to be" in text
        if "never" in text or ("later" in text and not is_again):
            return "7 out of 10", "stop"
        return '{"score": 7}', "stop"

    server = serve(reply)
    judge = Judge(server.url, "judge")
    steps = judge.steps(prompt_of("Where?"), candidates("at once", "later", "never"))
    requests = next(steps)
    sizes, scores = [], None
    while scores is None:
        sizes.append(len(requests))
        try:
            requests = steps.send(judge.ask(requests))
        except StopIteration as end:
            scores = end.value
    assert sizes == [3, 2, 1]
    assert scores == [7.0, 7.0, None]
    assert judge.counts == {"judge_unparsed": 4}  # later once, never three times
    assert all(body["temperature"] == 0 for body in server.bodies)
