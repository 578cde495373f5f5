"""The faces of a report: what they show, and that no row can make them do anything else."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from data_builders import build
from tests.conftest import chat_row, write_lines, write_recipe
from tuning.cli import main
from tuning.data_report import folders_report, report_html, report_svg, report_text
from tuning.data_report.page import samples_html
from tuning.data_report.svg import bars, histogram, shortened
from tuning.data_report.text import print_samples

EVIL = "<script>alert(1)</script>\"' onmouseover=alert(2) <img src=x>\x1b[31m[bold]\u202e{{ 7 * 7 }}"
ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements, attributes and visible text of a page; every element has to be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(folder: Path) -> dict[str, Any]:
    """A report in which every text that a user can choose is hostile."""
    row = chat_row(f"Ask {EVIL}", f"Answer {EVIL}")
    meta = {"category": EVIL, "language": '"><script>'}
    rows = [{"id": f"{EVIL}{number}", **row, "meta": meta} for number in range(2)]
    write_lines(folder / "evil.jsonl", rows)
    build("files", [folder / "evil.jsonl"], folder / "evil", source="evil", attribution=EVIL, licence="MIT")
    report = folders_report([folder / "evil"])
    report["name"] = report["sources"][0]["source"] = EVIL
    return report


def test_the_page_shows_hostile_rows_and_runs_none_of_them(tmp_path: Path) -> None:
    report = hostile(tmp_path)
    assert report["sources"][0]["duplicates"]["flagged"] == {"duplicate": 1}
    for html in (report_html(report), report_html(report, report)):
        page = Page(html)
        assert page.tags.isdisjoint({"script", "img", "iframe", "link", "object", "a"})
        assert not [name for name in page.attributes if name.startswith("on")]
        assert page.attributes.isdisjoint({"src", "href"})
        assert "<script>alert(1)</script>" in page.text
        assert "{{ 7 * 7 }}" in page.text
        assert "\x1b" not in html
        assert "\u202e" not in html
    assert "<script>" not in samples_html(report["sources"][0]["samples"])


def test_the_page_is_self_contained_and_reads_in_light_and_dark(tmp_path: Path) -> None:
    html = report_html(hostile(tmp_path))
    assert not re.search(r"https?://|url\(|@import|src=[\"']", html)
    assert "default-src 'none'" in html
    assert html.count("prefers-color-scheme: dark") == 3  # the page, its rows, its charts
    assert "Noto Sans CJK JP" in html


def test_rows_say_their_language_so_that_kanji_get_its_glyphs(tmp_path: Path) -> None:
    write_lines(tmp_path / "ja.jsonl", [chat_row("骨は？", "直")])
    build("files", [tmp_path / "ja.jsonl"], tmp_path / "ja", source="ja", language="ja")
    assert '<div class="mix-row" lang="ja">' in report_html(folders_report([tmp_path / "ja"]))


def test_the_picture_is_well_formed_and_hostile_names_are_text(tmp_path: Path) -> None:
    root = ElementTree.fromstring(report_svg(hostile(tmp_path)))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "style", "rect", "g", "text", "line"}
    assert "http" not in "".join(root.itertext())


def test_bars_are_as_long_as_their_shares_and_say_them() -> None:
    shapes, _ = bars("shares", ["before", "after"], [("a", [0.5, 0.25]), ("日本語", [0.0, 1.0])])
    root = ElementTree.fromstring(f"<g>{shapes}</g>")
    lengths = [float(rect.get("width", "")) for rect in root.iter("rect")][2:]  # two stand in the legend
    assert [length / max(lengths) for length in lengths] == pytest.approx([0.5, 0.25, 0, 1], abs=1e-3)
    texts = [text.text for text in root.iter("text")]
    assert [text for text in texts if text and text.endswith("%")] == ["50.0%", "25.0%", "0.0%", "100.0%"]
    assert "日本語" in texts


def test_charts_of_nothing_are_drawn() -> None:
    ElementTree.fromstring(f"<g>{bars('none', [], [])[0]}{histogram('none', [], 'tokens')[0]}</g>")


def test_long_names_are_cut_by_the_columns_they_take() -> None:
    assert shortened("a" * 24) == "a" * 24
    assert shortened("a" * 25) == "a" * 23 + "…"
    assert shortened("長" * 13) == "長" * 11 + "…"


def test_the_terminal_shows_hostile_texts_as_pictures(tmp_path: Path) -> None:
    report, file = hostile(tmp_path), io.StringIO()
    print_samples(report, file)
    shown = report_text(report) + file.getvalue()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "␛[31m[bold]" in shown
    assert "(flagged, by report)" in shown


# The command


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def test_a_recipe_is_reported_in_every_face(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "report", str(recipe), f"output={tmp_path / 'run'}", "sft.mix.taught.weight=3"]
    page, picture = tmp_path / "mix.html", tmp_path / "mix.svg"
    assert main([*command, "--json", "--html", str(page), "--svg", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"][0]["sources"]["taught"]["epoch_rows"] == 12
    assert [source["source"] for source in found["sources"]] == ["chats", "taught", "pairs"]
    text = Page(page.read_text(encoding="utf-8")).text
    assert "sft: what an epoch holds" in text
    kept, trained = (sum(source[name] for source in found["sources"]) for name in ("rows_kept", "trained"))
    assert re.search(rf"3 sources, {kept} rows, [0-9,]+ tokens, {trained:,} of them trained; template", text)
    assert "🇯🇵" in text
    ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert main([*command, "--rows", "1", "--no-duplicates"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^taught +4 +0 +0 +4 +3 +12 ", shown, re.MULTILINE)
    assert "Tell me of the sun." in shown


def test_the_picture_in_the_readme_is_what_its_command_draws(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "tuning data report quickstart --svg notebooks/mix.svg" in readme
    assert "](notebooks/mix.svg)" in readme
    picture = tmp_path / "mix.svg"
    command = ["data", "report", "quickstart", f"output={tmp_path / 'run'}", "--no-duplicates"]
    assert main([*command, "--svg", str(picture)]) == 0
    assert picture.read_text("utf-8") == (ROOT / "notebooks/mix.svg").read_text("utf-8")


def test_two_mixes_are_compared_side_by_side(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"output={tmp_path / 'run'}"
    page = tmp_path / "two.html"
    command = ["data", "report", str(recipe), output, "--html", str(page), "--no-duplicates"]
    command += ["--json", "--compare", str(recipe), output, "sft.mix.taught.weight=6"]
    assert main(command) == 0
    one, other = json.loads(capsys.readouterr().out)["compared"]
    rows = [each["stages"][0]["sources"]["taught"]["epoch_rows"] for each in (one, other)]
    assert rows == [8, 24]
    text = Page(page.read_text(encoding="utf-8")).text
    assert "tiny-run | tiny-run sft.mix.taught.weight=6: the data mix" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{recipe}", "{folder}"], "accepted: one recipe, or built datasets"),
        (["{folder}", "sft.epochs=1"], "no recipe is given"),
        (["{folder}", "--template", "llm-jp-v3"], "--tokenizer and --template go together"),
        (["{recipe}", "--template", "llm-jp-v3", "--tokenizer", "x"], "names its own tokenizer"),
        (["{folder}", "--rows", "-1"], "--rows: saw -1"),
        (["{folder}", "--svg", "x.svg", "--compare", "{folder}"], "--svg draws one mix"),
        (["nowhere.yaml"], "there is no such file"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line_and_writes_nothing(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"recipe": recipe, "folder": recipe.parent}
    assert main(["data", "report", *(text.format(**places) for text in arguments)]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert part in seen.err
    assert seen.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
