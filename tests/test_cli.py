"""The command line as a user meets it: what it prints, with which exit status, and what it leaves alone."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
import yaml

from data_builders import builders
from tests.conftest import TinyRun, chat_row, write_lines, write_recipe
from tuning.chat import encode_prompt, load_template
from tuning.cli import main
from tuning.evaluate.answers import greedy_answers
from tuning.model.loading import load_model, load_tokenizer
from tuning.records import read_json

ROOT = Path(__file__).parents[1]
MISTAKE = re.compile(r"(\S+\.yaml:\d+|override \d+ '.*'): \S.*")


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped quickstart with its samples; the working directory is an empty one beside it."""
    shutil.copytree(ROOT / "recipes/samples", tmp_path / "samples")
    shutil.copy(ROOT / "recipes/quickstart.yaml", tmp_path / "quickstart.yaml")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "quickstart.yaml"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines on stderr of a command that ends with status 2, prints no more and writes nothing here."""
    capsys.readouterr()
    assert main(arguments) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "Traceback" not in seen.err
    assert list(Path.cwd().iterdir()) == []
    return seen.err.splitlines()


def keys_of(text: str) -> list[tuple[str, yaml.ScalarNode]]:
    """Every key of a YAML with its dotted name."""
    keys: list[tuple[str, yaml.ScalarNode]] = []

    def walk(node: yaml.Node, prefix: str) -> None:
        for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
            keys.append((prefix + name.value, name))
            walk(value, f"{prefix}{name.value}.")

    walk(yaml.compose(text), "")
    return keys


# Mistakes in a recipe


def test_misspelt_keys_of_the_quickstart_are_each_told_in_one_line_with_file_and_line(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = quickstart.read_text(encoding="utf-8")
    keys = keys_of(text)
    assert len(keys) > 40
    for key, node in random.Random(0).sample(keys, 25):
        place = random.Random(key).randrange(len(node.value))
        end = node.start_mark.index + len(node.value)
        letter = "x" if node.value[place] != "x" else "y"
        misspelt = node.value[:place] + letter + node.value[place + 1 :]
        quickstart.write_text(text[: node.start_mark.index] + misspelt + text[end:], encoding="utf-8")
        lines = refused(capsys, "run", str(quickstart))
        assert all(MISTAKE.fullmatch(line) for line in lines), (key, lines)
        is_source = re.fullmatch(r"data\.[^.]+", key) is not None
        assert len(lines) == 1 or is_source, (key, lines)  # a source that is gone is told wherever it is used
        assert is_source or lines[0].startswith(f"{quickstart}:{node.start_mark.line + 1}: "), (key, lines)
        assert f"did you mean {misspelt if is_source else node.value}?" in lines[0], (key, lines)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("  max_length: 1024", "  max_length: long", "sft.max_length"),
        ("  beta: 1.0", "  beta: [0.1]", "dpo.beta"),
        ("  answers: 30", "  answers: 3.5", "evaluate.answers"),
        ("  questions: [taught]", "  questions: taught", "evaluate.questions"),
        ("template: llm-jp-v3", "template: llm-jp-v4x", "llm-jp-v3"),
        ("builder: ichikara", "builder: ichikra", "did you mean ichikara?"),
        ("samples/taught.jsonl", "samples/tought.jsonl", "did you mean samples/taught.jsonl?"),
        ("    dolly-en: {}", "    doly-en: {}", "did you mean dolly-en?"),
        ("base: tiny", "base: ./nowhere", "there is no such folder"),
    ],
)
def test_wrong_types_and_names_are_told_in_one_line(
    quickstart: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, part: str
) -> None:
    text = quickstart.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    number = text[: text.index(old)].count("\n") + 1
    quickstart.write_text(text.replace(old, new, 1), encoding="utf-8")
    for command in ("run", "check", "preview"):
        lines = refused(capsys, command, str(quickstart))
        assert [line for line in lines if part in line and line.startswith(f"{quickstart}:{number}: ")], lines
        assert len(lines) == 1, lines


def test_every_mistake_is_told_at_once_and_overrides_name_themselves(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = refused(capsys, "run", str(quickstart), "sft.epoch=1", "dpo.beta=-1", "seed=x")
    assert [line.partition(":")[0] for line in lines] == [
        "override 1 'sft.epoch=1'",
        "override 2 'dpo.beta=-1'",
        "override 3 'seed=x'",
    ]
    assert lines[0].endswith("did you mean epochs?")


def test_a_recipe_that_is_not_there_names_the_shipped_ones(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = refused(capsys, "run", "quickstrat")
    assert "did you mean quickstart?" in line
    [line] = refused(capsys, "run", str(quickstart), "--to", "sfr")
    assert line == "--to sfr: this recipe has the stages data, base, sft, dpo, evaluate, release"


def test_a_shipped_recipe_is_found_by_name_from_an_empty_folder(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "quickstart"]) == 0
    assert "no mistake found; stages: data, base, sft, dpo, evaluate, release" in capsys.readouterr().out
    assert main(["check", "quickstart", "use=commercial"]) == 0  # the samples are this project's own
    # Without a reason the file counts as the published set too, whose terms forbid the use.
    assert main(["check", "quickstart", "use=commercial", "data.ichikara.licence_reason=null"]) == 2
    seen = capsys.readouterr()
    assert all(name in seen.err for name in ("ichikara", "non-commercial", "sft.mix.ichikara"))
    assert list(Path.cwd().iterdir()) == []


def test_check_gives_problems_and_warnings_as_json(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(quickstart), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    set_aside = ("dolly-en", "dolly-ja", "ichikara", "answer-carefully")
    assert [warning["key"] for warning in found["warnings"]] == [f"data.{name}.licence" for name in set_aside]
    text = quickstart.read_text(encoding="utf-8")
    quickstart.write_text(text.replace("max_length: 1024", "max_lenght: 1024"), encoding="utf-8")
    assert main(["check", "--json", str(quickstart)]) == 2
    seen = capsys.readouterr()
    [problem] = json.loads(seen.out)["problems"]
    line = text[: text.index("max_length: 1024")].count("\n") + 1
    assert (problem["file"], problem["line"], problem["column"]) == (str(quickstart), line, 3)
    assert (problem["key"], problem["suggestion"]) == ("sft.max_lenght", "max_length")
    assert seen.err == ""


def test_overrides_may_stand_before_and_behind_options(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against argparse, which takes `key=value` only in one place."""
    stated = ["use=commercial", "data.ichikara.licence_reason=null"]
    for arguments in ([*stated, "--json"], ["--json", *stated]):
        assert main(["check", str(quickstart), *arguments]) == 2
        assert "commercial" in json.loads(capsys.readouterr().out)["problems"][0]["message"]
    lines = refused(capsys, "run", str(quickstart), "seed=x", "--to", "sft", "dpo.beta=-1")
    assert [line.partition(":")[0] for line in lines] == ["override 1 'seed=x'", "override 2 'dpo.beta=-1'"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "quickstart", "--form", "dpo"],
        ["run", "quickstart", "--to", "sft", "stray"],
        ["rnu", "quickstart"],
        ["run"],
        ["chat", "model", "--max-new-tokens", "0"],
        ["preview", "quickstart", "--rows", "-1"],
        ["data", "list", "a=b"],
    ],
)
def test_arguments_that_no_command_takes_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_every_command_shows_examples_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["run"],
        ["check"],
        ["preview"],
        ["data"],
        ["data", "build"],
        ["data", "list"],
        ["data", "report"],
        ["chat"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        assert f"examples:\n  tuning {' '.join(words)}" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["data"]) == 0
    assert "tuning data build" in capsys.readouterr().out


