"""Every kind of malformed row, one at a time in a file that is good otherwise.

Strict mode stops and names file, line and field with a stable code; quarantine keeps every good row, counts
the bad one by its code and stores what stood there.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_builders import BuilderError, RowError, build

GOOD = 5  # good rows in each file, two in front of the bad one


class Case(NamedTuple):
    kind: str
    bad: bytes
    field: str
    code: str
    form: str = "messages"


def row(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def messages(*turns: tuple[str, Any], **extra: Any) -> bytes:
    return row(messages=[{"role": role, "content": text} for role, text in turns], **extra)


def turn_with(index: int, **fields: Any) -> bytes:
    """A good dialogue with further fields on one message."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns[index].update(fields)
    return row(messages=turns)


def spoken(*turns: tuple[str, Any], **extra: Any) -> bytes:
    return row(conversations=[{"from": speaker, "value": text} for speaker, text in turns], **extra)


def pair(prompt: Any = "p", chosen: Any = "c", rejected: Any = "r") -> bytes:
    return row(prompt=prompt, chosen=chosen, rejected=rejected)


def good(form: str, number: int) -> bytes:
    if form == "sharegpt":
        return spoken(("human", f"問い{number}"), ("gpt", "答え"))
    if form == "alpaca":
        return row(instruction=f"問い{number}", input="", output="答え")
    if form == "prompt_completion":
        return row(prompt=f"問い{number}", completion="答え")
    if form == "preference":
        return pair(f"問い{number}", "良い", "悪い")
    if form == "text":
        return row(text=f"### 指示:\n問い{number}\n\n### 応答:\n答え")
    return messages(("user", f"問い{number}"), ("assistant", "答え"))


ASK, ANSWER = ("user", "問い"), ("assistant", "答え")
HUMAN, GPT = ("human", "問い"), ("gpt", "答え")
SURROGATE = rb"\ud83d"

