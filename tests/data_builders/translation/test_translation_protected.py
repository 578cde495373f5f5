"""Code, formulas, addresses and placeholders: what is one piece, and that it comes back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.translation.protected import changed_pieces, pieces_of, prose_of, protect, restore


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Run:\n```sh\nls  # list\n```\nDone.", ["```sh\nls  # list\n```"]),
        ("Here: ```py\nx = 1\n``` as said.", ["```py\nx = 1\n```"]),  # opened in mid-line
        ("````md\n```\ninner\n```\n````\nDone.", ["````md\n```\ninner\n```\n````"]),
        ("~~~\nx\n~~~\nDone.", ["~~~\nx\n~~~"]),
        ("Cut off:\n```py\nx = [", ["```py\nx = ["]),
        ("Use `f(x)` or ``a ` b`` here.", ["`f(x)`", "``a ` b``"]),
        ("See https://example.org/a_(b)?q=1. Then go.", ["https://example.org/a_(b)?q=1"]),
        ("（https://example.org/x）を見て", ["https://example.org/x"]),
        ("Go to www.example.org, or write to a.b@example.org.", ["www.example.org", "a.b@example.org"]),
        (r"So $a^2$ and $$b$$ and \(c\) and \[d\].", ["$a^2$", "$$b$$", r"\(c\)", r"\[d\]"]),
        ("\\begin{align*}x\\end{align*} holds.", ["\\begin{align*}x\\end{align*}"]),
        ("It costs $5 to $10, or US$20.", []),
        ("Dear {name}, {{ city }} and ${home} and {0} and {x:.2f}.", None),
        ("Print %s and %(name)s and %.2f but 100% sure.", ["%s", "%(name)s", "%.2f"]),
        ("A 50% discount, 100%.", []),
        ('Write <a href="x.html">this</a><br/> and </s> and <|end|>.', None),
        ("If a < b and c > d, then <your name>.", []),
        ("As in [[1]] and ［［#2］］.", ["[[1]]", "［［#2］］"]),
        ("A claim.[42] And {braces, really}.", []),
        ("Write {0:.2f}, {:>8}, {!r} and {}.", ["{0:.2f}", "{:>8}", "{!r}", "{}"]),
        ("Fill in [NAME] and __CITY__ at $HOME, not [Your Name].", ["[NAME]", "__CITY__", "$HOME"]),
        (r"It is \frac{1}{2} or \sqrt{x_{1}}.", [r"\frac{1}{2}", r"\sqrt{x_{1}}"]),
        ("A plan B, a [B] and $X.", []),
    ],
)
def test_what_is_a_piece_and_what_is_prose(text: str, pieces: list[str] | None) -> None:
    if pieces is None:
        pieces = {
            "D": ["{name}", "{{ city }}", "${home}", "{0}", "{x:.2f}"],
            "W": ['<a href="x.html">', "</a>", "<br/>", "</s>", "<|end|>"],
        }[text[0]]
    assert pieces_of(text) == pieces
    assert not any(piece in prose_of(text) for piece in pieces)


@given(st.text(alphabet="ab `$\\()[]{}<>%/:.#1\n~é漢", max_size=60))
def test_an_unchanged_translation_restores_any_text_exactly(text: str) -> None:
    protected = protect(text, first=3)
    restored, is_whole = restore(protected.text, protected)
    assert is_whole
    if "\n" not in "".join(protected.pieces.values()):  # a block in mid-line is put on its own lines
        assert restored == text


def test_tokens_come_back_through_spaces_full_width_brackets_and_another_order() -> None:
    protected = protect("Call `f` at https://example.org now.")
    assert protected.text == "Call [[1]] at [[2]] now."
    assert restore("今すぐ［［２］］で [[ 1 ]] を呼ぶ。", protected) == (
        "今すぐhttps://example.orgで `f` を呼ぶ。",
        True,
    )


@pytest.mark.parametrize(
    "translation", ["今[[1]]。", "[[1]]と[[2]]と[[2]]。", "[[1]]、[[2]]、[[3]]。", "今。"]
)
def test_a_token_lost_doubled_or_made_up_is_told(translation: str) -> None:
    _, is_whole = restore(translation, protect("Call `f` at https://example.org now."))
    assert not is_whole


def test_a_block_stands_on_its_own_lines_again() -> None:
    text = "Run:\n```\nls\n```\nDone."
    restored, _ = restore("実行：[[1]]完了。", protect(text))
    assert restored == "実行：\n```\nls\n```\n完了。"


def test_pieces_count_as_changed_when_their_number_differs() -> None:
    assert changed_pieces("Use `a` and `a`.", "`a`と`a`を使う。") == []
    assert changed_pieces("Use `a` and `a`.", "`a`を使う。") == ["`a`"]
    assert changed_pieces("See https://example.org.", "https：//example.org を見て。") == [
        "https://example.org"
    ]


def test_full_width_brackets_behind_a_function_are_a_change() -> None:
    """kunishou's oasst1-89k-ja had `app = flask（__name__）` in about 2,000 rows (FACTS 1.4)."""
    assert changed_pieces("app = flask(__name__)", "app = flask（__name__）") == ["flask("]
    assert changed_pieces("app = flask(__name__)", "app = flask(__name__)") == []
    assert changed_pieces("Malta(120 sq. mi.) is small", "Malta（120平方マイル）は小さい") == []
