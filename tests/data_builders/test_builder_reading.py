"""The reader: what counts as a row, on which line it stands, and that no bytes can surprise it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders import BuilderError, RowError, build
from data_builders.reading import open_input
from tuning.records import check_counts

DIALOGUE = {"messages": [{"role": "user", "content": "問い"}, {"role": "assistant", "content": "答え"}]}


def lines_and_values(path: Path) -> list[tuple[int, Any]]:
    return [(row.line, row.fault.code if row.fault else row.value) for row in open_input(path)]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n1\r\n  \t\n\n2")
    assert lines_and_values(path) == [(2, 1), (5, 2)]


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    """U+2028, U+0085 and a lone CR inside a text are text; `str.splitlines` would cut there."""
    path = tmp_path / "x.jsonl"
    path.write_text('"a\u2028b\u0085c"\n"d"\n', encoding="utf-8")
    assert lines_and_values(path) == [(1, "a\u2028b\u0085c"), (2, "d")]


def test_an_array_tells_the_line_on_which_each_element_starts(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('\n[ {"a":\n1},\n\n  {"b": 2}, 3 ]\n')
    assert lines_and_values(path) == [(2, {"a": 1}), (5, {"b": 2}), (5, 3)]
    path.write_text("[]")
    assert lines_and_values(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert lines_and_values(path) == [(1, {"a": 1}), (2, {"a": 2})]


def test_text_behind_an_array_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1, 2]\n[3]")
    assert lines_and_values(path) == [(1, 1), (1, 2), (1, "invalid_json")]
    path.write_text("[1, 2,]")
    assert lines_and_values(path) == [(1, 1), (1, 2), (1, "invalid_json")]


def test_a_broken_last_element_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, {"a": }]')
    assert lines_and_values(path) == [(1, {"a": 1}), (1, {"a": 2}), (1, "invalid_json")]


def test_a_csv_record_over_several_lines_stands_on_its_first(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n"1\n\n1","say ""hi"""\r\n\r\n2,\r\n')
    assert lines_and_values(path) == [(2, {"a": "1\n\n1", "b": 'say "hi"'}), (6, {"a": "2", "b": ""})]


def test_a_quote_left_open_costs_one_record(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,2\n3,"4\n5,6\n7,8\n')
    found = [("invalid_csv" if row.fault else row.value["a"], row.line) for row in open_input(path)]
    assert found == [("1", 2), ("invalid_csv", 3), ("5", 4), ("7", 5)]


def test_a_cell_may_be_longer_than_pythons_default_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n" + "x" * 300_000 + "\n")
    assert len(next(iter(open_input(path))).value["a"]) == 300_000


def test_undecodable_text_in_parquet_costs_one_row(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    data = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary())
    bad = pyarrow.Array.from_buffers(pyarrow.string(), 3, data.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "x.parquet")
    assert lines_and_values(tmp_path / "x.parquet") == [
        (1, {"text": "a"}),
        (2, "invalid_utf8"),
        (3, {"text": "c"}),
    ]


PIECES = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\r\n", b"\xff", b"\xe3\x81", b"\x00", b"\t",
    b" ", b"NaN", b"null", b"1e999", b"\xef\xbb\xbf", b"\xff\xfe", b'"messages"', b'"text"', b"text",
    b"\\ud800", "### 指示:\n".encode(), "答え".encode(), b"instruction,output\n", b"a,b\n",
    json.dumps(DIALOGUE).encode(), json.dumps(DIALOGUE, indent=1).encode(),
]  # fmt: skip


def refusal(builder: str, path: Path, out: Path) -> str | None:
    """What strict mode says against a file; any other exception is a failure."""
    try:
        build(builder, path, out)
    except (BuilderError, RowError) as error:
        return str(error)
    return None


FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@FUZZ
@given(
    content=st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join)),
    ending=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.gz", "csv.gz"]),
    packed=st.booleans(),
    cut=st.integers(0, 40),
)
def test_no_bytes_surprise_the_reader(
    content: bytes, ending: str, packed: bool, cut: int, tmp_path: Path
) -> None:
    """Only our own errors, counts that add up, and a quarantine file that is JSON."""
    path = tmp_path / f"x.{ending}"
    data = gzip.compress(content) if packed and ending.endswith("gz") else content
    path.write_bytes(data[: len(data) - cut] if packed else data)
    said = refusal("files", path, tmp_path / "strict")
    assert said is None or str(path) in said
    try:
        manifest = build("files", path, tmp_path / "out", on_bad_row="quarantine")
    except BuilderError:
        assert said
        return
    check_counts(manifest, ending)
    assert (said is None) == (manifest["rows_quarantined"] == 0)
    if manifest["rows_quarantined"]:
        entries = (tmp_path / "out" / "quarantine.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        assert len([json.loads(entry) for entry in entries]) == manifest["rows_quarantined"]


@FUZZ
@given(
    rows=st.lists(
        st.sampled_from([json.dumps(DIALOGUE), '{"messages": [', "", '{"a": 1}']), min_size=1, max_size=9
    ),
    pretty=st.booleans(),
)
def test_every_good_element_around_broken_ones_is_found(
    rows: list[str], pretty: bool, tmp_path: Path
) -> None:
    """In arrays with a line for each element, broken or empty ones cost no good one."""
    texts = [json.dumps(json.loads(row), indent=2) if pretty and row.endswith("}") else row for row in rows]
    path = tmp_path / "x.json"
    path.write_text("[\n" + ",\n".join(texts) + "\n]")
    values = [row.value for row in open_input(path) if row.fault is None]
    assert [value for value in values if value == DIALOGUE] == [DIALOGUE] * rows.count(json.dumps(DIALOGUE))


NAMES = [
    "message_id", "parent_id", "role", "text", "replies", "prompt", "labels", "rank", "deleted", "tree_state",
    "message_tree_id", "chosen", "rejected", "conversations", "from", "value", "instruction", "context",
    "response", "output", "input", "category", "ID", "id", "messages", "content", "system", "completion",
    "meta", "weight", "language", "lang",
]  # fmt: skip
WORDS = ["user", "prompter", "assistant", "human", "gpt", "system", "\n\nHuman: a\n\nAssistant: b", "\ud800"]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.sampled_from(WORDS),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


@FUZZ
@given(
    builder=st.sampled_from(["dolly", "oasst", "hh_rlhf", "ichikara", "answer_carefully", "files"]),
    rows=st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), min_size=1, max_size=4),
)
def test_no_values_surprise_a_builder(builder: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows))
    said = refusal(builder, path, tmp_path / "strict")
    assert said is None or str(path) in said
    try:
        check_counts(build(builder, path, tmp_path / "out", on_bad_row="quarantine"), builder)
    except BuilderError:
        assert builder == "files"