CASES = [
    Case("broken JSON", b'{"messages": [', "row", "invalid_json"),
    Case("two values on a line", b'{"messages": []} {"messages": []}', "row", "invalid_json"),
    Case("NaN", b'{"messages": [], "weight": NaN}', "row", "invalid_json"),
    Case("a number beyond floats", b'{"messages": [], "weight": 1e999}', "row", "invalid_json"),
    Case("an endless integer", b'{"weight": ' + b"1" * 5000 + b"}", "row", "invalid_json"),
    Case("nesting without end", b"[" * 100_000, "row", "invalid_json"),
    Case("the same key twice", b'{"messages": [], "messages": []}', "messages", "duplicate_key"),
    Case("invalid UTF-8", b'{"messages": "\xff\xfe"}', "row", "invalid_utf8"),
    Case("cp932", '{"messages": "答え"}'.encode("cp932"), "row", "invalid_utf8"),
    Case("an array for a row", b"[1, 2]", "row", "not_an_object"),
    Case("a text for a row", b'"hello"', "row", "not_an_object"),
    Case("no messages", row(id="x"), "messages", "missing_field"),
    Case("null messages", row(messages=None), "messages", "null_value"),
    Case("text for messages", row(messages="hello"), "messages", "wrong_type"),
    Case("no message at all", row(messages=[]), "messages", "empty_messages"),
    Case("a text for a message", row(messages=["hello"]), "messages[0]", "wrong_type"),
    Case("no role", row(messages=[{"content": "a"}]), "messages[0].role", "missing_field"),
    Case("an unknown role", messages(("human", "a"), ANSWER), "messages[0].role", "unknown_role"),
    Case("a number for a role", messages((1, "a"), ANSWER), "messages[0].role", "wrong_type"),  # type: ignore
    Case("no content", row(messages=[{"role": "user"}]), "messages[0].content", "missing_field"),
    Case("null content", messages(ASK, ("assistant", None)), "messages[1].content", "null_value"),
    Case("a number for content", messages(ASK, ("assistant", 3)), "messages[1].content", "wrong_type"),
    Case("a list for content", messages(ASK, ("assistant", ["a"])), "messages[1].content", "wrong_type"),
    Case("an empty answer", messages(ASK, ("assistant", "")), "messages[1].content", "empty_answer"),
    Case("a blank answer", messages(ASK, ("assistant", " \n\u3000")), "messages[1].content", "empty_answer"),
    Case("an empty question", messages(("user", ""), ANSWER), "messages[0].content", "empty_content"),
    Case("two user turns", messages(ASK, ASK, ANSWER), "messages[1].role", "repeated_role"),
    Case("two assistant turns", messages(ASK, ANSWER, ANSWER), "messages[2].role", "repeated_role"),
    Case("assistant first", messages(ANSWER, ASK, ANSWER), "messages[0].role", "first_not_user"),
    Case("system in the middle", messages(ASK, ("system", "s")), "messages[1].role", "system_not_first"),
    Case("a tool nobody called", messages(ASK, ("tool", "42"), ANSWER), "messages[1].role", "role_order"),
    Case("user last", messages(ASK, ANSWER, ASK), "messages[2].role", "last_not_assistant"),
    Case("no assistant", messages(ASK), "messages[0].role", "last_not_assistant"),
    Case("an unknown field", messages(ASK, ANSWER, wieght=2), "wieght", "unknown_field"),
    Case("an unknown field of a turn", turn_with(0, name="x"), "messages[0].name", "unknown_field"),
    Case("a user turn to train on", turn_with(0, train=True), "messages[0].train", "trained_role"),
    Case("a text for train", turn_with(1, train="no"), "messages[1].train", "wrong_type"),
    Case("nothing to train on", turn_with(1, train=False), "messages", "nothing_to_train"),
    Case("input on an answer", turn_with(1, input="c"), "messages[1].input", "misplaced_input"),
    Case("a NUL character", turn_with(0, content="a\x00"), "messages[0].content", "nul_character"),
    Case(
        "half a character",
        turn_with(0, content="X").replace(b"X", SURROGATE),
        "messages[0].content",
        "lone_surrogate",
    ),
    Case(
        "half a character in meta",
        messages(ASK, ANSWER, meta="X").replace(b'"X"', b'{"k": "\\ud83d"}'),
        "meta",
        "not_json",
    ),
    Case("a weight of nothing", messages(ASK, ANSWER, weight=0), "weight", "bad_weight"),
    Case("a text for a weight", messages(ASK, ANSWER, weight="2"), "weight", "wrong_type"),
    Case("a list for an id", messages(ASK, ANSWER, id=["x"]), "id", "wrong_type"),
    Case("an empty id", messages(ASK, ANSWER, id=""), "id", "empty_content"),
    Case("an id seen before", messages(ASK, ANSWER, id="faq-00002"), "id", "duplicate_id"),
    Case("a number for a group", messages(ASK, ANSWER, group=7), "group", "wrong_type"),
    Case("a text for meta", messages(ASK, ANSWER, meta="x"), "meta", "wrong_type"),
    Case("another form", row(instruction="a", output="b"), "instruction", "mixed_forms"),
    Case(
        "no speaker",
        row(conversations=[{"value": "a"}]),
        "conversations[0].from",
        "missing_field",
        "sharegpt",
    ),
    Case("null value", spoken(HUMAN, ("gpt", None)), "conversations[1].value", "null_value", "sharegpt"),
    Case(
        "an unknown speaker", spoken(("bot", "a"), GPT), "conversations[0].from", "unknown_role", "sharegpt"
    ),
    Case("two human turns", spoken(HUMAN, HUMAN, GPT), "conversations[1].from", "repeated_role", "sharegpt"),
    Case(
        "an empty answer under a system text",
        spoken(HUMAN, ("gpt", ""), system="s"),
        "conversations[1].value",
        "empty_answer",
        "sharegpt",
    ),
    Case("a number for system", spoken(HUMAN, GPT, system=3), "system", "wrong_type", "sharegpt"),
    Case("no output", row(instruction="a", input=""), "output", "missing_field", "alpaca"),
    Case("null output", row(instruction="a", output=None), "output", "null_value", "alpaca"),
    Case("an empty output", row(instruction="a", output=""), "output", "empty_answer", "alpaca"),
    Case("a number for input", row(instruction="a", input=3, output="b"), "input", "wrong_type", "alpaca"),
    Case("an empty prompt", row(prompt="", completion="b"), "prompt", "empty_content", "prompt_completion"),
    Case(
        "a blank completion",
        row(prompt="a", completion=" "),
        "completion",
        "empty_answer",
        "prompt_completion",
    ),
    Case("no rejected", row(prompt="a", chosen="b"), "rejected", "missing_field", "preference"),
    Case("an empty chosen", pair(chosen=""), "chosen", "empty_answer", "preference"),
    Case("equal sides", pair(chosen="ＡＢ", rejected="AB "), "rejected", "identical_sides", "preference"),
    Case("a null prompt", pair(prompt=None), "prompt", "null_value", "preference"),
    Case("no header", row(text="富士山"), "text", "no_headers", "text"),
    Case("an empty 応答", row(text="### 指示:\n問い\n\n### 応答:\n"), "text", "empty_answer", "text"),
    Case("a stray 入力", row(text="### 入力:\n文\n\n### 応答:\n答え"), "text", "misplaced_input", "text"),
]


