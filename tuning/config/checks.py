"""What no single setting can answer: names that must agree, files that must exist, settings at odds.

The values here are plain, and absent where they had a problem of their own: no mistake hides another.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.config.errors import Place, Problem, brief, nearest, problem
from tuning.config.trainer_keys import keys_of
from tuning.config.walk import join

TRAIN_STAGES = ("sft", "dpo")
"""Stages that our own trainer runs."""
BORROWED_STAGES = ("reward", "grpo")
"""Stages that TRL's trainers run."""
TRAINED_STAGES = (*TRAIN_STAGES, *BORROWED_STAGES)
"""Stages that mix sources and train a model, in the order in which they run."""
CHAT_STAGES = ("sft", "dpo", "grpo")
"""Those that make a chat model, which can be evaluated and released."""
PREFERENCE_STAGES = ("dpo", "reward")
"""Those that mix pairs; the others mix conversations."""
STAGES = (*TRAINED_STAGES, "evaluate", "release")

REFERABLE = ("name", "base", "template", "seed", "use", "output", "data_root", "tokenizer", "precision")
"""Settings that `${...}` may stand for."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass
class Draft:
    """The merged values of a recipe on their way to becoming one."""

    file: str
    values: dict[str, Any]
    places: Mapping[str, Place]
    problems: list[Problem]
    warnings: list[Problem]

    def place(self, key: str) -> Place:
        """Where a key was written, or else the mapping around it."""
        while key and key not in self.places:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.places[key] if key else Place(self.file, 1, 1)

    def add(self, key: str, message: str, suggestion: str | None = None) -> None:
        self.problems.append(problem(self.place(key), key, message, suggestion))

    def warn(self, key: str, message: str) -> None:
        self.warnings.append(problem(self.place(key), key, message))

    def is_clean(self, key: str) -> bool:
        """Whether no mistake was found in the value of `key`."""
        return not any(re.match(rf"{re.escape(key)}($|[.\[])", item.key) for item in self.problems)

    def has(self, stage: str) -> bool:
        """Whether a stage is asked for, even if what it says is wrong."""
        return stage in self.places and self.values.get(stage, ...) is not None

    def path(self, key: str, value: str) -> Path:
        """A path made absolute: it starts at the folder of its file; an override's where the user stands."""
        place = self.place(key)
        folder = os.path.dirname(place.file) if place.line is not None else ""
        return absolute(folder, value)

    def section(self, key: str) -> dict[str, Any]:
        """A mapping of the recipe; empty when it is absent, null or wrong."""
        value: Any = self.values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}


def check_recipe(draft: Draft, templates: Collection[str] | None, builders: Collection[str] | None) -> None:
    """Notes every mistake between settings; fills in `${...}` and makes paths absolute on the way."""
    if draft.section("data") and builders is None:
        builders = installed_builders()
    check_data_root(draft)
    draft.values = {name: interpolated(draft, value, name) for name, value in draft.values.items()}
    check_run(draft)
    check_checkpoint(draft, "base", ["tiny"])
    check_checkpoint(draft, "tokenizer", [])
    check_tiny(draft)
    check_template(draft, installed_templates() if templates is None else templates)
    for stage in TRAINED_STAGES:
        check_schedule(draft, stage)
        check_trainer(draft, stage)
    check_made(draft)
    check_sources(draft)
    for source in draft.section("data"):
        check_source(draft, source, builders)


def check_data_root(draft: Draft) -> None:
    """`data_root` is an existing folder, and becomes absolute before other settings refer to it."""
    value = draft.values.get("data_root")
    if value is None:
        return
    value = interpolated(draft, value, "data_root")
    root = draft.path("data_root", value)
    if draft.is_clean("data_root") and not root.is_dir():
        draft.add("data_root", f"data_root: no folder {shown(root)}", neighbour(root, value))
    draft.values["data_root"] = str(root)


