"""The command line. Everything heavy is imported by the command that needs it: `tuning --help` imports no
torch."""

from __future__ import annotations

import argparse
import errno
import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tuning
from tuning import pairs_command, report_command, translate_command

DONE, FAILED, WRONG_INPUT = 0, 1, 2
WRONG = {
    "RecipeError",
    "BuilderError",
    "RowError",
    "RowFault",
    "ChatError",
    "ModelError",
    "MixtureError",
    "StageError",
    "ReportError",
    "StoreError",
}
"""Names of the exceptions that tell a user what to mend; by name, so that nothing heavy is imported here."""

RECIPE = "a recipe file, or the name of a shipped one (quickstart)"
OVERRIDES = "settings that replace the recipe's, such as sft.epochs=1"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 when done, 2 when the user's input is wrong, 1 when it failed."""
    arguments = parsed(argv)
    if not hasattr(arguments, "command"):
        parser().print_help()
        return DONE
    quiet_libraries()
    try:
        return int(arguments.command(arguments) or DONE)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        status = exit_status(error)
        if status is None:
            raise
        print(told(error), file=sys.stderr)
        return status


def told(error: Exception) -> str:
    """An error as one line; the system's name the file first, as ours do."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; `key=value` may stand before, between and behind options, which argparse alone
    refuses."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    target = next((name for name in ("overrides", "options") if hasattr(arguments, name)), None)
    if rest and (target is None or not all("=" in text and not text.startswith("-") for text in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and target is not None:
        setattr(arguments, target, [*getattr(arguments, target), *rest])
    return arguments


def exit_status(error: Exception) -> int | None:
    """How a failure is reported: 2 for the user's input, 1 for a run that stopped, None for a fault of this
    library."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & WRONG:
        return WRONG_INPUT
    if names & {"Interrupted", "Diverged", "ReleaseError", "AskingStopped"}:
        return FAILED
    if names & {"NotADirectoryError", "IsADirectoryError", "FileExistsError", "PermissionError"}:
        return WRONG_INPUT  # a path that was named; what we write ourselves lies below one
    return FAILED if isinstance(error, OSError) and error.errno == errno.ENOSPC else None