# Data


def test_a_malformed_row_stops_the_run_with_file_line_and_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    rows = [chat_row("Say it.", "sea"), {"messages": [{"role": "user", "content": "Say it."}]}]
    write_lines(tmp_path / "taught.jsonl", rows)
    arguments = ["run", str(recipe), f"output={tmp_path / 'run'}"]
    assert main(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'taught.jsonl'}:2: messages")
    assert last.endswith("[last_not_assistant]")
    assert main([*arguments, "data.taught.on_bad_row=quarantine", "--to", "data"]) == 0
    assert "taught: 2 rows in, 1 kept, dropped: last_not_assistant 1" in capsys.readouterr().err


def test_data_build_takes_options_wherever_they_stand_and_lists_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against the example of its own help, which argparse refused, and against `languages=ja`."""
    raw = str(ROOT / "recipes/samples/oasst-trees.jsonl")
    build = ["data", "build", "oasst", "--input", raw, "--output"]
    assert main([*build, str(tmp_path / "all"), "leaf_policy=every_assistant", "languages=ja"]) == 0
    out = capsys.readouterr().out
    manifest = read_json(tmp_path / "all/manifest.json")
    assert manifest["options"] == {
        "leaf_policy": "every_assistant",
        "languages": ["ja"],
        "text": "text_ja",
    }
    assert set(manifest["languages"]) == {"ja"}
    assert f"{manifest['rows_in']} rows in, {manifest['rows_kept']} kept" in out
    assert out.splitlines()[-1] == f"written: {tmp_path / 'all'}"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["oast", "--input", "{raw}", "--output", "out"], "did you mean oasst?"),
        (["oasst", "--input", "{raw}x", "--output", "out"], "no such file"),
        (["oasst", "--input", "{raw}", "--output", "out", "leaf_polcy=all"], "did you mean leaf_policy?"),
        (["oasst", "--input", "{raw}", "--output", "out", "leaf_policy=al"], "accepted: trimmed_unique"),
        (["oasst", "leaf_policy", "--input", "{raw}", "--output", "out"], "an option is given as name=value"),
    ],
)
def test_data_build_refuses_what_it_does_not_know_in_one_line(
    quickstart: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    raw = str(quickstart.parent / "samples/oasst-trees.jsonl")
    [line] = refused(capsys, "data", "build", *(text.format(raw=raw) for text in arguments))
    assert part in line


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("language=ja", "language is no option of a builder; say --language ja"),
        ("on_bad_row=quarantine", "on_bad_row is no option of a builder; say --on-bad-row quarantine"),
        ("inputs=x", "inputs is no option of a builder; say --input x"),
    ],
)
def test_what_has_a_flag_of_its_own_is_not_taken_as_an_option(
    quickstart: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    """Guards against a TypeError: a recipe spells these as settings of the source."""
    [line] = refused(capsys, "data", "build", "files", "--input", "x", "--output", "o", option)
    assert said in line


@pytest.mark.parametrize("place", ["file/below", "folder"])
def test_an_output_that_cannot_be_written_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    write_lines(tmp_path / "rows.jsonl", [chat_row("a", "b")])
    built = ["data", "build", "files", "--input", str(tmp_path / "rows.jsonl"), "--output"]
    if place == "folder":
        assert main([*built, str(tmp_path / "built")]) == 0
        command = ["data", "report", str(tmp_path / "built"), "--html", str(tmp_path / place)]
    else:
        command = [*built, str(tmp_path / place)]
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].endswith(("Not a directory", "Is a directory"))


def test_data_list_shows_every_builder_with_licence_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    assert main(["data", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(builders())
    for name, info in listed.items():
        assert f"{name}: " in shown
        assert all(f"licence  {licence['id']}" in shown for licence in info["licences"])
        assert all(licence["url"] is None or licence["url"] in shown for licence in info["licences"])
        assert all(term in shown for term in info["use_restrictions"])
        assert all(f"option   {option['name']}=" in shown for option in info["options"])


def test_data_build_takes_a_licence_with_its_reason_or_its_terms(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = str(quickstart.parent / "samples/ichikara.json"), quickstart.parent / "out"
    build = ["data", "build", "ichikara", "--input", raw, "--output", str(out)]
    assert main([*build, "--licence", "apache 2"]) == 0
    assert read_json(out / "manifest.json")["licence"] == "CC-BY-NC-SA-4.0 AND Apache-2.0"
    terms = '{"commercial": true, "redistribution": false}'
    reason = ["--licence-reason", "contract 12", "--attribution", "RIKEN AIP"]
    assert main([*build, "--licence", "LicenseRef-contract", "--terms", terms, *reason]) == 0
    manifest = read_json(out / "manifest.json")
    assert (manifest["licence"], manifest["commercial"]) == ("LicenseRef-contract", True)
    assert manifest["use_restrictions"] == ["no redistribution"]
    assert manifest["attribution"] == "RIKEN AIP"
    assert manifest["licence_instead_of"]["reason"] == "contract 12"
    [line] = refused(capsys, *build, "--licence", "LicenseRef-contract", "--terms", "commercial")
    assert line.startswith("--terms: saw 'commercial'; accepted: JSON such as")
    [line] = refused(capsys, *build, "--licence", "apach 2")
    assert "did you mean Apache-2.0?" in line


def test_data_report_shows_the_counts_of_the_manifests(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(tiny_run.output / "data" / name) for name in ("chats", "pairs")]
    assert main(["data", "report", *folders, "--json"]) == 0
    chats, pairs = json.loads(capsys.readouterr().out)
    assert (pairs["rows_in"], pairs["rows_kept"]) == (14, 12)
    assert pairs["rows_dropped"] == {"empty_side": 1, "identical_sides": 1}
    assert chats["assistant_turns"] == {"1": 22}
    assert chats["licence"] == "CC-BY-4.0"
    assert main(["data", "report", *folders]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^pairs +14 +12 +2 +1-1 ", shown, re.MULTILINE)
    assert "pairs: dropped 1 for empty_side" in shown
    monkeypatch.chdir(tmp_path)
    [line] = refused(capsys, "data", "report", folders[0], str(tiny_run.output))  # was a traceback
    assert "no manifest.json; a folder written by `tuning data build`" in line


# What is trained on, and the model


def test_preview_shows_rows_and_counts_of_every_source_and_writes_a_page_of_its_own(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = []
    for output in (tiny_run.output, tmp_path / "fresh"):  # with the base of a run, and before there is one
        page = tmp_path / f"{output.name}.html"
        arguments = ["preview", str(tiny_run.recipe), f"output={output}", "--rows", "1", "--html", str(page)]
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        html = page.read_text(encoding="utf-8")
        visible = unescape(re.sub("<[^>]+>", "", html))
        for text in ("chats", "taught", "pairs"):
            assert text in shown
            assert text in visible
        assert "Tell me of the sun." in visible
        assert "🇯🇵" in visible
        assert not re.search(r"""(src|href)=["']?http""", html)
        pages.append(visible)
    assert pages[0] == pages[1]
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == ["data"]


def test_chat_answers_piped_questions_as_the_evaluation_does_and_keeps_the_conversation(
    tiny_run: TinyRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny_run.release)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, for_training=False).eval()
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    template = load_template("llm-jp-v3")

    def ask(question: str) -> str:
        messages.append({"role": "user", "content": question})
        [answer] = greedy_answers(
            model, tokenizer, [encode_prompt(messages, tokenizer, template)], max_new_tokens=5
        )
        messages.append({"role": "assistant", "content": answer.text})
        return answer.text

    first, second = ask("Say sun </s>."), ask("And moon?")
    del messages[1:]
    third = ask("And moon?")
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("Say sun </s>.\nAnd moon?\n/new\nAnd moon?\n\nnever asked\n")
    )
    capsys.readouterr()
    assert main(["chat", folder, "--system", "Be brief.", "--max-new-tokens", "5"]) == 0
    out = capsys.readouterr().out
    assert [line.strip() for line in out.splitlines()] == [first, second, third]


def test_chat_refuses_a_folder_that_is_no_chat_model(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [line] = refused(capsys, "chat", "./nowhere")
    assert "nowhere" in line
    [line] = refused(capsys, "chat", str(tiny_run.output / "base/model"))
    assert "carries no chat template" in line
