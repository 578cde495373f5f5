"""The builder `files`: every form from every kind of file, and the form it says it found."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data_builders import BuilderError, build
from tests.conftest import chat_row, write_lines

ASK = {"role": "user", "content": "問い"}
ANSWER = {"role": "assistant", "content": "答え"}
PAIR = {"prompt": [ASK], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "さあ"}]}
V1 = "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。"
V1_INPUT = (
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。"
)

FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("messages", {"messages": [ASK, ANSWER]}, {"messages": [ASK, ANSWER]}),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "問い"}, {"from": "gpt", "value": "答え"}]},
        {"messages": [ASK, ANSWER]},
    ),
    ("alpaca", {"instruction": "問い", "input": "", "output": "答え"}, {"messages": [ASK, ANSWER]}),
    (
        "alpaca",
        {"instruction": "問い", "input": "文脈", "output": "答え"},
        {"messages": [ASK | {"input": "文脈"}, ANSWER]},
    ),
    ("prompt_completion", {"prompt": "問い", "completion": "答え"}, {"messages": [ASK, ANSWER]}),
    ("preference", {"prompt": "問い", "chosen": "答え", "rejected": "さあ"}, PAIR),
    ("text", {"text": f"{V1}\n\n### 指示:\n問い\n\n### 応答:\n答え"}, {"messages": [ASK, ANSWER]}),
]


def write(path: Path, row: dict[str, Any]) -> None:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    elif path.suffix in (".csv", ".tsv"):
        cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([cells.keys(), cells.values()])
    else:
        text = json.dumps([row] if path.suffix == ".json" else row, ensure_ascii=False)
        path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")


def built(path: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = path.parent / "out"
    manifest = build("files", path, out, source="faq", **options)
    return manifest, [
        json.loads(line) for line in (out / "data.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize(("form", "row", "expected"), FORMS)
def test_every_form_is_read_from_every_kind_of_file(
    form: str, row: dict[str, Any], expected: dict[str, Any], ending: str, tmp_path: Path
) -> None:
    write(tmp_path / f"faq{ending}", row)
    manifest, rows = built(tmp_path / f"faq{ending}")
    number = 2 if ending in (".csv", ".tsv") else 1
    meta = {"meta": {"language": "ja"}}
    assert rows == [{"id": f"faq-{number:05d}", "source": "faq", **expected, **meta}]
    assert manifest["detected"][0].startswith(f"faq{ending}: {form} in {ending[1:]}, because ")


def one(tmp_path: Path, row: dict[str, Any], **options: Any) -> dict[str, Any]:
    write(tmp_path / "faq.jsonl", row)
    return built(tmp_path / "faq.jsonl", **options)[1][0]


def test_text_rows_are_split_at_every_header(tmp_path: Path) -> None:
    first = "### 指示:\n一\n\n### 入力:\n文脈\n続き\n\n### 応答:\n答え\n\n二行目"
    turns = f"{first}\n\n### 指示:\n二\n\n### 応答:\n答え<EOD|LLM-jp>"
    expected = [
        {"role": "user", "content": "一", "input": "文脈\n続き"},
        {"role": "assistant", "content": "答え\n\n二行目"},
        {"role": "user", "content": "二"},
        ANSWER,
    ]
    assert one(tmp_path, {"text": f"{V1_INPUT}\n\n{turns}"})["messages"] == expected
    own = {"role": "system", "content": "海賊のように話せ。"}
    assert one(tmp_path, {"text": f"<s>海賊のように話せ。\n\n{turns}"})["messages"] == [own, *expected]
    kept = one(tmp_path, {"text": f"{V1}\n\n{turns}"}, fixed_sentence="system")["messages"]
    assert kept == [{"role": "system", "content": V1}, *expected]


def test_one_line_text_rows_of_v1_0_are_split(tmp_path: Path) -> None:
    text = "### 指示：以下の質問に答えなさい。 ### 質問：日本で一番高い山は？ ### 回答：富士山<EOD|LLM-jp>"
    assert one(tmp_path, {"text": text})["messages"] == [
        {"role": "user", "content": "以下の質問に答えなさい。", "input": "日本で一番高い山は？"},
        {"role": "assistant", "content": "富士山"},
    ]
    assert one(tmp_path, {"text": "### 質問：高い山は？ ### 応答：富士山"})["messages"] == [
        {"role": "user", "content": "高い山は？"},
        {"role": "assistant", "content": "富士山"},
    ]


def test_sharegpt_takes_a_system_text_and_role_content_turns(tmp_path: Path) -> None:
    row = {"system": "簡潔に。", "conversations": [ASK, ANSWER]}
    assert one(tmp_path, row)["messages"] == [{"role": "system", "content": "簡潔に。"}, ASK, ANSWER]


def test_only_the_completion_of_a_prompt_is_trained_on(tmp_path: Path) -> None:
    row = {"prompt": [ASK, ANSWER, ASK], "completion": [ANSWER]}
    assert one(tmp_path, row)["messages"] == [ASK, ANSWER | {"train": False}, ASK, ANSWER]


def test_preference_rows_may_repeat_the_prompt_on_each_side_or_leave_it_out(tmp_path: Path) -> None:
    worse = PAIR["rejected"][0]
    sides = {"chosen": [ASK, ANSWER], "rejected": [ASK, worse]}
    for row in (sides, {"prompt": "問い", **sides}, {"prompt": [ASK], **sides}, PAIR):
        made = one(tmp_path, row)
        assert {name: made[name] for name in PAIR} == PAIR


def test_a_row_keeps_its_own_text_id_group_weight_and_meta(tmp_path: Path) -> None:
    row = {
        "id": "r1",
        "group": "g",
        "weight": 2,
        "meta": {"language": "en", "k": 1},
        "messages": [ASK, ANSWER],
    }
    made = one(tmp_path, row)
    assert (made["id"], made["group"], made["loss_weight"], made["meta"]) == ("r1", "g", 2.0, row["meta"])
    made = one(tmp_path, {"ID": "r2", "source": "elsewhere", "messages": [ASK, ANSWER]})
    assert (made["id"], made["meta"]["original_source"]) == ("r2", "elsewhere")
    made = one(tmp_path, {"id": 7, "messages": [ASK, ANSWER]})
    assert (made["id"], made["meta"]["original_id"]) == ("faq-00001", 7)


def test_unknown_fields_go_where_the_option_says(tmp_path: Path) -> None:
    row = {"instruction": "問い", "output": "答え", "category": "qa"}
    assert one(tmp_path, row, extra_fields="meta")["meta"] == {"language": "ja", "category": "qa"}
    assert one(tmp_path, row, extra_fields="drop")["meta"] == {"language": "ja"}
    turn = {"messages": [ASK | {"name": "x"}, ANSWER]}
    assert one(tmp_path, turn, extra_fields="drop")["messages"] == [ASK, ANSWER]


def test_a_forced_form_settles_what_would_be_ambiguous(tmp_path: Path) -> None:
    row = {"instruction": "問い", "output": "答え", "text": "### 指示:\n問い\n\n### 応答:\n答え"}
    with pytest.raises(
        BuilderError, match=r"faq.jsonl:1: .* fit alpaca or text; say which .*\[ambiguous_form\]"
    ):
        one(tmp_path, row)
    assert one(tmp_path, row, form="alpaca", extra_fields="drop")["messages"] == [ASK, ANSWER]
    write(tmp_path / "faq.csv", row)
    assert built(tmp_path / "faq.csv", form="text", extra_fields="drop")[1][0]["messages"] == [ASK, ANSWER]


def test_the_first_row_that_tells_the_form_speaks_for_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text(json.dumps({"id": "lost"}) + "\n" + json.dumps({"messages": [ASK, ANSWER]}))
    manifest, rows = built(path, on_bad_row="quarantine")
    assert manifest["rows_dropped"] == {"missing_field": 1}
    assert rows[0]["id"] == "faq-00002"
    assert manifest["detected"] == ["faq.jsonl: messages in jsonl, because line 2 has messages"]


def test_several_files_number_their_rows_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        write(path, {"messages": [ASK, ANSWER]})
    manifest = build("files", paths, tmp_path / "out", source="faq")
    rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["faq-00001", "faq-f2-00001"]
    assert manifest["rows_kept"] == 2


def test_conversations_and_pairs_do_not_share_a_source(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"messages": [ASK, ANSWER]})
    write(tmp_path / "b.jsonl", PAIR)
    with pytest.raises(BuilderError, match=r"b.jsonl: holds preference pairs, .*\[mixed_kinds\]"):
        build("files", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out")


def test_parquet_takes_absent_struct_fields_as_absent(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(
        tmp_path / "faq.parquet",
        {"id": None, "messages": [ASK | {"tool_calls": None, "train": None}, ANSWER]},
    )
    assert built(tmp_path / "faq.parquet")[1][0]["messages"] == [ASK, ANSWER]


def test_rows_with_ids_of_a_set_with_strict_terms_are_noted(tmp_path: Path) -> None:
    first = {"id": "ichikara-instruction-003-001-0000001", **chat_row("a", "b")}
    rows = [first, {"id": "own-1", **chat_row("c", "d")}]
    write_lines(tmp_path / "copy.jsonl", rows)
    manifest = build("files", tmp_path / "copy.jsonl", tmp_path / "out")
    assert manifest["counts"] == {"rows_with_ids_of_ichikara": 1}
    [note] = manifest["notes"]
    assert note.startswith("1 rows have ids of ichikara: if they are copies, its terms hold for them")
    write_lines(tmp_path / "own.jsonl", rows[1:])
    assert build("files", tmp_path / "own.jsonl", tmp_path / "own")["notes"] == []
