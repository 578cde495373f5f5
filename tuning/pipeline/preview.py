"""What the model will be trained on, shown before any weights are needed."""

from __future__ import annotations

from pathlib import Path

from tuning.config import TRAINED_STAGES, Recipe, RecipeError
from tuning.pipeline.checks import check
from tuning.pipeline.execution import Run
from tuning.pipeline.lineage import paths_of
from tuning.pipeline.screening import screen_data
from tuning.pipeline.stages import build_data
from tuning.records import write_text


def built(recipe: Recipe) -> Run:
    """The recipe's run with its data built, and screened if it says so; nothing that is current is done
    again. Raises `RecipeError` for a recipe that could not run."""
    problems = check(recipe)
    if problems:
        raise RecipeError(problems)
    this = Run(recipe, Path(recipe.output).absolute())
    build_data(this, again=False)
    if recipe.screening is not None:
        screen_data(this, again=False)
    return this


def preview(recipe: Recipe, *, rows: int = 2, html: Path | None = None) -> None:
    """Shows what the model will be trained on, coloured, with counts per source; builds the data if it is not
    there.

    With `html`, also writes a self-contained page. Needs the tokenizer, no weights.
    """
    from tuning.stage import preview_sequences, preview_tokenizer

    this = built(recipe)
    first = next((stage for stage in TRAINED_STAGES if getattr(recipe, stage) is not None), "sft")
    paths = paths_of(this, first)
    tokenizer, template = preview_tokenizer(recipe, paths, this.folder("base") / "model")
    sequences = preview_sequences(recipe, paths, tokenizer, template)
    from tuning.chat import preview_html, preview_terminal

    preview_terminal(sequences, tokenizer, per_source=rows)
    if html is not None:
        write_text(html, preview_html(sequences, tokenizer, title=f"{recipe.name}: what it is trained on"))
        this.say(f"written: {html}")
