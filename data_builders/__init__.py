"""Raw public data becomes rows on disk: one builder a source, one manifest a dataset.

from data_builders import build, builders
manifest = build("dolly", ["databricks-dolly-15k-ja.jsonl"], "data/dolly-ja", source="dolly-ja")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.info import BuilderInfo, checked_options, did_you_mean
from data_builders.published import published_notes
from data_builders.reading import BuilderError, open_input
from data_builders.terms import SourceTerms, known_terms, stated_terms
from data_builders.writing import DATA, SOURCE_NAME, Dataset, publish, staging
from tuning.schema import RowError

__all__ = ["BuilderError", "BuilderInfo", "RowError", "build", "builders", "screen"]

MESSAGES_SETS = (
    *("extraction_wiki_ja", "flan", "magpie", "random_to_fixed_multiturn_calm3"),
    *("synthetic_jp_en_coding", "wizard8x22b"),
)
"""Builders that differ in name, licence and file alone; the others have a module each."""
NAMES = tuple(
    sorted(
        (
            *("ac_self_inst", "answer_carefully", "aya_ja_evol_inst", "daring_anteater", "dolly", "files"),
            *("hh_rlhf", "hh_rlhf_sft", "ichikara", "instruction_ja", "ja_vicuna_pairs", "jaster"),
            *("multiturn_calm3", "oasst", *MESSAGES_SETS),
        )
    )
)
ON_BAD_ROW = ("strict", "quarantine")


def builders() -> dict[str, BuilderInfo]:
    """Every builder by name, with its source, licence and options."""
    return {name: _builder(name)[0] for name in NAMES}


def build(
    name: str,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    source: str | None = None,
    on_bad_row: str = "strict",
    licence: str | None = None,
    licence_reason: str | None = None,
    attribution: str | None = None,
    terms: Mapping[str, Any] | None = None,
    language: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The manifest of the dataset that builder `name` made of `inputs` and wrote to the folder `output`.

    `source` names the rows (default: the builder's name). `language` is for rows that do not tell theirs. A
    stated `licence` holds beside the builder's own, or with a `licence_reason` instead of it
    (`data_builders.terms`); `terms` are those of a `LicenseRef-...`; `attribution` is whom to name. A
    malformed row raises `RowError` and nothing is written; with `on_bad_row="quarantine"` it is set aside in
    `quarantine.jsonl` and counted. Anything else that is wrong raises `BuilderError`.
    """
    info, convert = _builder(name)
    values = checked_options(info, options)
    if on_bad_row not in ON_BAD_ROW:
        near = did_you_mean(str(on_bad_row), ON_BAD_ROW)
        raise BuilderError(
            f"on_bad_row: saw {on_bad_row!r}{near}; accepted: {', '.join(ON_BAD_ROW)}", code="bad_option"
        )
    said = {"licence": licence, "licence_reason": licence_reason, "attribution": attribution}
    for key, text in {"source": source, "language": language, **said}.items():
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise BuilderError(f"{key}: saw {text!r}; accepted: text", code="bad_option")
    if source is not None and not SOURCE_NAME.fullmatch(source):
        raise BuilderError(
            f"source: saw {source!r}; accepted: up to 100 characters without / and \\, the first a letter or "
            "a digit",
            code="bad_option",
        )
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)

    def held(own: SourceTerms) -> SourceTerms:
        """What holds for these rows, where `own` is what the builder knows of the sets that it read."""
        return stated_terms(
            known_terms(own, paths),
            licence=licence,
            reason=licence_reason,
            attribution=attribution,
            terms=terms,
        )

    held(info.source_terms)  # refuses a licence before anything is read
    if not paths:
        raise BuilderError(f"{name}: no input; wanted: {info.wanted}", code="no_input")
    if Path(output).exists() and not Path(output).is_dir():
        raise BuilderError(
            f"{output}: is a file; accepted: a folder, or a name for a new one", code="bad_output"
        )
    files = [open_input(path) for path in paths]
    resolved = [item.path.resolve() for item in files]
    if twice := [path for path in resolved if resolved.count(path) > 1]:
        raise BuilderError(f"{twice[0]}: given twice; accepted: each file once", code="bad_input")
    if (Path(output) / DATA).resolve() in resolved:
        raise BuilderError(
            f"{output}: would overwrite its own input {DATA}; choose another folder", code="bad_output"
        )
    with staging(output) as folder:
        dataset = Dataset(folder, source or info.name, on_bad_row, language)
        dataset.is_published_set = licence_reason is None
        try:
            convert(files, dataset, values)
            if dataset.is_published_set:
                dataset.notes += published_notes(
                    info.published, {"rows_in": dataset.rows_in, **dataset.counts}
                )
        finally:
            dataset.close()
        terms_of_rows = held(dataset.terms or info.source_terms)
        manifest = dataset.manifest(files, _about(info, terms_of_rows, on_bad_row, values))
        publish(folder, output, manifest)
    return manifest


def screen(folders: Sequence[str | Path], output: str | Path, **options: Any) -> dict[str, dict[str, Any]]:
    """The manifests, by source, of the built datasets in `folders` after screening; see
    `data_builders.screening`."""
    from data_builders import screening  # imported when it is wanted: MinHash brings numpy

    return screening.screen(folders, output, **options)


def _about(info: BuilderInfo, terms: SourceTerms, on_bad_row: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "builder": info.name,
        "builder_version": info.version,
        "upstream": info.upstream,
        **terms.as_dict(),
        "on_bad_row": on_bad_row,
        "options": options,
    }


def _builder(name: str) -> tuple[BuilderInfo, Callable[..., None]]:
    """What a builder tells of itself, and the function that turns its raw rows into rows of a dataset."""
    if name not in NAMES:
        near = did_you_mean(str(name), NAMES)
        raise BuilderError(
            f"{name!r} is not a builder{near}; builders: {', '.join(NAMES)}", code="unknown_builder"
        )
    module = importlib.import_module(f"data_builders.{'messages_sets' if name in MESSAGES_SETS else name}")
    return (module.INFOS[name] if name in MESSAGES_SETS else module.INFO), module.convert
