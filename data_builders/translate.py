"""Machine translation of built rows: conversations and preference pairs, from a built folder to another.

    from data_builders.translate import Endpoint, translate
    translate("data/dolly", "data/dolly-ja", Endpoint("http://localhost:8000/v1", "my-model"), to="ja")

Every text that is asked for is kept in a cache (`asking/cache.py`), so the same command goes on where it
was killed. Then the dataset is written off the cache in file order: the same answers give the same bytes.
A translated row keeps its `group`, so that both languages of one tree stay on one side of a held-out split
when they are mixed in one file; its id gets the language as a suffix, so that they can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.asking.cache import Cache
from data_builders.asking.progress import Progress
from data_builders.asking.schedule import Schedule
from data_builders.licences import UNSTATED
from data_builders.lines import BuilderError, RawRow
from data_builders.reading import open_input
from data_builders.stated_licence import accepted_licences
from data_builders.terms import SourceTerms, known_terms, own_terms
from data_builders.translation.built import Source, open_source
from data_builders.translation.endpoint import Endpoint
from data_builders.translation.flags import bounds_of, first_code
from data_builders.translation.local_models import open_model
from data_builders.translation.paths import (
    Beginnings,
    TranslatedPath,
    paths_of,
    texts_of,
    with_paths,
)
from data_builders.translation.texts import UNITS, Task, Translated, path_steps
from data_builders.translation.translators import Request, TranslationStopped, Translator
from data_builders.writing import DATA, Dataset, Draft, KnownDrop, publish, staging
from tuning.records import fingerprint
from tuning.schema import Row, RowFault, parse_row

__all__ = ["Endpoint", "TranslationStopped", "open_model", "translate"]

VERSION = 1
"""Raised when the same answers would give other rows."""
ON_FLAG = ("drop", "keep")

RowSteps = Generator[list[Request], list[Answer], list[TranslatedPath]]


def translate(
    built: str | Path,
    output: str | Path,
    translator: Translator,
    *,
    to: str,
    from_language: str | None = None,
    source: str | None = None,
    cache: str | Path | None = None,
    unit: str = "dialogue",
    on_flag: str = "drop",
    length_ratio: tuple[float, float] | None = None,
    restrictions: Sequence[str] = (),
    licence: str | None = None,
    first: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """The manifest of the dataset in `output`: the rows of the built folder in language `to`.

    `from_language` translates only rows in that language, and takes rows without one to be in it. `unit` is
    `dialogue` (whole dialogues in one request) or `turn`. Flagged rows are dropped and counted, or kept with
    `meta.translation_flags` (`on_flag="keep"`; a row that lacks a translation is dropped all the same).
    `length_ratio` replaces the bounds of the pair of languages. `licence` and `restrictions` are what the
    translator's terms put on its writing, which nothing here knows: they hold beside those of the rows.
    `first` takes so many rows, for a look before the rest.
    `cache` is by default `translations.sqlite3` beside `output`. Raises `BuilderError` and `RowError` for
    wrong input, `TranslationStopped` when the translator cannot go on; `output` is then as it was.
    """
    task = Task(translator, to, unit, length_ratio)
    there = open_source(Path(built), from_language, first)
    _check(task, there, Path(output), on_flag)
    terms = _terms(task, there, licence, restrictions)
    cache_path = Path(cache) if cache else Path(output).absolute().parent / "translations.sqlite3"
    answers = Cache(cache_path, translator.identity)
    try:
        schedule = Schedule(
            translator.translate, answers, workers=translator.workers, batch_size=translator.batch_size
        )
        _ask(task, there, schedule, progress)
        with staging(output) as folder:
            dataset = Dataset(folder, source or f"{there.manifest['source']}-{to}", language=to)
            try:
                _write(task, there, schedule, dataset, on_flag)
            finally:
                dataset.close()
            about = _about(task, there, on_flag, terms)
            manifest = dataset.manifest([open_input(there.folder / DATA)], about)
            publish(folder, output, manifest)
    finally:
        answers.close()
    return manifest


def row_steps(row: Row, language: str, task: Task) -> RowSteps:
    """Translates the paths of a row, one after the other."""
    found = []
    for messages in paths_of(row):
        found.append((yield from path_steps(texts_of(messages), language, task)))
    return found


def _check(task: Task, there: Source, output: Path, on_flag: str) -> None:
    """Everything that can be wrong before the first request."""
    for name, value, accepted in (("unit", task.unit, UNITS), ("on_flag", on_flag, ON_FLAG)):
        if value not in accepted:
            raise BuilderError(f"{name}: saw {value!r}; accepted: {', '.join(accepted)}")
    if task.length_ratio and not 0 <= task.length_ratio[0] < task.length_ratio[1]:
        raise BuilderError(
            f"length_ratio: saw {task.length_ratio}; accepted: two rising numbers, such as 0.2 1.0"
        )
    if output.exists() and not output.is_dir():
        raise BuilderError(f"{output}: is a file; accepted: a folder, or a name for a new one", "bad_output")
    if output.resolve() == there.folder.resolve():
        raise BuilderError(f"{output}: would overwrite its own input; choose another folder", "bad_output")
    languages = set()
    for _, row in there.rows():
        try:
            languages.add(there.language_of(row, task.target))
        except KnownDrop:
            continue
    for language in sorted(languages):
        task.translator.check(language, task.target)


def _ask(task: Task, there: Source, schedule: Schedule, shows_progress: bool) -> None:
    """Fills the cache with every answer that the dataset needs."""
    progress = Progress(there.num_rows, enabled=shows_progress)
    for note in task.translator.notes:
        progress.note(note)

    def finished(paths: list[TranslatedPath] | None) -> None:
        flags = {flag for path in paths or () for item in path for flag in item.flags}
        progress.row_done(
            dict.fromkeys(flags, 1), num_asked=schedule.num_asked, num_cached=schedule.num_cached
        )

    def steps() -> Iterator[RowSteps]:
        rows: Iterable[Row] = (row for _, row in there.rows())
        if not schedule.cache.is_alone:
            # Another process works from the beginning; two orders meet late.
            rows = sorted(rows, key=lambda row: fingerprint([schedule.cache.owner, row.id]))
        for row in rows:
            try:
                language = there.language_of(row, task.target)
            except KnownDrop:
                finished(None)
                continue
            yield row_steps(row, language, task)

    try:
        schedule.run(steps(), finished)
    finally:
        progress.close()


def _write(task: Task, there: Source, schedule: Schedule, dataset: Dataset, on_flag: str) -> None:
    """Every row off the cache, in file order."""
    known = Beginnings()
    for raw, row in there.rows():
        dataset.rows_in += 1

        def draft(_: RawRow, row: Row = row) -> Draft:
            return _draft(row, task, there, schedule, dataset, known, on_flag)

        dataset.keep(raw, draft)


def _draft(
    row: Row,
    task: Task,
    there: Source,
    schedule: Schedule,
    dataset: Dataset,
    known: Beginnings,
    on_flag: str,
) -> Draft:
    language = there.language_of(row, task.target)
    paths = known.settled(row, schedule.replayed(row_steps(row, language, task)))
    items = list({id(item): item for path in paths for item in path}.values())
    flags = {flag for item in items for flag in item.flags}
    dataset.counts.update(_counted(items))
    if flags and (on_flag == "drop" or any(not item.text.strip() for item in items)):
        raise KnownDrop(first_code(flags))
    meta = {
        **row.meta,
        "language": task.target,
        "translated_from": _origin(row, language),
        "translator": task.translator.name,
    }
    if any(item.way == "turn" for item in items):
        meta["translated_by_turn"] = True
    if flags:
        meta["translation_flags"] = sorted(flags)
    translated = with_paths(row, paths) | {"id": f"{row.id}-{task.target}", "meta": meta}
    try:
        parse_row({**translated, "source": dataset.source})
    except RowFault as fault:  # both sides of a pair may become the same text
        raise KnownDrop(fault.code) from None
    return Draft(translated)


def _counted(items: Sequence[Translated]) -> Counter[str]:
    """Texts by the way they were translated, and the flags of first and final translations."""
    counts = Counter(f"texts_by_{item.way}" if item.way != "copied" else "texts_copied" for item in items)
    for item in items:
        counts.update(f"flag_{code}" for code in item.flags)
        counts.update(f"first_{code}" for code in item.first_flags)
    return counts


def _origin(row: Row, language: str) -> dict[str, Any]:
    origin: dict[str, Any] = {"id": row.id, "source": row.source, "language": language}
    if "translated_from" in row.meta:
        origin["translated_from"] = row.meta["translated_from"]
    return origin


def _terms(task: Task, there: Source, licence: str | None, restrictions: Sequence[str]) -> SourceTerms:
    """The terms of the rows, with the translation credited and the translator's terms beside them."""
    rows = known_terms(
        own_terms(UNSTATED, str(there.manifest.get("attribution") or "")), [there.folder / DATA]
    )
    added = accepted_licences(licence) if licence else ()
    languages = ", ".join(_source_languages(task, there))
    credit = f"machine-translated from {languages} to {task.target} by {task.translator.name}"
    return replace(
        rows,
        licences=tuple(dict.fromkeys([*rows.licences, *added])),
        attribution=f"{rows.attribution}; {credit}" if rows.attribution else credit,
        remarks=tuple(dict.fromkeys([*rows.remarks, *restrictions])),
    )


def _source_languages(task: Task, there: Source) -> list[str]:
    if there.language:
        return [there.language]
    return sorted(code for code in there.manifest["languages"] if code not in (task.target, "unknown"))


def _about(task: Task, there: Source, on_flag: str, terms: SourceTerms) -> dict[str, Any]:
    upstream, to = there.manifest, task.target
    return {
        "builder": "translate",
        "builder_version": VERSION,
        "upstream": upstream.get("upstream", ""),
        **terms.as_dict(),
        "licence_instead_of": upstream.get("licence_instead_of"),
        "on_bad_row": "strict",
        "options": {
            "to": to,
            "from": there.language,
            "unit": task.unit,
            "on_flag": on_flag,
            "length_ratio": {
                code: list(task.length_ratio or bounds_of((code, to)))
                for code in _source_languages(task, there)
            },
            "rows": there.num_rows,
        },
        "translator": dict(task.translator.identity),
        "translated_from": {
            name: upstream.get(name)
            for name in ("source", "builder", "builder_version", "data_sha256", "rows_kept", "languages")
        },
    }
