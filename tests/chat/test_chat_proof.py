from __future__ import annotations

import copy
from typing import Any

import pytest

import tuning.chat.proof as proof
from tuning.chat import ChatError, ProofError, Template, encode, load_template, prove
from tuning.schema import Conversation, Message

ROW = Conversation("row-7", "own", (Message("user", "い"), Message("assistant", "はい")))


@pytest.mark.parametrize("name", ["llm-jp-v1", "llm-jp-v3", "llm-jp-v3-system"])
def test_shipped_templates_are_proven_on_built_in_dialogues(name: str, v1: Any, v3: Any) -> None:
    for tokenizer in (v1, v3):
        report = prove(tokenizer, load_template(name))
        # (1 plain + 6 traps) x (1, 2, 3 turns) x (without, with system); 7 x 2 x (1 + 2 + 3) answers.
        assert (report.num_conversations, report.num_turns, report.num_literal) == (42, 84, 0)
        assert not report.refused


def test_real_conversations_are_proven_on_real_tokenizers(real: Any, conversations: list[Any]) -> None:
    rows = [
        Conversation(str(i), "real", tuple(Message(**m) for m in row))
        for i, row in enumerate(conversations[::16])
    ]
    report = prove(real, load_template("llm-jp-v3-system"), rows)
    assert report.num_conversations == 42 + len(rows)
    assert not report.refused


def test_rows_that_spell_a_control_token_are_set_apart_and_counted(v3: Any) -> None:
    row = Conversation("a", "own", (Message("user", "</s>"), Message("assistant", "はい</s>")))
    report = prove(v3, load_template("llm-jp-v3"), [row, ROW])
    assert report.num_literal == 1
    assert report.counts["literal_special_token"] == 1
    assert "1 more spell a control token" in str(report)


def test_rows_that_the_template_cannot_carry_are_counted_by_reason(v3: Any) -> None:
    tool = (
        Message("user", "い"),
        Message("assistant", "は"),
        Message("tool", "4"),
        Message("assistant", "い"),
    )
    report = prove(v3, load_template("llm-jp-v3"), [Conversation("a", "own", tool)])
    assert dict(report.refused) == {"message_lost": 1}


def test_chatml_on_a_byte_level_tokenizer_counts_answers_that_merge_with_the_prompt(byte_level: Any) -> None:
    report = prove(byte_level, load_template("chatml"))
    # The trap that begins with a line break, in 1, 2, 3 turns with and without system.
    assert dict(report.refused) == {"merged_with_prompt (built-in)": 6}


def test_a_served_template_that_differs_by_one_line_break_is_found(v3: Any) -> None:
    served = copy.deepcopy(v3)
    served.chat_template = load_template("llm-jp-v3").source.replace("応答:\\n", "応答:")
    with pytest.raises(ProofError, match=r"row built-in.*at token \d+: training .*<0x0A>.*served ") as caught:
        prove(v3, load_template("llm-jp-v3"), served=served)
    assert isinstance(caught.value, ValueError)


def test_a_served_tokenizer_that_pads_with_the_stop_token_is_found(v3: Any) -> None:
    served = copy.deepcopy(v3)
    load_template("llm-jp-v3").install(served)
    served.pad_token = served.eos_token
    with pytest.raises(ProofError, match="pad '</s>'"):
        prove(v3, load_template("llm-jp-v3"), served=served)


def test_a_served_generation_prompt_that_differs_is_found(v3: Any) -> None:
    served = copy.deepcopy(v3)
    load_template("llm-jp-v3").install(served)
    source = load_template("llm-jp-v3").source
    served.chat_template = source.replace(
        "add_generation_prompt %}{{ '\\n\\n### 応答:\\n'", "add_generation_prompt %}{{ '\\n\\n### 応答: '"
    )
    assert served.chat_template != source
    with pytest.raises(ProofError, match="served: the generation prompt before messages"):
        prove(v3, load_template("llm-jp-v3"), served=served)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda t: [*t[:-1].tolist(), False], "the last target is not"),
        (lambda t: [False] * len(t), "0 runs of targets"),
        (lambda t: [*t[1:].tolist(), True], "inside the 17 tokens of the prompt"),
        (lambda t: [False, *t[:-2].tolist(), True], "decode to"),
    ],
)
def test_targets_that_are_wrong_are_found_and_the_row_is_named(
    fault: Any, message: str, v3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(messages: Any, tokenizer: Any, template: Template) -> Any:
        [sequence] = encode(messages, tokenizer, template)
        if messages is ROW.messages:
            sequence.is_target[:] = fault(sequence.is_target)
        return [sequence]

    monkeypatch.setattr(proof, "encode", faulty)
    with pytest.raises(ProofError, match=f"row row-7: .*{message}"):
        prove(v3, load_template("llm-jp-v3"), [ROW])


def test_a_template_that_cannot_be_used_at_all_is_refused_before_any_row(v3: Any) -> None:
    with pytest.raises(ChatError, match="could not learn to stop"):
        prove(v3, load_template("chatml"))
