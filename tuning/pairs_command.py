"""`tuning pairs build`: its arguments, and the model and scorers that they name."""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLES = """\
  tuning pairs build --prompts data/dolly --model runs/sft/model --score rules:length,stops --output pairs
  tuning pairs build --prompts data/dolly --model runs/mine/sft/model --answers 16 --output pairs \\
      --score reward:models/rm --score 2*rules:stops,language,no_loop --min-margin 0.5
  tuning pairs build --prompts prompts.jsonl --endpoint http://localhost:8000/v1 --served-model mine \\
      --tokenizer runs/mine/sft/model --output pairs \\
      --score 'judge:http://localhost:8001/v1?model=qwen2.5-32b-instruct'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "--prompts", required=True, metavar="DIR|JSONL", help="a built dataset, or rows with prompts"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the dataset of pairs")
    parser.add_argument(
        "--score",
        action="append",
        required=True,
        metavar="[WEIGHT*]SCORE",
        help="rules:NAME[=VALUE],... (length=20..2000, stops, language, no_loop, forbids=/REGEX/, "
        "requires=/REGEX/), reward:FOLDER, judge:URL?model=NAME[&key_variable=NAME]; may be repeated",
    )
    parser.add_argument("--answers", type=int, default=8, metavar="K", help="answers a prompt (default 8)")
    parser.add_argument(
        "--select",
        default="best_worst",
        metavar="HOW",
        help="best_worst (default), best_random, or all pairs with the margin",
    )
    parser.add_argument(
        "--min-margin", type=float, default=0.0, metavar="X", help="least difference of scores (default 0)"
    )
    parser.add_argument(
        "--unfinished",
        default="reject",
        metavar="POLICY",
        help="answers that the limit cut off: reject (default: never chosen), keep, drop",
    )
    parser.add_argument("--source", help="name of the rows' source (default: that of the prompts, -pairs)")
    parser.add_argument(
        "--cache",
        metavar="FILE",
        help="answers and scores so far (default: answers.sqlite3 beside it)",
    )
    parser.add_argument("--first", type=int, metavar="N", help="the first N prompts only, for a look")
    parser.add_argument(
        "--restriction", action="append", default=[], metavar="TEXT", help="a term of use that the models add"
    )
    parser.add_argument(
        "--licence", help="licence id that the models' terms put on their writing, beside that of the prompts"
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--temperature", type=float, default=1.0, metavar="T", help="default 1")
    sampling.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default 1: all tokens")
    sampling.add_argument("--top-k", type=int, default=0, metavar="N", help="default 0: all tokens")
    sampling.add_argument(
        "--max-new-tokens", type=int, default=1024, metavar="N", help="of an answer (default 1024)"
    )
    sampling.add_argument("--seed", type=int, default=0, help="default 0")
    local = parser.add_argument_group("a model here")
    local.add_argument("--model", metavar="DIR", help="folder of a chat model")
    local.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help="continuous (batching), plain (generate), or auto: continuous on a GPU (default)",
    )
    local.add_argument(
        "--in-flight", type=int, default=128, metavar="N", help="answers at once, continuous (default 128)"
    )
    local.add_argument("--batch-size", type=int, metavar="N", help="answers at once, plain (default: K)")
    served = parser.add_argument_group("a model behind an OpenAI-compatible endpoint")
    served.add_argument("--endpoint", metavar="URL", help="such as http://localhost:8000/v1")
    served.add_argument("--served-model", metavar="NAME", help="the model's name there")
    served.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="its tokenizer and template: prompts go as token ids (vLLM); without it as messages",
    )
    served.add_argument(
        "--key-variable", metavar="NAME", help="NAME of the environment variable that holds the key"
    )
    served.add_argument(
        "--concurrency", type=int, default=32, metavar="N", help="requests at once (default 32)"
    )
    served.add_argument(
        "--timeout-seconds", type=float, default=600.0, metavar="S", help="of one request (default 600)"
    )
    served.add_argument(
        "--max-retries", type=int, default=6, metavar="N", help="after 429, 5xx and time-outs (default 6)"
    )
    parser.add_argument("--template", default="base", metavar="NAME", help="instead of the folder's own")


def run(arguments: argparse.Namespace) -> None:
    """Builds the pairs and prints where every prompt went."""
    _check(arguments)
    from tuning.pairs import build_pairs, scorers_of

    scorers = [one for text in arguments.score for one in scorers_of(text)]
    manifest = build_pairs(
        arguments.prompts,
        arguments.output,
        _sampler(arguments),
        score=scorers,
        answers=arguments.answers,
        select=arguments.select,
        min_margin=arguments.min_margin,
        unfinished=arguments.unfinished,
        source=arguments.source,
        cache=arguments.cache,
        licence=arguments.licence,
        restrictions=arguments.restriction,
        first=arguments.first,
    )
    for name, count in sorted(manifest["counts"].items()):
        print(f"{name} {count}")
    dropped = ", ".join(f"{code} {count}" for code, count in manifest["rows_dropped"].items()) or "none"
    print(f"{manifest['rows_in']} rows in, {manifest['rows_kept']} kept, dropped: {dropped}")
    print(f"written: {arguments.output}")


def _check(arguments: argparse.Namespace) -> None:
    """What the arguments alone tell, before torch is imported."""
    from data_builders import BuilderError

    if (arguments.model is None) == (arguments.endpoint is None):
        raise BuilderError(
            "who answers: accepted: either --model DIR, or --endpoint URL with --served-model NAME",
            code="no_sampler",
        )
    if arguments.endpoint and not arguments.served_model:
        raise BuilderError("--served-model: missing; accepted: the model's name at the endpoint")
    for name in ("answers", "first", "in_flight", "batch_size", "concurrency", "timeout_seconds"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise BuilderError(f"--{name.replace('_', '-')}: saw {value}; accepted: a number above 0")


def _sampler(arguments: argparse.Namespace) -> Any:
    from tuning.pairs import LocalModel, Sampling, ServedModel

    sampling = Sampling(
        arguments.temperature,
        arguments.top_p,
        arguments.top_k,
        arguments.max_new_tokens,
        arguments.seed,
    )
    if arguments.model:
        return LocalModel(
            arguments.model,
            sampling=sampling,
            template=arguments.template,
            engine=arguments.engine,
            in_flight=arguments.in_flight,
            batch_size=arguments.batch_size or arguments.answers,
        )
    return ServedModel(
        arguments.endpoint,
        arguments.served_model,
        sampling=sampling,
        tokenizer=arguments.tokenizer,
        template=arguments.template,
        key_variable=arguments.key_variable,
        concurrency=arguments.concurrency,
        timeout_seconds=arguments.timeout_seconds,
        max_retries=arguments.max_retries,
    )