def quiet_libraries() -> None:
    """Keeps the progress bars and notices of libraries out of our own output; warnings still appear."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("DS_ACCELERATOR_LOG_LEVEL", "error")


def parser() -> argparse.ArgumentParser:
    """All commands with their examples."""
    top = _parser(
        argparse.ArgumentParser,
        prog="tuning",
        description="Instruction tuning and preference optimization: from a base checkpoint to a chat model.",
        epilog=(
            "examples:\n"
            "  tuning run quickstart                      a base model becomes a chat model, here, on CPU\n"
            "  tuning check my.yaml                       every mistake in a recipe at once\n"
            "  tuning preview my.yaml                     what the model will be trained on, coloured\n"
            "  tuning chat runs/quickstart/release        talk to a model"
        ),
    )
    top.add_argument("--version", action="version", version=f"tuning {tuning.__version__}")
    commands = top.add_subparsers(title="commands", metavar="")

    run = _command(
        commands,
        "run",
        "all stages of a recipe, reusing what is current",
        "  tuning run quickstart\n"
        "  tuning run my.yaml sft.epochs=1 output=/data/runs/try\n"
        "  tuning run my.yaml --from dpo              DPO and what follows again, though current\n"
        "  tuning run my.yaml --to sft                no further than SFT",
    )
    run.add_argument("recipe", help=RECIPE)
    run.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    run.add_argument(
        "--from", dest="from_stage", metavar="STAGE", help="run this stage and those behind it again"
    )
    run.add_argument("--to", dest="to_stage", metavar="STAGE", help="the last stage to run")
    run.set_defaults(command=_run)

    check = _command(
        commands,
        "check",
        "every mistake in a recipe at once; no weights, no GPU",
        "  tuning check my.yaml\n  tuning check my.yaml use=commercial --json",
    )
    check.add_argument("recipe", help=RECIPE)
    check.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    check.add_argument("--json", action="store_true", help="problems and warnings as JSON on standard output")
    check.set_defaults(command=_check)

    preview = _command(
        commands,
        "preview",
        "what the model will be trained on, token by token",
        "  tuning preview quickstart\n  tuning preview my.yaml --rows 5 --html preview.html",
    )
    preview.add_argument("recipe", help=RECIPE)
    preview.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    preview.add_argument(
        "--rows", type=_count, default=2, metavar="N", help="rows shown of each source (default 2)"
    )
    preview.add_argument("--html", metavar="FILE", help="also write a self-contained page")
    preview.set_defaults(command=_preview)

    data = _command(
        commands,
        "data",
        "raw public data becomes checked rows",
        "  tuning data list\n"
        "  tuning data build dolly --input databricks-dolly-15k.jsonl --output data/dolly\n"
        "  tuning data build oasst --input trees.jsonl.gz --output data/oasst leaf_policy=all\n"
        "  tuning data translate data/dolly --to ja --output data/dolly-ja --model models/nllb\n"
        "  tuning data report data/dolly data/oasst\n"
        "  tuning data screen data/dolly data/oasst --output screened --against mt-bench.jsonl",
    )
    actions = data.add_subparsers(title="commands", metavar="")
    build = _command(
        actions,
        "build",
        "rows and manifest from raw files",
        "  tuning data build files --input faq.csv --output data/faq --source own-faq\n"
        "  tuning data build files --input chats.jsonl --output data/chats --on-bad-row quarantine",
    )
    build.add_argument("name", help="a builder: see `tuning data list`")
    build.add_argument("options", nargs="*", metavar="option=value", help="the builder's own options")
    build.add_argument("--input", nargs="+", required=True, metavar="FILE", help="raw files")
    build.add_argument(
        "--output", required=True, metavar="DIR", help="folder for data.jsonl and manifest.json"
    )
    build.add_argument("--source", help="name of the rows' source (default: the builder's name)")
    build.add_argument(
        "--on-bad-row", choices=("strict", "quarantine"), default="strict", help="default: strict"
    )
    build.add_argument("--licence", help="licence id; holds beside the one that the builder knows")
    build.add_argument(
        "--licence-reason", metavar="TEXT", help="why --licence holds instead: rows of your own, a permission"
    )
    build.add_argument("--attribution", metavar="TEXT", help="whom to name, besides those the builder names")
    build.add_argument(
        "--terms", metavar="JSON", help='of a LicenseRef-...: {"commercial": true, "redistribution": false}'
    )
    build.add_argument("--language", help="language code (ja, en), where the builder does not know it")
    build.set_defaults(command=_data_build)
    translation = _command(actions, "translate", "built rows in another language", translate_command.EXAMPLES)
    translate_command.add_arguments(translation)
    translation.set_defaults(command=translate_command.run)
    listing = _command(
        actions, "list", "every builder, its source, licence and file", "  tuning data list --json"
    )
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(command=_data_list)
    report = _command(
        actions,
        "report",
        "the picture of a data mix: counts, shares, lengths, terms",
        report_command.EXAMPLES,
    )
    report_command.add_arguments(report)
    report.set_defaults(command=report_command.run)

    screen = _command(
        actions,
        "screen",
        "duplicates, evaluation questions and artefacts found in built datasets, dropped or flagged",
        "  tuning data screen data/dolly data/oasst --output screened\n"
        "  tuning data screen data/* --output screened --against mt-bench.jsonl --contamination drop\n"
        "  tuning data screen data/dolly --output screened --policy citation_mark=drop refusal=ignore",
    )
    screen.add_argument(
        "folders", nargs="+", metavar="DIR", help="built datasets; the first copy of a duplicate stays"
    )
    screen.add_argument(
        "--output", required=True, metavar="DIR", help="folder for one screened dataset per source"
    )
    screen.add_argument("--against", nargs="+", default=[], metavar="FILE", help="evaluation sets")
    screen.add_argument(
        "--contamination",
        default="refuse",
        metavar="POLICY",
        help="rows that hold evaluation items: refuse (default), drop, flag or ignore",
    )
    screen.add_argument(
        "--duplicates", default="drop", metavar="POLICY", help="drop (default), flag or ignore"
    )
    screen.add_argument(
        "--near-duplicates", default="flag", metavar="POLICY", help="drop, flag (default) or ignore"
    )
    screen.add_argument(
        "--similarity", type=float, default=0.5, metavar="X", help="Jaccard index of near duplicates (0.5)"
    )
    screen.add_argument(
        "--policy", nargs="+", default=[], metavar="CODE=POLICY", help="of single codes: drop, flag, ignore"
    )
    screen.add_argument(
        "--safety", nargs="+", default=[], metavar="SOURCE", help="sources in which refusals are wanted"
    )
    screen.add_argument("--json", action="store_true", help="the counts as JSON")
    screen.set_defaults(command=_data_screen)

    chat = _command(
        commands,
        "chat",
        "talk to a model, in the template it was trained with",
        "  tuning chat runs/quickstart/release\n"
        '  echo "What is the capital of Japan?" | tuning chat runs/quickstart/release',
    )
    chat.add_argument("model", help="folder or hub id of a chat model")
    chat.add_argument("--system", help="a system message")
    chat.add_argument(
        "--max-new-tokens", type=_count, default=512, metavar="N", help="limit of an answer (default 512)"
    )
    chat.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default) is greedy")
    chat.add_argument("--seed", type=int, default=0, help="of sampling (default 0)")
    chat.set_defaults(command=_chat)

    pairs = _command(commands, "pairs", "preference pairs of a model's own answers", pairs_command.EXAMPLES)
    building = _command(
        pairs.add_subparsers(title="commands", metavar=""),
        "build",
        "sample answers to prompts, score them, write the best and the worst as pairs",
        pairs_command.EXAMPLES,
    )
    pairs_command.add_arguments(building)
    building.set_defaults(command=pairs_command.run)
    for group in (data, pairs):
        group.set_defaults(command=lambda arguments, group=group: group.print_help())
    return top


def _count(text: str) -> int:
    """A number above 0, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"saw {text!r}; accepted: a whole number above 0")
    return int(text)


