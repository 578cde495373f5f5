"""Reports: the figures of several sources together, of built folders or of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.built_rows import BuiltDataset
from data_builders.terms import combined, licences_of
from tuning.config import Recipe
from tuning.data_report.figures import Coding, ReportError, source_figures
from tuning.data_report.repeats import contamination, duplicates

DRAWN_STAGES = ("sft", "dpo", "reward")
"""Stages whose mix has target tokens to share; the rows of grpo are prompts."""


def reports(folders: Iterable[str | Path], **options: Any) -> list[dict[str, Any]]:
    """The figures of each built dataset; options are those of `folders_report`."""
    sources: list[dict[str, Any]] = folders_report(folders, **options)["sources"]
    return sources


def folders_report(
    folders: Iterable[str | Path],
    *,
    coding: Coding | None = None,
    rows: int = 2,
    look_for_duplicates: bool = True,
    name: str | None = None,
) -> dict[str, Any]:
    """Built datasets side by side: `name`, `unit`, `sources`, `terms`, and `stages`, of which there are none.

    Raises `RowFault` for a folder that holds no built dataset, `ReportError` for two of one source, and
    `BuilderError` where a manifest does not fit its rows.
    """
    paths = list(map(Path, folders))
    sources = [source_figures(folder, coding=coding, rows=rows) for folder in paths]
    seen: dict[str, str] = {}
    for each in sources:
        if each["source"] in seen:
            where = f"{each['folder']}: source {each['source']!r} again, as in {seen[each['source']]}"
            raise ReportError(f"{where}; accepted: one folder for each source")
        seen[each["source"]] = each["folder"]
    datasets = [BuiltDataset(folder) for folder in paths]
    repeated = duplicates(datasets) if look_for_duplicates else {}
    for each, dataset in zip(sources, datasets, strict=True):
        each["duplicates"] = repeated.get(dataset.source)
        each["contamination"] = contamination(dataset)
    return {
        "name": name or ", ".join(seen),
        "unit": "characters" if coding is None else "tokens",
        "sources": sources,
        "stages": [],
        "terms": _terms(datasets),
    }


def recipe_report(recipe: Recipe, *, rows: int = 2, look_for_duplicates: bool = True) -> dict[str, Any]:
    """The recipe's sources as `folders_report`, with its mixes under `stages`; builds (and screens) the data
    if that is not done yet, needs the tokenizer and no weights.

    Raises `RecipeError` for a recipe that could not run, `MixtureError` for a mix that could not be trained
    on.
    """
    from tuning.data_report.stages import stage_figures
    from tuning.pipeline.lineage import paths_of
    from tuning.pipeline.preview import built
    from tuning.stage import preview_tokenizer

    this = built(recipe)
    mixing = {stage: getattr(recipe, stage) for stage in DRAWN_STAGES if getattr(recipe, stage)}
    coding, stages = None, []
    paths = paths_of(this, next(iter(mixing), "sft"))
    if mixing:
        tokenizer, template = preview_tokenizer(recipe, paths, this.folder("base") / "model")
        named = {stage: getattr(config, "legacy", None) for stage, config in mixing.items()}
        legacy = {name: old for stage, old in named.items() if old for name in mixing[stage].mix}
        coding = Coding(tokenizer, template, paths.cache / "encoded", legacy)
        stages = [stage_figures(recipe, stage, paths, tokenizer, template) for stage in mixing]
    report = folders_report(
        [paths.datasets[name] for name in recipe.data],
        coding=coding,
        rows=rows,
        look_for_duplicates=look_for_duplicates,
        name=recipe.name,
    )
    return report | {"stages": stages, "template": recipe.template, "use": recipe.use}


def shares(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a picture of the mix shows: per stage a title, what is compared, and the shares of each source.

    A recipe's stages have the share of target tokens before and after weights; folders, which nothing weighs,
    the share of all that is trained.
    """
    if not report["stages"]:
        total = sum(each["trained"] for each in report["sources"])
        rows = [(each["source"], [each["trained"] / max(1, total)]) for each in report["sources"]]
        title = f"share of trained {report['unit']}"
        return [{"stage": "", "title": title, "labels": ["as built"], "rows": rows}]
    return [
        {
            "stage": stage["stage"],
            "title": f"{stage['stage']}: share of target tokens",
            "labels": ["before weights", "in an epoch"],
            "rows": [
                (name, [each["share_of_target_tokens"], each["epoch_share_of_target_tokens"]])
                for name, each in stage["sources"].items()
            ],
        }
        for stage in report["stages"]
    ]


def compared_shares(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last share of each source in every report, stage by stage: a source that a mix has not is 0."""
    pictures: dict[str, dict[str, Any]] = {}
    for number, report in enumerate(compared):
        for share in shares(report):
            picture = pictures.setdefault(share["stage"], {"title": share["title"], "rows": {}})
            for name, values in share["rows"]:
                picture["rows"].setdefault(name, [0.0] * len(compared))[number] = values[-1]
    labels = [report["name"] for report in compared]
    if len(set(labels)) < len(labels):
        labels = [f"{name} ({number})" for number, name in enumerate(labels, 1)]
    return [
        {"stage": stage, "title": picture["title"], "labels": labels, "rows": list(picture["rows"].items())}
        for stage, picture in pictures.items()
    ]


def _terms(datasets: Sequence[BuiltDataset]) -> dict[str, Any]:
    """What the licences of all sources ask together; `strictest` is null where no licence carries it all."""
    known = {each.source: licences_of(each.manifest) for each in datasets if "licences" in each.manifest}
    together = combined(known)
    return {
        "strictest": together.licence.id if together.licence else None,
        "restrictions": {word: list(names) for word, names in together.restrictions.items()},
        "conflicts": list(together.conflicts),
        "commercial_forbidden_by": [
            name for name, licences in known.items() if any(one.non_commercial for one in licences)
        ],
    }
