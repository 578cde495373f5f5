"""Evaluation questions in training rows: what is found, under which code, and what is only alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_builders import BuilderError
from data_builders.contamination import contamination
from data_builders.evaluation_sets import EvaluationSet, read_evaluation_set
from tests.conftest import write_lines
from tuning.schema import Conversation, Message, parse_row

QUESTION = "時間管理能力を向上させるには、どうしたらいいですか？"
ENGLISH = "Compose an engaging travel blog post about a recent trip to Hawaii, with must-see attractions."


def chat(question: str, answer: str = "はい。", row_id: str = "s-00001", **meta: Any) -> Conversation:
    messages = (Message("user", question), Message("assistant", answer))
    return Conversation(row_id, "s", messages, meta=meta)


def evaluation(folder: Path, *rows: Any) -> list[EvaluationSet]:
    write_lines(folder / "test.jsonl", list(rows))
    return [read_evaluation_set(folder / "test.jsonl")]


def codes(rows: list[Conversation], sets: list[EvaluationSet]) -> list[list[str]]:
    return [[item.code for item in contamination([row], sets)] for row in rows]


def test_width_spacing_case_and_punctuation_hide_no_question(tmp_path: Path) -> None:
    sets = evaluation(tmp_path, {"turns": [QUESTION, "もう一度。"]}, {"turns": [ENGLISH]})
    rows = [
        chat(QUESTION),
        chat("「時間 管理 能力」を 向上させるには どうしたら いいですか"),
        chat(ENGLISH.upper().replace(",", " ").replace(" ", "\u3000")),
        chat("".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in ENGLISH)),
    ]
    assert codes(rows, sets) == [["evaluation_prompt"]] * 4


def test_a_question_inside_a_longer_turn_is_found_in_any_role(tmp_path: Path) -> None:
    sets = evaluation(tmp_path, {"question": QUESTION})
    rows = [chat(f"次に答えてください。{QUESTION}よろしく。"), chat("例は？", f"例えば「{QUESTION}」です。")]
    assert codes(rows, sets) == [["evaluation_text"]] * 2
    assert contamination(rows[1:], sets)[0].where == "messages[1].content"


def test_questions_are_found_in_thinking_and_in_the_answers_between(tmp_path: Path) -> None:
    """Both are trained on: llm-jp-v4 writes thinking, plackett_luce ranks every answer."""
    sets = evaluation(tmp_path, {"question": QUESTION})
    turn = Message("assistant", "はい。", thinking=f"聞かれたのは「{QUESTION}」。")
    [found] = contamination([Conversation("s-1", "s", (Message("user", "例は？"), turn))], sets)
    assert (found.code, found.where) == ("evaluation_text", "messages[1].thinking")
    ranked = [[{"role": "assistant", "content": text}] for text in ("甲", f"例えば「{QUESTION}」", "乙")]
    row = {"id": "r", "source": "s", "prompt": [{"role": "user", "content": "例は？"}], "ranked": ranked}
    [found] = contamination([parse_row(row)], sets)
    assert (found.code, found.where) == ("evaluation_text", "ranked[1][0].content")


def test_a_sentence_that_several_questions_are_about_is_no_template(tmp_path: Path) -> None:
    """300 questions, of which five ask of one story: five are under 2 %, the 300 of the instruction are not.
    The same thing asked of another story is another question."""
    story = "村の外れに住む老人は、毎朝三羽の鶏に麦をまいてから、遠い町まで歩いて新聞を買いに行った。"
    other = "港で働く若い船員が、嵐の夜に灯台の明かりを見つけて、仲間たちと無事に島へ戻ってきた。"
    about = "{}について、文章に書かれていることだけを使って詳しく説明しなさい。"
    long = "登場する人物が夜明けから日暮れまでに自分の手で片付けた仕事の順番とその理由"
    asked = [about.format(what) for what in (long, "鳥の世話", "畑の実り", "町の様子", "長い道のり")]
    ask = (
        "次の文章を注意深く読んでから、続く問いに日本語で簡潔に答えてください。回答は必ず一つの段落にまとめ、"
        "箇条書きや表を用いないでください。推測で補うことは認められず、根拠となる箇所がない場合にはその旨を"
        "はっきりと述べ、余計な挨拶や前置きは一切含めないことを厳守してください。"
    )
    filler = [f"{chr(0x4E00 + 40 * n)}{chr(0x4E01 + 41 * n)}の由来を十字以内で述べよ。" for n in range(295)]
    questions = [ask + text for text in [*(story + one for one in asked), *filler]]
    sets = evaluation(tmp_path, *({"question": question} for question in questions))
    assert contamination([chat(ask + other + asked[0])], sets) == []
    assert codes([chat(ask + story + asked[0])], sets) == [["evaluation_prompt"]]


@pytest.mark.parametrize("form", ["samples", "instruction", "messages"])
def test_an_item_is_found_under_another_instruction_and_without_one(form: str, tmp_path: Path) -> None:
    """llm-jp-eval words its instructions otherwise from version to version; the input is the item."""
    instruction = "前提と仮説の関係をentailment、contradiction、neutralの中から回答してください。" * 2
    items = [
        "前提：駅前の広場で男性が赤い風船を三つ配っている\n仮説：男性が風船を配っている",
        "前提：海辺の家の屋根で猫が二匹眠っている\n仮説：犬が吠えている",
    ]
    if form == "samples":
        rows: list[Any] = [{"instruction": instruction, "samples": [{"input": text} for text in items]}]
    elif form == "instruction":
        rows = [{"instruction": instruction, "input": text, "output": "neutral"} for text in items]
    else:
        user = {"role": "user", "content": instruction}
        rows = [{"messages": [{**user, "input": text}]} for text in items]
    sets = evaluation(tmp_path, *rows)
    asked = Message("user", "二つの文の関係を一語で述べよ。", input=items[0])
    reworded = Conversation("s-1", "s", (asked, Message("assistant", "entailment")))
    assert codes([chat(items[1]), reworded, chat(instruction)], sets) == [
        ["evaluation_prompt"],
        ["evaluation_prompt"],
        [],
    ]


def test_an_original_file_of_jaster_is_read_as_its_evaluation_rows(tmp_path: Path) -> None:
    row = {
        "sentence_pair_id": "1",
        "yjcaptions_id": "100_200-10-20",
        "sentence1": "駅前の広場で男性が風船を配っている",
        "sentence2": "男性が風船を配っている",
        "label": "entailment",
    }
    write_lines(tmp_path / "valid-v1.3.json", [row])
    found = read_evaluation_set(tmp_path / "valid-v1.3.json")
    [item] = found.items
    assert item.inputs == (f"前提：{row['sentence1']}\n仮説：{row['sentence2']}",)
    assert found.sha256
    write_lines(tmp_path / "train-v1.3.json", [row])
    with pytest.raises(
        BuilderError, match=r"no question; fields present: sentence_pair_id.*dev or test rows"
    ):
        read_evaluation_set(tmp_path / "train-v1.3.json")


def test_most_n_grams_are_enough_and_half_are_not(tmp_path: Path) -> None:
    text = "図書館で読んだ本から一冊を選び、作者の考えとあなた自身の体験とを比べて感想文を書いてください。"
    sets = evaluation(tmp_path, {"text": text})
    # 45 letters have 33 13-grams; 28 of them are left without the first five letters, 12 in the first 24.
    [found] = contamination([chat(text[5:])], sets)
    assert (found.code, found.similarity) == ("evaluation_overlap", round(28 / 33, 3))
    assert contamination([chat(text[:25])], sets) == []


def test_a_short_question_counts_as_a_whole_turn_only(tmp_path: Path) -> None:
    sets = evaluation(tmp_path, {"turns": ["富士山の高さは？", "なぜですか？"]}, {"turns": ["はい"]})
    rows = [
        chat("富士山の 高さは"),
        chat("富士山の高さは何メートルですか？"),
        chat("なぜですか？"),
        chat("はい"),
    ]
    assert codes(rows, sets) == [["evaluation_prompt"], [], [], []]


def test_a_template_that_many_questions_share_proves_nothing(tmp_path: Path) -> None:
    template = "前提と仮説の関係をentailment、contradiction、neutralの中から回答してください。"
    towns = ["港は冬に閉じる", "駅前に人が集まる", "山頂は霧に包まれた", "祭りが終わった", "橋が架かる"]
    sets = evaluation(tmp_path, *({"instruction": template, "input": f"前提：{town}"} for town in towns))
    message = Message("user", template, input="前提：祭りが終わった")
    row = Conversation("s-00001", "s", (message, Message("assistant", "neutral")))
    rows = [
        chat(f"{template}\n前提：森に鳥が鳴く"),
        chat(template),
        chat(f"{template}\n前提：祭りが始まる"),
        row,
    ]
    assert codes(rows, sets) == [[], [], [], ["evaluation_prompt"]]


def test_ids_count_where_they_are_more_than_numbers_and_not_made_up(tmp_path: Path) -> None:
    sets = evaluation(
        tmp_path,
        {"ID": "bench-test-0000012", "text": QUESTION},
        {"ID": "s-00001", "text": "別の質問をここに書いておきます。"},
        {"ID": 81, "text": "三つ目の質問をここに書いておきます。"},
    )
    rows = [
        chat("x", ID="bench-test-0000012"),
        chat("x", row_id="bench-test-0000012"),
        chat("x"),
        chat("x", ID="81"),
    ]
    assert codes(rows, sets) == [["evaluation_id"], ["evaluation_id"], [], []]


@pytest.mark.parametrize("number", ["0000144-001", "0000148-001"])
def test_the_two_leaked_items_of_answer_carefully_are_known_with_and_without_the_test_file(
    number: str, tmp_path: Path
) -> None:
    row = chat("x", ID=f"answercarefully-instruction-dev-001-001-{number}")
    [found] = contamination([row], [])
    assert (found.code, found.where) == ("known_leak", "meta.ID")
    test_id = f"answercarefully-instruction-test-001-001-{number}"
    sets = evaluation(tmp_path, {"ID": test_id, "text": QUESTION, "output": "…"})
    assert codes([row, chat("x", ID=test_id)], sets) == [["evaluation_id"]] * 2
    assert contamination([chat("x", ID="answercarefully-instruction-dev-001-001-0000143-001")], sets) == []


@pytest.mark.parametrize(
    ("row", "field", "turns"),
    [
        ({"turns": ["a?", "b?"]}, "turns", ("a?", "b?")),
        (
            {"ID": "1", "instruction": "i", "input": "x", "output": "o", "text": "t"},
            "instruction + input",
            ("i\nx",),
        ),
        ({"instruction": "i", "input": "", "output": "o"}, "instruction", ("i",)),
        ({"prompt": ["a?"], "response": ["o"]}, "prompt", ("a?",)),
        ({"ID": "1", "text": "a?", "output": "o"}, "text", ("a?",)),
        ({"q_id": 3, "question": "a?", "choice0": "x"}, "question", ("a?",)),
        (
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a?", "input": "x"},
                ]
            },
            "messages",
            ("a?\nx",),
        ),
        (
            {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "o"}]},
            "conversations",
            ("a?",),
        ),
    ],
)
def test_the_field_that_holds_the_questions_is_detected_and_said(
    row: dict[str, Any], field: str, turns: tuple[str, ...], tmp_path: Path
) -> None:
    [found] = evaluation(tmp_path, row)
    assert [item.turns for item in found.items] == [turns]
    assert found.as_dict() | {"sha256": ""} == {
        "file": "test.jsonl",
        "sha256": "",
        "items": 1,
        "texts": len(turns),
        "fields": {field: 1},
    }


def test_a_file_of_llm_jp_eval_is_one_object_of_samples(tmp_path: Path) -> None:
    samples = [{"input": "質問：港は？", "output": "川"}, {"input": "質問：駅は？", "output": "町"}]
    text = json.dumps({"instruction": "答えて。", "output_length": 5, "samples": samples}, indent=1)
    (tmp_path / "niilc.json").write_text(text, encoding="utf-8")
    found = read_evaluation_set(tmp_path / "niilc.json")
    assert [item.turns for item in found.items] == [("答えて。\n質問：港は？",), ("答えて。\n質問：駅は？",)]


@pytest.mark.parametrize(
    ("rows", "code", "part"),
    [
        ([{"answer": "x"}], "no_question_field", "test.jsonl:1: no question; fields present: answer"),
        ([{"turns": [{"role": "assistant", "content": "x"}]}], "empty_evaluation_set", "no question in it"),
        ([{"prompt": 3}], "no_question_field", "test.jsonl:1: prompt"),
    ],
)
def test_a_file_without_questions_is_refused(rows: list[Any], code: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=part) as caught:
        evaluation(tmp_path, *rows)
    assert caught.value.code == code
