"""The before/after table of a run, for terminals and model cards."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

ROWS = (
    ("loss", "held-out loss (nats/token)", "{:.3f}"),
    ("accuracy", "held-out preference accuracy", "{:.2f}"),
    ("taught_exact", "taught questions answered exactly", "{:.0%}"),
    ("stops", "answers that stop by themselves", "{:.0%}"),
)


def comparison(figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows: a figure a row, a model a column; figures that no model has are left out."""
    stages = list(figures)
    rows = [["", *stages]]
    for key, label, form in ROWS:
        if any(key in values for values in figures.values()):
            rows.append([label, *(_cell(values, key, form) for values in figures.values())])
    for key in dict.fromkeys(key for values in figures.values() for key in values if key.startswith("loss/")):
        label = f"  loss on {key.removeprefix('loss/')}"
        rows.append([label, *(_cell(values, key, "{:.3f}") for values in figures.values())])
    return rows


def _cell(values: Mapping[str, Any], key: str, form: str) -> str:
    if key not in values:
        return "-"
    text = form.format(values[key])
    if key == "accuracy" and "accuracy_interval" in values:
        low, high = values["accuracy_interval"]
        text += f" ({low:.2f}-{high:.2f}, n={values['pairs']})"
    if key == "taught_exact":
        text += f" of {values['questions']}"
    if key == "stops":
        text += f" of {values['answers']}"
    return text


def plain(rows: Sequence[Sequence[str]]) -> str:
    """The table in columns of equal width; wide characters count two."""
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(width, lines)), *lines[1:]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown."""
    lines = ["| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