def _parser(make: Any, **options: Any) -> argparse.ArgumentParser:
    return make(formatter_class=argparse.RawDescriptionHelpFormatter, **options)  # type: ignore[no-any-return]


def _command(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(  # type: ignore[no-any-return]
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _run(arguments: argparse.Namespace) -> None:
    from tuning.pipeline import run

    run(_recipe(arguments), from_stage=arguments.from_stage, to_stage=arguments.to_stage)


def _check(arguments: argparse.Namespace) -> int:
    from tuning.config import RecipeError
    from tuning.pipeline import check, stages_of, warnings

    try:
        recipe = _recipe(arguments, warn=False)
        problems, told = check(recipe), recipe.warnings
        told = told if problems else [*told, *warnings(recipe)]
    except RecipeError as error:
        problems, told = error.problems, []
    if arguments.json:
        keys = ("file", "line", "column", "key", "message", "suggestion")
        found = {
            name: [{key: getattr(item, key) for key in keys} for item in items]
            for name, items in (("problems", problems), ("warnings", told))
        }
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        for warning in told:
            print(f"{warning} (warning)", file=sys.stderr)
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"{recipe.name}: no mistake found; stages: {', '.join(stages_of(recipe))}")
    return WRONG_INPUT if problems else DONE


def _preview(arguments: argparse.Namespace) -> None:
    from tuning.pipeline import preview

    preview(_recipe(arguments), rows=arguments.rows, html=Path(arguments.html) if arguments.html else None)


def _data_build(arguments: argparse.Namespace) -> None:
    from data_builders import BuilderError, build, builders

    info = builders().get(arguments.name)
    lists = {option.name for option in info.options if option.accepted is None} if info else set()
    options: dict[str, Any] = {}
    for text in arguments.options:
        name, equals, value = text.partition("=")
        if not equals:
            raise BuilderError(f"{text!r}: an option is given as name=value")
        if name in inspect.signature(build).parameters and name != "options":
            flag = {"inputs": "input"}.get(name, name).replace("_", "-")
            given = "the builder is named first" if name == "name" else f"say --{flag} {value}"
            raise BuilderError(f"{name} is no option of a builder; {given}", code="bad_option")
        options[name] = value.split(",") if name in lists else value
    manifest = build(
        arguments.name,
        arguments.input,
        arguments.output,
        source=arguments.source,
        on_bad_row=arguments.on_bad_row,
        licence=arguments.licence,
        licence_reason=arguments.licence_reason,
        attribution=arguments.attribution,
        terms=_terms(arguments.terms),
        language=arguments.language,
        **options,
    )
    for note in [*manifest["detected"], *manifest["notes"]]:
        print(note if isinstance(note, str) else json.dumps(note, ensure_ascii=False))
    dropped = ", ".join(f"{code} {count}" for code, count in manifest["rows_dropped"].items()) or "none"
    print(f"{manifest['rows_in']} rows in, {manifest['rows_kept']} kept, dropped: {dropped}")
    print(f"written: {arguments.output}")


def _terms(text: str | None) -> dict[str, Any] | None:
    from data_builders import BuilderError

    if text is None:
        return None
    try:
        terms = json.loads(text)
    except ValueError:
        terms = None
    if not isinstance(terms, dict):
        accepted = 'JSON such as {"commercial": true, "redistribution": false}'
        raise BuilderError(f"--terms: saw {text!r}; accepted: {accepted}", code="bad_terms")
    return terms


def _data_list(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from data_builders import builders

    if arguments.json:
        listing = {name: asdict(info) | info.source_terms.as_dict() for name, info in builders().items()}
        print(json.dumps(listing, ensure_ascii=False, indent=2, default=str))
        return
    for name, info in builders().items():
        print(f"{name}: {info.description}\n    source   {info.upstream}")
        for licence in info.source_terms.licences:
            print(f"    licence  {licence.id}{f', {licence.url}' if licence.url else ''}")
        if info.use_restrictions:
            print(f"    terms    {'; '.join(info.use_restrictions)}")
        print(f"    file     {info.wanted}")
        for option in info.options:
            print(f"    option   {option.name}={_values_of(option)}")


def _values_of(option: Any) -> str:
    return "|".join(option.accepted) if option.accepted else ",".join(option.among or ("one", "two"))


def _data_screen(arguments: argparse.Namespace) -> None:
    from data_builders import BuilderError, screen
    from data_builders.screening import compared_with, summary

    quality: dict[str, str] = {}
    for text in arguments.policy:
        code, equals, policy = text.partition("=")
        if not equals:
            raise BuilderError(f"--policy {text!r}: given as code=policy, such as refusal=drop")
        quality[code] = policy
    manifests = screen(
        arguments.folders,
        arguments.output,
        against=arguments.against,
        contamination=arguments.contamination,
        duplicates=arguments.duplicates,
        near_duplicates=arguments.near_duplicates,
        similarity=arguments.similarity,
        quality=quality,
        safety=arguments.safety,
    )
    if arguments.json:
        found = {source: manifest["screening"] for source, manifest in manifests.items()}
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    print(*compared_with(manifests), *map(summary, manifests.values()), sep="\n")
    print(f"written: {', '.join(str(Path(arguments.output) / source) for source in manifests)}")


def _chat(arguments: argparse.Namespace) -> None:
    from tuning.talk import talk

    talk(
        arguments.model,
        system=arguments.system,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )


def _recipe(arguments: argparse.Namespace, warn: bool = True) -> Any:
    from tuning.config import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    for warning in recipe.warnings if warn else ():
        print(f"{warning} (warning)", file=sys.stderr)
    return recipe


if __name__ == "__main__":
    sys.exit(main())
