"""What would stop a recipe, found before anything is written and told with the line where it stands."""

from __future__ import annotations

from pathlib import Path

from data_builders import BuilderError, builders
from data_builders.info import checked_options
from data_builders.reading import open_input
from tuning.config import Problem, Recipe
from tuning.pipeline.execution import shown
from tuning.pipeline.screening import evaluation_set_problems
from tuning.pipeline.terms import licence_problems, licence_warnings
from tuning.pipeline.trainer_values import trainer_value_problems
from tuning.records import read_json


def check(recipe: Recipe) -> list[Problem]:
    """What would stop this recipe, seen without weights, GPU or writing: options of builders, licences,
    checkpoint."""
    problems: list[Problem] = []

    def add(key: str, message: str) -> None:
        problems.append(problem_at(recipe, key, message))

    known = builders()
    for name, source in recipe.data.items():
        info = known[source.builder]
        for option, value in source.options.items():
            try:
                checked_options(info, {option: value})
            except BuilderError as error:
                add(f"data.{name}.options.{option}", str(error))
        for number, file in enumerate(source.input):
            try:
                open_input(file)
            except BuilderError as error:
                add(f"data.{name}.input[{number}]", f"data.{name}.input: {error}")
    for key, message in (
        *licence_problems(recipe),
        *evaluation_set_problems(recipe),
        *trainer_value_problems(recipe),
    ):
        add(key, message)
    output = Path(recipe.output).absolute()
    in_the_way = next((path for path in (output, *output.parents) if path.is_file()), None)
    if in_the_way is not None:
        add("output", f"output: {shown(in_the_way)} is a file; accepted: a folder, or a name for a new one")
    if recipe.base == "tiny" and recipe.template == "base":
        message = "template: base is the checkpoint's own, and base: tiny has none"
        add("template", f"{message}; accepted: a name or a .jinja file")
    start = Path(recipe.base)
    if recipe.base != "tiny" and start.is_dir():
        if not (start / "config.json").is_file():
            add("base", f"{recipe.base} has no config.json; a Hugging Face checkpoint folder is accepted")
        elif not any(start.glob("*.safetensors")):
            add("base", f"{recipe.base} has no *.safetensors; pickled weights are not loaded, convert them")
    for name, reward in (recipe.grpo.rewards if recipe.grpo else {}).items():
        if reward.model and Path(reward.model).is_dir() and (fault := _no_reward_model(Path(reward.model))):
            add(
                f"grpo.rewards.{name}.model",
                f"grpo.rewards.{name}.model: {shown(Path(reward.model))} {fault}",
            )
    tokenizer = Path(recipe.tokenizer or recipe.base)
    if tokenizer.is_dir() and not (tokenizer / "tokenizer.json").is_file():
        key = "tokenizer" if recipe.tokenizer else "base"
        add(key, f"{tokenizer} has no tokenizer.json; a fast tokenizer is needed")
    elif not problems and (tokenizer.is_dir() or recipe.template.endswith(".jinja")):
        from tuning.stage import template_fault  # takes seconds

        if fault := template_fault(recipe):
            add("template", f"template: {fault}")
    return problems


def _no_reward_model(folder: Path) -> str | None:
    """Why a folder is no reward model that could be asked, as far as its files tell without the weights."""
    names = [str(name) for name in read_json(folder / "config.json").get("architectures") or []]
    if not any(name.endswith("ForSequenceClassification") for name in names):
        seen = ", ".join(names) or "no architecture"
        return f"is no reward model: saw {seen}; accepted: a sequence classification model with one label"
    if not any(folder.glob("*.safetensors")):
        return "has no *.safetensors; pickled weights are not loaded, convert them"
    return None if (folder / "tokenizer.json").is_file() else "has no tokenizer.json to read answers with"


def warnings(recipe: Recipe) -> list[Problem]:
    """What a recipe without problems says that its author should know, besides what loading it told."""
    return [problem_at(recipe, key, message) for key, message in licence_warnings(recipe)]


def problem_at(recipe: Recipe, key: str, message: str) -> Problem:
    """A problem at the line where the recipe says `key`, or the nearest key above it."""
    name = key
    while name and name not in recipe.origin:
        name = name[: max(name.rfind("."), name.rfind("["), 0)]
    file, _, rest = recipe.origin.get(name, recipe.files[0] if recipe.files else "recipe").partition(":")
    line = rest.split(":")[0]
    return Problem(file, int(line) if line.isdigit() else None, None, key, message)
