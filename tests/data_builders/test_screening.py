"""Built datasets in, screened datasets out: counts that balance, rows that stay as they are, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_builders import BuilderError, build, screen
from data_builders.findings import CODES, POLICIES, SETTABLE, SIMILARITY, policies
from data_builders.matching import excerpt
from data_builders.screening import ContaminationError
from tests.conftest import chat_row, write_lines
from tuning.cli import main
from tuning.config import ScreeningConfig
from tuning.config.recipe import POLICIES as POLICIES_OF_RECIPES
from tuning.data_report import reports
from tuning.records import check_counts, read_json, sha256_of_file, write_json

QUESTION = "How can I improve my time management skills?"


def dataset(folder: Path, source: str, *rows: dict[str, Any], **options: Any) -> Path:
    write_lines(folder / f"{source}.jsonl", list(rows))
    build("files", [folder / f"{source}.jsonl"], folder / "built" / source, source=source, **options)
    return folder / "built" / source


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two datasets; the second has a copy of the first's first row and an evaluation question."""
    first = dataset(
        tmp_path,
        "first",
        chat_row("Name a sea.", "The Baltic."),
        chat_row("A port?", "Kiel.[42]"),
        chat_row("Hm?", "…"),
    )
    second = dataset(
        tmp_path,
        "second",
        chat_row("name a  sea.", "The Ｂａｌｔｉｃ."),
        chat_row(QUESTION, "Plan."),
        chat_row("Hi", "Hello."),
    )
    write_lines(tmp_path / "test.jsonl", [{"question_id": 1, "turns": [QUESTION]}])
    return [first, second]


def ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "data.jsonl").read_text("utf-8").splitlines()]


def test_every_row_is_kept_as_it_stands_or_dropped_with_its_reason(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifests = screen(two, out, against=[tmp_path / "test.jsonl"], contamination="drop")
    first, second = manifests["first"]["screening"], manifests["second"]["screening"]
    assert (first["rows_in"], first["rows_kept"], first["rows_dropped"]) == (3, 2, {"empty_answer": 1})
    assert first["rows_flagged"] == {"citation_mark": 1}
    assert second["rows_dropped"] == {"duplicate": 1, "evaluation_prompt": 1}
    assert ids(out / "first") == ["first-00001", "first-00002"] and ids(out / "second") == ["second-00003"]
    for folder in two:
        written = out / folder.name
        manifest = read_json(written / "manifest.json")
        assert manifest == manifests[folder.name]
        check_counts(manifest, folder.name)
        check_counts(manifest["screening"], folder.name)
        assert manifest["data_sha256"] == sha256_of_file(written / "data.jsonl")
        lines = (folder / "data.jsonl").read_text("utf-8").splitlines()
        assert set((written / "data.jsonl").read_text("utf-8").splitlines()) <= set(lines)
    assert [report["rows_kept"] for report in reports([out / "first", out / "second"])] == [2, 1]


def test_findings_name_row_place_policy_and_the_other_row(two: list[Path], tmp_path: Path) -> None:
    screen(two, tmp_path / "out", against=[tmp_path / "test.jsonl"], contamination="flag")
    lines = (tmp_path / "out/second/findings.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "row": "second-00001",
            "source": "second",
            "code": "duplicate",
            "where": "messages",
            "excerpt": "name a sea.",
            "other": "first/first-00001",
            "policy": "drop",
            "dropped": True,
        },
        {
            "row": "second-00002",
            "source": "second",
            "code": "evaluation_prompt",
            "where": "messages[0].content",
            "excerpt": QUESTION,
            "other": "test.jsonl: 1",
            "policy": "flag",
            "dropped": False,
        },
    ]


def test_contaminated_rows_are_refused_by_name_with_the_way_out_and_nothing_is_written(
    two: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ContaminationError) as caught:
        screen(two, tmp_path / "out", against=[tmp_path / "test.jsonl"])
    assert caught.value.code == "contaminated"
    assert [finding.row for finding in caught.value.findings] == ["second-00002"]
    said = str(caught.value)
    assert "second/second-00002" in said and "test.jsonl: 1" in said and "contamination: drop" in said
    assert not (tmp_path / "out").exists()


