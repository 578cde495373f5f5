"""Tells Japanese from English where a source does not say; kana decide, kanji alone may be Chinese."""

from __future__ import annotations

import re

KANA = re.compile("[\u3041-\u30ff]")
JAPANESE = re.compile("[\u3041-\u30ff\u3400-\u9fff]")


def has_kana(text: str) -> bool:
    """Whether a text holds hiragana or katakana."""
    return KANA.search(text) is not None


def japanese_or_english(*texts: str) -> str:
    """`ja` or `en`, for sources that hold nothing else."""
    return "ja" if any(JAPANESE.search(text) for text in texts) else "en"
