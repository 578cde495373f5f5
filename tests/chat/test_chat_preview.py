from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tuning.chat import EncodedSequence, encode, load_template, preview_html, preview_terminal, token_pieces
from tuning.chat.preview import source_counts

EVIL = "<script>alert(1)</script>\"' onmouseover=alert(2) <img src=x>\x1b[31m[bold]\u202e"


def encoded(tokenizer: Any, question: str, answer: str, source: str = "own", name: str = "llm-jp-v3") -> Any:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    [sequence] = encode(messages, tokenizer, load_template(name), id="r<1>", source=source)
    return sequence


def test_byte_tokens_of_one_sign_are_one_piece(v3: Any) -> None:
    pieces = token_pieces(encoded(v3, "𠮷", "𠮷と🇯🇵🇺🇸e\u0301\n"), v3)
    trained = [piece for piece in pieces if piece.is_target]
    assert [piece.text for piece in trained] == ["𠮷", "と", "🇯🇵", "🇺🇸", "e\u0301", "\n", "</s>"]
    assert [len(piece.ids) for piece in trained] == [4, 3, 8, 8, 3, 1, 1]
    assert trained[-1].kind == "end"
    assert pieces[0].kind == "control"


@pytest.mark.parametrize("answer", ["𠮷野家 と\n🇯🇵", " a  b\tはい", "é👩\u200d👩\u200d👧"])
def test_pieces_joined_are_the_rendered_conversation(answer: str, real: Any) -> None:
    pieces = token_pieces(encoded(real, "い\n", answer), real)
    rendered = f"{real.bos_token}\n\n### 指示:\nい\n\n\n### 応答:\n{answer}{real.eos_token}"
    assert "".join(piece.text for piece in pieces) == rendered
    assert "".join(piece.text for piece in pieces if piece.is_target) == answer + real.eos_token


def test_a_sign_that_is_trained_on_in_part_shows_where(v3: Any) -> None:
    ids = v3.convert_tokens_to_ids(["<0xF0>", "<0xA0>", "<0xAE>", "<0xB7>"])
    halved = EncodedSequence(np.array(ids, dtype=np.int32), np.array([False, False, True, True]))
    assert [(piece.is_target, len(piece.ids)) for piece in token_pieces(halved, v3)] == [
        (False, 2),
        (True, 2),
    ]


def test_byte_level_pieces_are_shown_as_characters(byte_level: Any) -> None:
    pieces = token_pieces(encoded(byte_level, "い", "𠮷 a", name="chatml"), byte_level)
    assert [piece.text for piece in pieces if piece.is_target] == ["𠮷", " ", "a", "<|im_end|>"]


class Page(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_hostile_text_and_runs_none_of_it(v3: Any) -> None:
    html = preview_html([encoded(v3, EVIL, EVIL, source=EVIL)], v3)
    page = Page(html)
    assert page.tags.isdisjoint({"script", "img", "iframe", "link"})
    assert page.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "title"}
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_html_is_self_contained_and_marks_what_is_trained(v3: Any) -> None:
    html = preview_html([encoded(v3, "い", "𠮷🇯🇵")], v3)
    assert not re.search(r"https?://|url\(|@import|src=", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert "Noto Sans CJK JP" in html
    assert re.search(r'<span class="trained" title="[^"]*&lt;0xF0&gt;[^"]*">𠮷</span>', html)
    assert re.search(
        r'<span class="trained" title="[^"]*">🇯🇵</span><span class="end" title="2  &lt;/s&gt;">', html
    )


def test_counts_cover_all_sequences_and_only_the_first_are_shown(v3: Any) -> None:
    sequences = [encoded(v3, "い", "はい", "a")] * 5 + [encoded(v3, "</s>", "はい", "b")]
    first, second = source_counts(sequences)
    assert (first.source, first.num_sequences, first.num_targets) == ("a", 5, 15)
    assert first.num_tokens == 5 * len(sequences[0])
    assert second.notes == {"literal_special_token": 1}
    html = preview_html(sequences, v3, per_source=2)
    assert html.count("<section>") == 3
    assert "3 of 6 sequences" in html


def test_terminal_preview_shows_hostile_text_as_pictures(v3: Any) -> None:
    file = io.StringIO()
    preview_terminal([encoded(v3, EVIL, "𠮷\t🇯🇵")], v3, file=file)
    shown = file.getvalue()
    assert "\x1b" not in shown
    assert "␛[31m[bold]" in shown
    assert "\u202e" not in shown
    assert "𠮷⇥" in shown
    assert "🇯🇵</s>" in shown