def test_the_order_of_the_datasets_decides_which_copy_stays(two: list[Path], tmp_path: Path) -> None:
    manifests = screen(two[::-1], tmp_path / "out")
    assert manifests["second"]["screening"]["rows_dropped"] == {}
    assert manifests["first"]["screening"]["rows_dropped"] == {"duplicate": 1, "empty_answer": 1}


def test_a_row_that_is_dropped_does_not_stand_for_its_copies(tmp_path: Path) -> None:
    marked = chat_row("Name a sea.", "The Baltic.") | {"meta": {"ng_translation": "1"}}
    folder = dataset(tmp_path, "s", marked, chat_row("Name a sea.", "The Baltic."))
    [manifest] = screen([folder], tmp_path / "out").values()
    assert manifest["screening"]["rows_dropped"] == {"ng_translation": 1}
    assert ids(tmp_path / "out/s") == ["s-00002"]


def test_policies_ignore_flag_or_drop_single_codes(two: list[Path], tmp_path: Path) -> None:
    quality = {"citation_mark": "drop", "empty_answer": "ignore"}
    manifests = screen(two, tmp_path / "out", duplicates="flag", quality=quality)
    first, second = manifests["first"]["screening"], manifests["second"]["screening"]
    assert (first["rows_dropped"], first["rows_flagged"]) == ({"citation_mark": 1}, {})
    assert (second["rows_dropped"], second["rows_flagged"]) == ({}, {"duplicate": 1})


def test_a_malformed_row_is_dropped_under_the_code_of_its_fault(two: list[Path], tmp_path: Path) -> None:
    lines = (two[0] / "data.jsonl").read_text("utf-8").splitlines()
    lines[1] = lines[1].replace('"assistant"', '"user"')
    (two[0] / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifests = screen(two[:1], tmp_path / "out")
    assert manifests["first"]["screening"]["rows_dropped"] == {"empty_answer": 1, "repeated_role": 1}


def test_counts_go_on_from_the_builder_and_from_an_earlier_screening(two: list[Path], tmp_path: Path) -> None:
    bad = chat_row("x", "")
    folder = dataset(tmp_path, "s", chat_row("a", "b"), chat_row("a", "b"), bad, on_bad_row="quarantine")
    once = screen([folder], tmp_path / "once")["s"]
    assert (once["rows_in"], once["rows_kept"]) == (3, 1)
    assert once["rows_dropped"] == {"duplicate": 1, "empty_answer": 1}
    assert (tmp_path / "once/s/quarantine.jsonl").is_file()
    twice = screen([tmp_path / "once/s"], tmp_path / "twice")["s"]
    assert twice["rows_dropped"] == once["rows_dropped"]
    assert twice["screening"]["earlier"] == once["screening"]


def test_the_same_rows_give_the_same_bytes(two: list[Path], tmp_path: Path) -> None:
    for name in ("one", "other"):
        screen(two, tmp_path / name, contamination="flag", against=[tmp_path / "test.jsonl"])
    for file in sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.json*")):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_refusals_are_no_finding_in_a_safety_source(tmp_path: Path) -> None:
    folder = dataset(tmp_path, "safe", chat_row("Pick a lock?", "I'm sorry, but I can't help with that."))
    assert screen([folder], tmp_path / "a")["safe"]["screening"]["rows_flagged"] == {"refusal": 1}
    assert screen([folder], tmp_path / "b", safety=["safe"])["safe"]["screening"]["rows_flagged"] == {}


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ({"duplicates": "of"}, "bad_option", "duplicates: saw 'of'; accepted: drop, flag, ignore"),
        ({"near_duplicates": "refuse"}, "bad_option", "near_duplicates"),
        ({"contamination": "drob"}, "bad_option", "did you mean drop?"),
        ({"quality": {"refusals": "drop"}}, "unknown_code", "did you mean refusal?"),
        ({"quality": {"refusal": "off"}}, "bad_option", "refusal: saw 'off'"),
        ({"similarity": 0}, "bad_option", "similarity"),
        ({"safety": ["frist"]}, "unknown_source", "no source 'frist'"),
        ({"against": ["nowhere.jsonl"]}, "missing_file", "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    two: list[Path], tmp_path: Path, options: dict[str, Any], code: str, part: str
) -> None:
    with pytest.raises(BuilderError) as caught:
        screen(two, tmp_path / "out", **options)
    assert caught.value.code == code and part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_manifest_whose_source_leads_out_of_the_output_is_refused(two: list[Path], tmp_path: Path) -> None:
    manifest = read_json(two[0] / "manifest.json")
    for source in ("../../evil", "/evil", "a\\b", ".hidden", "a\x1b[31m"):
        write_json(two[0] / "manifest.json", {**manifest, "source": source})
        with pytest.raises(BuilderError, match="which may not name a folder"):
            screen(two, tmp_path / "deep" / "out")
        with pytest.raises(BuilderError, match="source: saw"):
            build("files", [tmp_path / "first.jsonl"], tmp_path / "again", source=source)
    assert not list(tmp_path.rglob("*evil*"))


def test_excerpts_hold_no_control_characters() -> None:
    assert excerpt("\x1b[31mred\x07\x9b \n\tend\x7f") == "␛[31mred␇� end␡"


def test_folders_that_cannot_be_screened_are_refused(two: list[Path], tmp_path: Path) -> None:
    wrong = [
        ([tmp_path], tmp_path / "out", "not_a_dataset"),
        ([two[0], two[0]], tmp_path / "out", "repeated_source"),
        ([], tmp_path / "out", "no_input"),
        (two, two[0].parent, "bad_output"),
        (two, tmp_path / "test.jsonl", "bad_output"),
    ]
    for folders, output, code in wrong:
        with pytest.raises(BuilderError) as caught:
            screen(folders, output)
        assert caught.value.code == code
    (two[0] / "data.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(BuilderError, match="build it again") as caught:
        screen(two, tmp_path / "out")
    assert caught.value.code == "changed_dataset"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", '{"source": "first", '),
        ("manifest.json", "[]"),
        ("manifest.json", '{"source": "first", "rows_in": 3}'),
        ("manifest.json", '{"source": "first", "rows_in": 3, "rows_kept": 2, "rows_dropped": {}}'),
        ("data.jsonl", '{"id": "a", "source": "first", "messages": [\n{}\n{}\n'),
    ],
)
def test_a_damaged_dataset_is_refused_by_name(name: str, text: str, two: list[Path], tmp_path: Path) -> None:
    (two[0] / name).write_text(text, encoding="utf-8")
    with pytest.raises(BuilderError, match="build it again") as caught:
        screen(two, tmp_path / "out")
    assert caught.value.code == "changed_dataset"