def check_both_modes(
    path: Path, out: Path, line: int, field: str, code: str, raw: bytes | None, **options: Any
) -> None:
    builder = options.pop("builder", "files")
    with pytest.raises(RowError) as caught:
        build(builder, path, out, source="faq", **options)
    error = caught.value
    assert (error.file, error.line, error.where, error.code) == (str(path), line, field, code)
    assert str(error).startswith(f"{path}:{line}: {field}: ")
    assert str(error).endswith(f"[{code}]")
    assert not out.exists()
    assert [item.name for item in path.parent.iterdir()] == [path.name]

    manifest = build(builder, path, out, source="faq", on_bad_row="quarantine", **options)
    kept = [json.loads(text) for text in (out / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(kept) == GOOD == manifest["rows_kept"]
    assert manifest["rows_dropped"] == {code: 1}
    assert manifest["rows_in"] == GOOD + 1
    (entry,) = [
        json.loads(text) for text in (out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert (entry["file"], entry["line"], entry["field"], entry["code"]) == (str(path), line, field, code)
    if raw is not None:
        stored = entry["raw"].encode() if "raw" in entry else base64.b64decode(entry["raw_base64"])
        assert stored == raw


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.form}: {case.kind}")
def test_a_malformed_row_is_named_or_set_aside(case: Case, tmp_path: Path) -> None:
    rows = [good(case.form, number) for number in range(GOOD)]
    path = tmp_path / "in" / "faq.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\n".join([*rows[:2], case.bad, *rows[2:]]) + b"\n")
    check_both_modes(path, tmp_path / "out", 3, case.field, case.code, case.bad)


CSV = "instruction,input,output\n問い0,,答え\n問い1,文脈,答え\n{bad}問い2,,答え\n問い3,,答え\n問い4,,答え\n"
TABLES = [
    ("too few fields", "問い,答え\n", 4, "row", "wrong_field_count"),
    ("too many fields", "問い,,答え,?\n", 4, "row", "wrong_field_count"),
    ("an open quote", '"問い,,答え\n', 4, "row", "invalid_csv"),
    ("text behind a quote", '"問い"!,,答え\n', 4, "row", "invalid_csv"),
    ("an empty cell", "問い,,\n", 4, "output", "empty_answer"),
    ("undecodable bytes", "問い,,\udc90\udc8d\n", 4, "output", "invalid_utf8"),
]


@pytest.mark.parametrize(("kind", "bad", "line", "field", "code"), TABLES, ids=[case[0] for case in TABLES])
def test_a_malformed_record_of_a_table_is_named_or_set_aside(
    kind: str, bad: str, line: int, field: str, code: str, tmp_path: Path
) -> None:
    path = tmp_path / "in" / "faq.csv"
    path.parent.mkdir()
    raw = bad.encode("utf-8", "surrogateescape")
    path.write_bytes(CSV.format(bad=bad).encode("utf-8", "surrogateescape"))
    check_both_modes(path, tmp_path / "out", line, field, code, raw.rstrip(b"\n"))
    path.unlink()
    path = path.with_suffix(".tsv")
    tabs = CSV.format(bad=bad).replace(",", "\t")
    path.write_bytes(tabs.encode("utf-8", "surrogateescape"))
    check_both_modes(path, tmp_path / "out2", line, field, code, raw.rstrip(b"\n").replace(b",", b"\t"))


ARRAY_BAD = [
    ("broken", b'{"messages": [}', "row", "invalid_json"),
    ("without a comma", messages(ASK, ANSWER) + b" {}", "row", "invalid_json"),
    ("undecodable", b'{"messages": "\xff"}', "row", "invalid_utf8"),
    ("not an object", b"3", "row", "not_an_object"),
    ("user last", messages(ASK), "messages[0].role", "last_not_assistant"),
]


@pytest.mark.parametrize("style", ["a line each", "over several lines", "on one line"])
@pytest.mark.parametrize(("kind", "bad", "field", "code"), ARRAY_BAD, ids=[case[0] for case in ARRAY_BAD])
def test_a_malformed_element_of_an_array_is_named_or_set_aside(
    style: str, kind: str, bad: bytes, field: str, code: str, tmp_path: Path
) -> None:
    rows = [good("messages", number) for number in range(GOOD)]
    line = {"a line each": 4, "on one line": 1, "over several lines": 1 + 2 * 12 + 1}[style]
    if style == "over several lines":
        pretty = [json.dumps(json.loads(text), indent=2).replace("\n", "\n  ").encode() for text in rows]
        rows = pretty
        assert pretty[0].count(b"\n") == 11
    rows = [*rows[:2], bad, *rows[2:]]
    path = tmp_path / "in" / "faq.json"
    path.parent.mkdir()
    path.write_bytes(
        b"[" + b", ".join(rows) + b"]"
        if style == "on one line"
        else b"[\n  " + b",\n  ".join(rows) + b"\n]\n"
    )
    check_both_modes(path, tmp_path / "out", line, field, code, bad)


PUBLISHED = [
    ("dolly", row(instruction="問い", context="", response="答え", category="qa"), [
        (row(context="", response="a"), "instruction", "missing_field"),
        (row(instruction="a", context="", response=None), "response", "null_value"),
        (row(instruction="a", context=3, response="b"), "context", "wrong_type"),
    ]),
    ("ichikara", row(ID="i-1", text="問い", output="答え"), [
        (row(ID="i-2", text="問い"), "output", "missing_field"),
        (row(ID="i-2", text="問い", output=""), "output", "empty_answer"),
        (row(ID="i-2", text=" ", output="答え"), "text", "empty_content"),
    ]),
    ("answer_carefully", row(ID="a-1", text="問い", output="答え", harm="x"), [
        (row(ID="a-2", output="答え"), "text", "missing_field"),
    ]),
    ("hh_rlhf", row(chosen="\n\nHuman: a\n\nAssistant: b", rejected="\n\nHuman: a\n\nAssistant: c"), [
        (row(chosen="\n\nHuman: a\n\nAssistant: b"), "rejected", "missing_field"),
        (row(chosen=3, rejected="\n\nHuman: a\n\nAssistant: c"), "chosen", "wrong_type"),
        (row(chosen="a", rejected="b"), "chosen", "not_a_transcript"),
        (row(conversations=[3], chosen="b", rejected="c"), "conversations[0]", "wrong_type"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("builder", "good_row", "bad", "field", "code"),
    [(name, ok, *bad) for name, ok, cases in PUBLISHED for bad in cases],
)
def test_a_malformed_row_of_a_published_source_is_named_or_set_aside(
    builder: str, good_row: bytes, bad: bytes, field: str, code: str, tmp_path: Path
) -> None:
    path = tmp_path / "in" / "faq.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\n".join([good_row, good_row, bad, good_row, good_row, good_row]))
    check_both_modes(path, tmp_path / "out", 3, field, code, bad, builder=builder)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".json.gz", ".csv.gz"])
def test_a_truncated_gzip_keeps_what_precedes_the_cut(ending: str, tmp_path: Path) -> None:
    """Stored without compression, so that the cut falls where the test wants it: inside the third row."""
    lines, before, between, line = [good("messages", number) for number in range(4)], b"", b"\n", 3
    if ending == ".csv.gz":
        lines = [f"問い{number},答え".encode() for number in range(4)]
        before, line = b"instruction,output\n", 4
    if ending == ".json.gz":
        before, between = b"[", b",\n"
    whole = gzip.compress(before + between.join(lines), compresslevel=0)
    kept = before + between.join(lines[:2]) + between
    path = tmp_path / f"faq{ending}"
    path.write_bytes(
        whole[: 10 + 5 + len(kept) + 6]
    )  # gzip's header, the block's header, the rows, a bit more
    with pytest.raises(RowError, match=rf"faq{ending}:{line}: row: .*\[truncated\]"):
        build("files", path, tmp_path / "out")
    manifest = build("files", path, tmp_path / "out", on_bad_row="quarantine")
    assert (manifest["rows_in"], manifest["rows_kept"], manifest["rows_dropped"]) == (3, 2, {"truncated": 1})


def test_an_array_that_is_never_closed_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "faq.json"
    path.write_bytes(b"[\n" + good("messages", 0) + b",\n" + good("messages", 1) + b"\n")
    with pytest.raises(RowError, match=r"faq.json:4: row: .*\[truncated\]"):
        build("files", path, tmp_path / "out")
    manifest = build("files", path, tmp_path / "out", on_bad_row="quarantine")
    assert (manifest["rows_kept"], manifest["rows_dropped"]) == (2, {"truncated": 1})


FILE_FAULTS = [
    ("faq.csv", b"instruction,input\na,b\n", "unknown_form", "alpaca would need output"),
    ("faq.csv", b"instruction,,output\na,b,c\n", "bad_header", "without a name"),
    ("faq.csv", b"output,output\na,b\n", "bad_header", "two columns"),
    ("faq.csv", b"", "bad_header", "empty"),
    ("faq.csv", "instruction,output\na,b\n".encode("utf-16"), "invalid_utf8", "UTF-16"),
    ("faq.jsonl", b'{"mesages": []}\n', "unknown_form", "messages would need messages"),
    ("faq.jsonl", b'{"text": "a", "messages": []}\n', "ambiguous_form", "messages or text"),
    ("faq.jsonl", b'[\n{"text": "a"}\n]\n', "json_array_in_jsonl", "name the file .json"),
    ("faq.json", b'{\n"data": []\n}\n', "one_json_object", "an array of rows"),
    ("faq.jsonl.gz", b"not gzip", "damaged_file", "not a gzip file"),
    ("faq.parquet", b"PAR1 no parquet PAR1", "damaged_file", "Parquet"),
    ("faq.xlsx", b"", "unknown_format", ".jsonl, .json, .csv"),
    ("faq", b"", "unknown_format", ".jsonl, .json, .csv"),
]


@pytest.mark.parametrize("on_bad_row", ["strict", "quarantine"])
@pytest.mark.parametrize(("name", "content", "code", "said"), FILE_FAULTS)
def test_a_fault_of_the_whole_file_stops_in_both_modes(
    name: str, content: bytes, code: str, said: str, on_bad_row: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BuilderError) as caught:
        build("files", path, tmp_path / "out", on_bad_row=on_bad_row)
    assert caught.value.code == code
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("builder", ["dolly", "oasst", "hh_rlhf", "ichikara", "answer_carefully"])
def test_a_table_without_a_needed_column_stops_in_both_modes(builder: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    for mode in ("strict", "quarantine"):
        with pytest.raises(
            BuilderError, match=r"x.csv:1: missing column \w+.*columns: a, b.*\[missing_column\]"
        ):
            build(builder, path, tmp_path / "out", on_bad_row=mode)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "faq-v1.jsonl").write_bytes(good("messages", 0))
    with pytest.raises(BuilderError, match=r"faq-v2.jsonl: no such file; did you mean .*faq-v1.jsonl\?"):
        build("files", tmp_path / "faq-v2.jsonl", tmp_path / "out")


def test_a_utf16_file_is_refused_at_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_bytes(good("messages", 0).decode().encode("utf-16"))
    with pytest.raises(RowError, match=r"faq.jsonl:1: row: .*UTF-16.*\[invalid_utf8\]"):
        build("files", path, tmp_path / "out")
