"""Code, formulas, addresses and placeholders leave a text before it is translated and come back unchanged.

    Call `f(x)` at https://example.org   ->   Call [[1]] at [[2]]   ->   [[2]]で[[1]]を呼ぶ

Models copy short bracketed numbers; spaces and full-width forms (`［［1］］`) are understood on the way back.
A text that already holds such a token has it protected like any other piece.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

OPEN, CLOSE = r"[\[［]\s?[\[［]\s*", r"\s*[\]］]\s?[\]］]"
TOKEN = re.compile(rf"{OPEN}(\d+){CLOSE}")
MARKER = re.compile(rf"{OPEN}[#＃]\s*(\d+){CLOSE}")
"""The start of a turn in a request that holds several (`dialogue.py`)."""

ATTRIBUTE = r"""\s+[\w:@.-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
PIECE = re.compile(
    "|".join(
        f"(?:{pattern})"
        for pattern in (
            # People open fences in mid-line too; one that is never closed runs to the end.
            r"(?P<fence>`{3,})[\s\S]*?(?P=fence)`*",
            r"^[ \t]*(?P<tildes>~{3,})[\s\S]*?^[ \t]*(?P=tildes)~*",
            r"^[ \t]*(?:`{3,}|~{3,})[^`~\n]*\n[\s\S]*\Z",
            r"\\begin\{(?P<environment>[A-Za-z]+\*?)\}[\s\S]*?\\end\{(?P=environment)\}",
            r"\$\$[^$]+\$\$",
            r"\\\[[\s\S]+?\\\]",
            r"\\\([\s\S]+?\\\)",
            r"(?P<ticks>`+)(?!`)[^\n]*?[^`\n](?P=ticks)(?!`)",
            # Pandoc's rule, so that "$5 to $10" is money: no space inside the dollars, no digit behind them.
            r"(?<![\\$\w])\$(?![\s$])[^$\n]*?(?<![\s\\])\$(?![\d$])",
            r"(?:https?|ftp)://[!-;=?-Z\\^_a-z|~\[\]]+(?<![.,;:!?'\"\)\]])",
            r"(?<![\w@.])www\.[!-;=?-Z\\^_a-z|~]+(?<![.,;:!?'\"\)])",
            r"(?<![\w.+-])[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
            r"\{\{[^{}\n]*\}\}",
            r"\$\{[^{}\n]*\}",
            r"\\[A-Za-z]+(?:\{(?:[^{}\n]|\{[^{}\n]*\})*\})+",
            r"\{(?:[A-Za-z_][\w.\[\]]*|\d*)(?:![rsa])?(?::[^{}\n]{0,20})?\}",
            # Names in capitals are for a program to fill in; "[Your Name]" is for readers, and translated.
            r"\[[A-Z][A-Z0-9_]+\]|(?<!\w)__[A-Z][A-Z0-9_]*?__(?!\w)|(?<![\w$])\$[A-Z_][A-Z0-9_]+(?![\w$])",
            r"(?<![\w%])%(?:\([A-Za-z_]\w*\)|\d+\$)?[-+#0]*\d*(?:\.\d+)?[sdifgexXrc](?![A-Za-z0-9])",
            r"<!--[\s\S]*?-->",
            r"<\|[^|<>\n]{1,40}\|>",
            rf"</?[A-Za-z][\w:-]*(?:{ATTRIBUTE})*\s*/?>",
            TOKEN.pattern.replace("(", "(?:"),
            MARKER.pattern.replace("(", "(?:"),
        )
    ),
    re.MULTILINE,
)
CALL = re.compile(r"(?<![A-Za-z0-9_.])([a-z_][A-Za-z0-9_.]*)\((?=[^()\n]*\))")
"""Code in prose without marks: `print(x)`. A capital is a name with a remark: `Malta(2 isles)`."""


@dataclass(frozen=True)
class Protected:
    """A text with tokens in place of its pieces."""

    text: str
    pieces: dict[int, str]

    @property
    def has_prose(self) -> bool:
        """Whether a letter is left to translate."""
        return any(character.isalpha() for character in TOKEN.sub(" ", self.text))


def protect(text: str, first: int = 1) -> Protected:
    """`text` with its pieces as tokens numbered from `first`."""
    pieces: dict[int, str] = {}

    def token(match: re.Match[str]) -> str:
        number = first + len(pieces)
        pieces[number] = match[0]
        return f"[[{number}]]"

    return Protected(PIECE.sub(token, text), pieces)


def restore(translation: str, protected: Protected) -> tuple[str, bool]:
    """The translation with its pieces back, and whether every token came back exactly once.

    A block (fenced code, a displayed formula) that stood on lines of its own stands so again.
    """
    pieces = protected.pieces
    seen = Counter(int(match[1]) for match in TOKEN.finditer(translation))

    def piece(match: re.Match[str]) -> str:
        text = pieces.get(int(match[1]), match[0])
        if "\n" not in text:
            return text
        before, after = translation[: match.start()].rstrip(" \t"), translation[match.end() :].lstrip(" \t")
        opens = "\n" if before and not before.endswith("\n") else ""
        closes = "\n" if after and not after.startswith("\n") and not text.endswith("\n") else ""
        return opens + text + closes

    return TOKEN.sub(piece, translation), seen == Counter(pieces.keys())


def pieces_of(text: str) -> list[str]:
    """What of a text may not be translated, in order."""
    return [match[0] for match in PIECE.finditer(text)]


def prose_of(text: str) -> str:
    """What of a text is translated; a space stands for each piece."""
    return PIECE.sub(" ", text)


def changed_pieces(source: str, translation: str) -> list[str]:
    """The pieces of `source` that `translation` lost, changed or doubled, and calls whose brackets turned
    full-width (`flask（__name__）`)."""
    changed = [
        piece for piece in dict.fromkeys(pieces_of(source)) if translation.count(piece) != source.count(piece)
    ]
    names = dict.fromkeys(match[1] for match in CALL.finditer(prose_of(source)))
    return changed + [
        f"{name}(" for name in names if re.search(rf"(?<!\w){re.escape(name)}\s?（", translation)
    ]