# The command line


def test_the_command_says_what_it_found_and_ends_with_0(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, against = [str(folder) for folder in two], str(tmp_path / "test.jsonl")
    arguments = ["data", "screen", *folders, "--output", str(tmp_path / "out"), "--against", against]
    assert main([*arguments, "--contamination", "drop", "--policy", "citation_mark=ignore"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "against test.jsonl: 1 questions of 1 items, from turns",
        "first: 3 rows in, 2 kept, dropped: empty_answer 1",
        "second: 3 rows in, 1 kept, dropped: duplicate 1, evaluation_prompt 1",
        f"written: {tmp_path / 'out/first'}, {tmp_path / 'out/second'}",
    ]
    assert main([*arguments, "--contamination", "flag", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["second"]["rows_flagged"] == {"evaluation_prompt": 1}


def test_the_command_refuses_contaminated_rows_with_status_2(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "data",
        "screen",
        *map(str, two),
        "--output",
        str(out),
        "--against",
        str(tmp_path / "test.jsonl"),
    ]
    assert main(arguments) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and "second/second-00002" in seen.err and "Traceback" not in seen.err
    assert main([*arguments, "--policy", "refusal"]) == 2
    assert "code=policy" in capsys.readouterr().err
    assert not out.exists()


# The tables


def test_the_recipe_and_the_library_have_the_same_defaults() -> None:
    config = ScreeningConfig()
    assert config.similarity == SIMILARITY and POLICIES_OF_RECIPES == POLICIES
    assert policies(config.contamination, config.duplicates, config.near_duplicates, config.quality) == {
        name: code.policy for name, code in CODES.items()
    }


def test_the_readme_tells_every_code_with_its_default() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name, code in CODES.items():
        assert f"| `{name}` | {code.policy} | {code.says} |" in readme
    assert set(SETTABLE) < set(CODES)