def interpolated(draft: Draft, value: Any, key: str, within: tuple[str, ...] = ()) -> Any:
    """A value with `${name}` filled in. No resolver is run: a recipe cannot read the environment."""
    if isinstance(value, dict):
        return {name: interpolated(draft, item, join(key, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [interpolated(draft, item, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    if "${" in re.sub(r"\$\{[^{}]*\}", "", value):
        draft.add(key, f"{key}: saw {brief(value)}, in which a ${{ is not closed or holds another")
        return value

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if name not in REFERABLE:
            what = "resolvers are not run" if ":" in name else "a text cannot refer to that"
            message = f"{key}: saw {brief(match[0])}; {what}; accepted: {', '.join(REFERABLE)}"
            draft.add(key, message, nearest(name, REFERABLE))
        elif name in (key, *within):
            draft.add(key, f"{key}: {match[0]} refers to itself")
        elif draft.values.get(name) is not None:
            return str(interpolated(draft, draft.values[name], name, (key, *within)))
        elif name in ("data_root", "tokenizer") and draft.is_clean(name):
            draft.add(key, f"{key}: {match[0]} has no value in this recipe")
        return match[0]

    return re.sub(r"\$\{([^{}]*)\}", filled, value)


def check_run(draft: Draft) -> None:
    """The run has a name that can be a folder, and something to do."""
    name, output = draft.values.get("name"), draft.values.get("output")
    if isinstance(name, str) and draft.is_clean("name") and not re.fullmatch(r"\w[\w.-]{0,99}", name):
        draft.add(
            "name",
            f"name: saw {brief(name)}; accepted: up to 100 letters, digits, -, _ and . (it names a folder)",
        )
    if isinstance(output, str):
        draft.values["output"] = os.path.normpath(os.path.expanduser(output))
    if not any(draft.has(stage) for stage in STAGES):
        draft.add("", f"the recipe has nothing to do; it needs at least one of {', '.join(STAGES)}")


def check_checkpoint(draft: Draft, key: str, names: list[str], within: dict[str, Any] | None = None) -> None:
    """A checkpoint is one of `names`, an existing folder (which becomes absolute), or a hub id.

    `within` is the mapping that holds it, where that is not the recipe itself.
    """
    values, name = draft.values if within is None else within, key.rpartition(".")[2]
    value = values.get(name)
    if not isinstance(value, str) or value in names or not draft.is_clean(key):
        return
    paths = [draft.path(key, value), absolute("", value)]
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None:
        values[name] = str(folder)
    elif value.startswith(("/", ".", "~")) or not HUB_ID.fullmatch(value):
        known = ", ".join([*names, "an existing folder", "a hub id such as llm-jp/llm-jp-3-150m"])
        meant = nearest(value, names) or neighbour(paths[0], value)
        draft.add(key, f"{key}: saw {brief(value)}, and there is no such folder; accepted: {known}", meant)
    elif any(path.parent.is_dir() for path in paths):
        message = f"{key}: {value} is taken for a hub id; the folder {Path(value).parent} is here, without it"
        draft.warn(key, message)


def check_tiny(draft: Draft) -> None:
    """The sizes of the tiny model fit each other."""
    tiny = draft.section("tiny")
    if tiny and draft.is_clean("base") and draft.values.get("base") != "tiny":
        draft.add("tiny", "tiny: only `base: tiny` is built to a size; take this out, or write base: tiny")
    for key, divisor, times in (("hidden_size", "heads", 2), ("heads", "key_value_heads", 1)):
        if key in tiny and divisor in tiny and tiny[key] % (times * tiny[divisor]):
            multiple = f"a multiple of {times * tiny[divisor]}, since tiny.{divisor} is {tiny[divisor]}"
            draft.add(f"tiny.{key}", f"tiny.{key}: saw {tiny[key]}; accepted: {multiple}")


def check_template(draft: Draft, templates: Collection[str]) -> None:
    """The chat template is a known name or an existing file, which becomes absolute."""
    value = draft.values.get("template")
    if not isinstance(value, str) or value in templates or not draft.is_clean("template"):
        return
    path = draft.path("template", value)
    if not value.endswith(".jinja") and "/" not in value:
        message = f"template: saw {brief(value)}; accepted: {', '.join(sorted(templates))}, or a .jinja file"
        draft.add("template", message, nearest(value, templates))
    elif path.is_file():
        draft.values["template"] = str(path)
    else:
        draft.add("template", f"template: no file {shown(path)}", neighbour(path, value))


def check_schedule(draft: Draft, stage: str) -> None:
    """Settings of a training stage that exclude each other."""
    values = draft.section(stage)
    if values.get("epochs") is not None and values.get("max_steps") is not None:
        key, other = f"{stage}.max_steps", f"{stage}.epochs"
        message = (
            f"{key} and {other} ({draft.place(other)}) both say when to stop; give one, or set one to null"
        )
        draft.add(key, message)
    key, lowest, peak = (
        f"{stage}.min_learning_rate",
        values.get("min_learning_rate"),
        values.get("learning_rate"),
    )
    if lowest and values.get("schedule") == "constant":
        draft.add(key, f"{key}: a constant schedule never comes down to it")
    elif lowest and peak is not None and lowest > peak:
        draft.add(key, f"{key}: saw {lowest}; accepted: at most {stage}.learning_rate, which is {peak}")


def check_trainer(draft: Draft, stage: str) -> None:
    """`trainer:` holds arguments of the installed trainer, and none that the recipe answers itself."""
    keys = keys_of(stage)
    for name in draft.section(f"{stage}.trainer"):
        key, known = f"{stage}.trainer.{name}", keys.known
        if name in keys.owned:
            draft.add(key, f"{key} belongs to the recipe itself", keys.owned[name])
        elif name in keys.refused:
            draft.add(key, f"{key} cannot be given: {keys.refused[name]}")
        elif known is not None and name not in known:
            draft.add(key, f"{key} is not an argument of {keys.arguments}", nearest(name, known))


def check_made(draft: Draft) -> None:
    """The models that are compared and released are made by this recipe."""
    made = [stage for stage in CHAT_STAGES if draft.has(stage)]
    for index, stage in enumerate(draft.section("evaluate").get("stages") or []):
        if stage in CHAT_STAGES and stage not in made:
            key = f"evaluate.stages[{index}]"
            draft.add(key, f"{key}: saw {stage}; this recipe makes {', '.join(['base', *made])}")
    released, none = draft.section("release").get("from"), f"neither {' nor '.join(CHAT_STAGES)}"
    if released is not None and released not in made:
        message = f"release.from: saw {released}; this recipe makes {', '.join(made) or none}"
        draft.add("release.from", message)
    elif draft.has("release") and not made:
        draft.add("release", f"release: this recipe makes {none}, so there is nothing new to release")


def check_sources(draft: Draft) -> None:
    """Every source that is used is defined; one that is defined and not used is worth a warning."""
    sources = draft.section("data")
    uses = [
        (f"{stage}.mix.{name}", name) for stage in TRAINED_STAGES for name in draft.section(f"{stage}.mix")
    ]
    questions = enumerate(draft.section("evaluate").get("questions") or [])
    uses += [(f"evaluate.questions[{index}]", name) for index, name in questions if isinstance(name, str)]
    safety = enumerate(draft.section("screening").get("safety") or [])
    named = [(f"screening.safety[{index}]", name) for index, name in safety if isinstance(name, str)]
    unknown = [(key, name) for key, name in uses + named if f"data.{name}" not in draft.places]
    for key, name in unknown if draft.values.get("data") is not None else ():
        meant = nearest(name, sources)
        listed = [f"{source} ({draft.place(f'data.{source}')})" for source in ([meant] if meant else sources)]
        known = f"data defines {', '.join(listed)}" if listed else "data defines none"
        draft.add(key, f"{key}: there is no source {name!r}; {known}", meant)
    for stage in TRAINED_STAGES:
        if draft.section(stage).get("mix") == {} and draft.is_clean(f"{stage}.mix"):
            draft.add(f"{stage}.mix", f"{stage}.mix is empty; accepted: at least one source of data")
    used = {name for _, name in uses}
    for name in sources if any(draft.has(stage) for stage in TRAINED_STAGES) else ():
        if name not in used:
            draft.warn(f"data.{name}", f"data.{name} is defined, but no stage uses it")


def check_source(draft: Draft, source: str, builders: Collection[str] | None) -> None:
    """A source's builder is known and its files exist; their paths become absolute."""
    values = draft.section(f"data.{source}")
    builder, inputs = values.get("builder"), values.get("input")
    if builders is not None and isinstance(builder, str) and builder not in builders:
        message = f"data.{source}.builder: saw {brief(builder)}; accepted: {', '.join(sorted(builders))}"
        draft.add(f"data.{source}.builder", message, nearest(builder, builders))
    elif builders is not None and isinstance(builder, str):
        options = getattr(builders[builder], "options", ()) if isinstance(builders, Mapping) else None
        check_options(draft, f"data.{source}.options", options)
    if inputs == []:
        draft.add(f"data.{source}.input", f"data.{source}.input is empty; accepted: at least one file")
    if isinstance(inputs, list):
        values["input"] = [
            checked_input(draft, f"data.{source}.input[{index}]", value) for index, value in enumerate(inputs)
        ]


def check_options(draft: Draft, key: str, options: Collection[Any] | None) -> None:
    """A builder's options are among those it tells of, and so are their values."""
    known = {option.name: option.accepted for option in options or ()}
    for name, value in draft.section(key).items() if options is not None else ():
        path = f"{key}.{name}"
        if name not in known:
            message = f"{path} is not an option of this builder; options: {', '.join(known) or 'none'}"
            draft.add(path, message, nearest(name, known))
        elif not draft.is_clean(path) or value is None:
            continue
        elif known[name] is None and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            draft.add(path, f"{path}: saw {brief(value)}; accepted: a list of text")
        elif known[name] is not None and value not in known[name]:
            message = f"{path}: saw {brief(value)}; accepted: one of {', '.join(known[name])}"
            draft.add(path, message, nearest(str(value), known[name]))


def checked_input(draft: Draft, key: str, value: Any) -> Any:
    """The absolute path of one input, or the value as it is after noting why there is none."""
    is_override = draft.place(key).line is None
    if not isinstance(value, str) or not draft.is_clean(key):
        return value
    if not is_override and not draft.is_clean("data_root"):
        return value  # nobody knows where the file should be
    root = None if is_override else draft.values.get("data_root")
    path = absolute(root, value) if root is not None else draft.path(key, value)
    if not path.exists():
        pattern = "; patterns such as * are not expanded" if re.search(r"[*?]", value) else ""
        draft.add(key, f"{key}: no file {shown(path)}{pattern}", neighbour(path, value))
    return str(path)


def absolute(folder: str, value: str) -> Path:
    return Path(os.path.abspath(os.path.join(folder, os.path.expanduser(value))))


def neighbour(path: Path, written: str, ending: str = "") -> str | None:
    """The file in the same folder that was probably meant, as it would be written."""
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    meant = nearest(path.name, (name for name in names if name.endswith(ending)))
    return os.path.join(os.path.dirname(written), meant) if meant else None


def shown(path: str | Path) -> str:
    """A path as short as it stays clear: relative when it lies below the working directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def installed_templates() -> set[str]:
    """Names of the chat templates that come with the library, and `base` for the checkpoint's own."""
    folder = Path(__file__).parent.parent / "chat" / "templates"
    return {"base", *(path.stem for path in folder.glob("*.jinja"))}


def installed_builders() -> set[str] | None:
    """Names of the data builders, or None where that package is not installed."""
    try:
        return set(importlib.import_module("data_builders").builders())
    except ImportError:
        return None
