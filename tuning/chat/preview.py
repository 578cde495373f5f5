"""What the model will be trained on, shown to a reader: trained characters in green, control tokens apart.

Pieces are made from the ids alone, so whatever is shown is what the model gets. Tokens that are only part
of a character are shown together: `<0xF0> <0xA0> <0xAE> <0xB7>` is 𠮷, and the eight byte tokens of 🇯🇵 are
one flag.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .encode import EncodedSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAGE = Path(__file__).parent / "preview.html"

_DIRECTION_CHANGES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens that make up something one can see."""

    text: str
    is_target: bool
    is_control: bool
    ids: tuple[int, ...]
    tokens: tuple[str, ...]

    @property
    def kind(self) -> str:
        """A CSS class: control, trained control (`end`), trained or context."""
        if self.is_control:
            return "end" if self.is_target else "control"
        return "trained" if self.is_target else "context"

    @property
    def hover(self) -> str:
        return "\n".join(
            f"{token_id}  {token}" for token_id, token in zip(self.ids, self.tokens, strict=True)
        )


@dataclass(frozen=True)
class SourceCount:
    """One line of the table: a source and what its sequences add up to."""

    source: str
    num_sequences: int
    num_tokens: int
    num_targets: int
    notes: dict[str, int]

    @property
    def trained_share(self) -> float:
        return self.num_targets / max(self.num_tokens, 1)


def token_pieces(sequence: EncodedSequence, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The sequence as visible pieces, in order; their texts joined are the rendered conversation."""
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(sequence.input_ids.tolist())]
    added = tokenizer.added_tokens_decoder
    to_bytes = _PieceBytes(tokenizer)
    pieces: list[Piece] = []
    waiting: list[int] = []
    pending = b""
    follows_control = True
    for at, token in enumerate(tokens):
        if int(sequence.input_ids[at]) in added:
            if waiting:
                pieces.append(_piece(pending.decode(errors="replace"), waiting, sequence, tokens, False))
                waiting, pending = [], b""
            pieces.append(_piece(token, [at], sequence, tokens, True))
            follows_control = True
            continue
        if waiting and sequence.is_target[at] != sequence.is_target[waiting[-1]]:
            pieces.append(_piece(pending.decode(errors="replace"), waiting, sequence, tokens, False))
            waiting, pending = [], b""
        waiting.append(at)
        pending += to_bytes(token, follows_control)
        follows_control = False
        text = _complete(pending)
        if text is not None:
            pieces.append(_piece(text, waiting, sequence, tokens, False))
            waiting, pending = [], b""
    if waiting:
        pieces.append(_piece(pending.decode(errors="replace"), waiting, sequence, tokens, False))
    return _joined(pieces)


def source_counts(sequences: Iterable[EncodedSequence]) -> list[SourceCount]:
    """Totals per source, in order of appearance."""
    totals: dict[str, Counter[str]] = {}
    for sequence in sequences:
        total = totals.setdefault(sequence.source, Counter())
        total.update({"": 1, " tokens": len(sequence), " targets": sequence.num_targets})
        total.update(sequence.counts)
    return [
        SourceCount(source, total.pop(""), total.pop(" tokens"), total.pop(" targets"), dict(total))
        for source, total in totals.items()
    ]


def preview_terminal(
    sequences: Sequence[EncodedSequence],
    tokenizer: PreTrainedTokenizerBase,
    *,
    per_source: int = 2,
    file: TextIO | None = None,
) -> None:
    """Prints the first sequences of each source in colour, then the counts of all of them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"trained": "green", "end": "bold green", "control": "dim yellow", "context": ""}
    console = Console(file=file, highlight=False)
    console.print(
        Text.assemble(
            ("trained on", styles["trained"]), "  ", ("end of turn, trained on", styles["end"]), "  ",
            ("control token", styles["control"]), "  everything else is context",
        )
    )  # fmt: skip
    for sequence in _first(sequences, per_source):
        size = f"{len(sequence)} tokens, {sequence.num_targets} trained"
        heading = f"{sequence.source or '-'}  {sequence.id or '-'}  {size}"
        console.rule(Text(visible(heading)), align="left")
        line = Text()
        for piece in token_pieces(sequence, tokenizer):
            line.append(visible(piece.text), style=styles[piece.kind])
        console.print(line)
    table = Table("source")
    for name in ("sequences", "tokens", "trained", "share"):
        table.add_column(name, justify="right")
    table.add_column("notes")
    for count in source_counts(sequences):
        notes = ", ".join(f"{name} {number}" for name, number in count.notes.items())
        numbers = [f"{number:,}" for number in (count.num_sequences, count.num_tokens, count.num_targets)]
        table.add_row(Text(visible(count.source or "-")), *numbers, f"{count.trained_share:.1%}", notes)
    console.print(table)


