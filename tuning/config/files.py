"""The layers of a recipe: its file, the files that it extends, and overrides, laid one over the other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tuning.config.checks import neighbour, shown
from tuning.config.errors import Place, Problem, RecipeError, in_order, nearest, problem
from tuning.config.nodes import MAX_BYTES
from tuning.config.walk import Entry, lay_over, read_override, read_yaml


def shipped_recipes() -> dict[str, str]:
    """Path of every recipe that comes with the library, by name."""
    folder = str(Path(__file__).resolve().parents[2] / "recipes")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return {
        name.removesuffix(".yaml"): shown(os.path.join(folder, name))
        for name in names
        if name.endswith(".yaml")
    }


def read_layers(
    schema: type, path_or_name: str, overrides: Iterable[str], problems: list[Problem]
) -> tuple[list[str], Entry]:
    """The files read, the recipe's own first, and all layers merged: extended files, the recipe, overrides.

    Mistakes go to `problems`; raises `RecipeError` at once when a file cannot be read at all.
    """
    files: list[str] = []
    layers: list[Entry] = []
    wanted, asked_at = path_or_name, Place(path_or_name)
    while True:
        file = _find(wanted, asked_at, problems)
        if file and any(os.path.samefile(file, other) for other in files):
            problems.append(problem(asked_at, "extends", f"extends: {file} extends this file in turn"))
            file = None
        text = _read_text(file, problems) if file else None
        layer = read_yaml(schema, text, file, problems) if file and text is not None else None
        if file is None or layer is None:
            raise RecipeError(in_order(problems, files))
        files.append(file)
        layers.append(layer)
        parent = layer.value.get("extends")
        if parent is None or not isinstance(parent.value, str):
            break
        wanted, asked_at = parent.value, parent.place
    merged = Entry({}, layers[0].place)
    for layer in reversed(layers):
        merged = lay_over(merged, layer, problems)
    for number, override in enumerate(overrides, 1):
        layer = read_override(schema, override, f"override {number} {override!r}", problems)
        if layer and "extends" in layer.value:
            problems.append(problem(layer.place, "extends", "extends belongs into the recipe file"))
        elif layer:
            merged = lay_over(merged, layer, problems)
    return files, merged


def _find(wanted: str, place: Place, problems: list[Problem]) -> str | None:
    """The file that a path or a shipped name stands for; `place` is the `extends` that asks for it."""
    folder = os.path.dirname(place.file) if place.line is not None else ""
    path = os.path.join(folder, os.path.expanduser(wanted))
    if os.path.isfile(path):
        return shown(os.path.normpath(path))
    shipped = shipped_recipes()
    name = wanted.removeprefix("recipes/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    is_folder = os.path.isdir(path)
    what = "is a folder, not a recipe" if is_folder else "there is no such file"
    asked = "" if place.line is None else f"extends: {shown(path)}: "
    message = f"{asked}{what}; accepted: a YAML file, or a shipped recipe ({', '.join(shipped) or 'none'})"
    meant = None if is_folder else neighbour(Path(path), wanted, ".yaml") or nearest(name, shipped)
    problems.append(problem(place, "extends" if asked else "", message, meant))
    return None


def _read_text(file: str, problems: list[Problem]) -> str | None:
    """The characters of a recipe file, or None after noting why there are none."""
    try:
        data = Path(file).read_bytes()
        if len(data) <= MAX_BYTES:
            return data.decode("utf-8-sig")
        problems.append(
            problem(Place(file, 1, 1), "", f"{len(data)} bytes; a recipe has at most {MAX_BYTES}")
        )
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} ({data[error.start]:#04x}) is not UTF-8; a recipe is UTF-8 text"
        problems.append(problem(Place(file, line, 1), "", message))
    except OSError as error:
        problems.append(problem(Place(file, 1, 1), "", f"cannot be read: {error.strerror}"))
    return None