def preview_html(
    sequences: Sequence[EncodedSequence],
    tokenizer: PreTrainedTokenizerBase,
    *,
    title: str = "What the model is trained on",
    per_source: int = 10,
) -> str:
    """One self-contained page: counts of all sequences, and the first of each source token by token."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE.read_text(encoding="utf-8"))
    shown = [(sequence, token_pieces(sequence, tokenizer)) for sequence in _first(sequences, per_source)]
    counts = source_counts(sequences)
    return page.render(title=title, counts=counts, shown=shown, visible=visible, total=len(sequences))


def visible(text: str) -> str:
    """The text with line breaks marked and invisible control characters (escape sequences, ...) shown as
    pictures."""
    shown = []
    for character in text:
        if character == "\n":
            shown.append("↵\n")
        elif character == "\t":
            shown.append("⇥\t")
        elif ord(character) < 32:
            shown.append(chr(0x2400 + ord(character)))
        elif unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTION_CHANGES:
            shown.append(f"⟨{ord(character):X}⟩")
        else:
            shown.append(character)
    return "".join(shown)


class _PieceBytes:
    """Vocabulary entry -> the UTF-8 bytes that it writes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = tokenizer.backend_tokenizer
        self._is_byte_level = "ByteLevel" in repr(backend.decoder)
        self._byte_of = {f"<0x{value:02X}>": bytes([value]) for value in range(256)}
        first = backend.encode("\n", add_special_tokens=False).tokens
        self._adds_dummy_space = bool(first) and first[0].startswith("▁")
        self._characters = _byte_level_alphabet()

    def __call__(self, token: str, follows_control: bool) -> bytes:
        if self._is_byte_level:
            return b"".join(self._characters.get(character, character.encode()) for character in token)
        if token in self._byte_of:
            return self._byte_of[token]
        if follows_control and self._adds_dummy_space:
            token = token.removeprefix("▁")
        return token.replace("▁", " ").encode()


def _byte_level_alphabet() -> dict[str, bytes]:
    """The printable characters under which byte-level BPE (GPT-2) stores bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in printable]
    table = {chr(value): bytes([value]) for value in printable}
    return table | {chr(256 + place): bytes([value]) for place, value in enumerate(hidden)}


def _complete(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        is_cut_at_end = error.end == len(data) and len(data) - error.start < 4
        return None if is_cut_at_end else data.decode(errors="replace")


def _piece(
    text: str, at: Sequence[int], sequence: EncodedSequence, tokens: Sequence[str], is_control: bool
) -> Piece:
    ids = tuple(int(sequence.input_ids[i]) for i in at)
    return Piece(text, bool(sequence.is_target[at[0]]), is_control, ids, tuple(tokens[i] for i in at))


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces that are read as one sign (flags, joined emoji, combining marks) made one."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        is_alike = (
            last is not None
            and not (last.is_control or piece.is_control)
            and last.is_target == piece.is_target
        )
        if last is not None and is_alike and _continues(last.text, piece.text):
            both: dict[str, Any] = {"ids": last.ids + piece.ids, "tokens": last.tokens + piece.tokens}
            joined[-1] = Piece(last.text + piece.text, last.is_target, False, **both)
        else:
            joined.append(piece)
    return joined


def _continues(before: str, after: str) -> bool:
    if not before or not after:
        return False
    first = after[0]
    if "\U0001f1e6" <= first <= "\U0001f1ff":
        flags = len(before) - len(before.rstrip("".join(map(chr, range(0x1F1E6, 0x1F200)))))
        return flags % 2 == 1
    is_modifier = "\U0001f3fb" <= first <= "\U0001f3ff"
    return (
        is_modifier
        or first == "\u200d"
        or before[-1] == "\u200d"
        or unicodedata.category(first).startswith("M")
    )


def _first(sequences: Iterable[EncodedSequence], per_source: int) -> list[EncodedSequence]:
    seen: Counter[str] = Counter()
    chosen = []
    for sequence in sequences:
        seen[sequence.source] += 1
        if seen[sequence.source] <= per_source:
            chosen.append(sequence)
    return chosen
