"""What scores answers, and how a command line names it.

    rules:length=20..2000,2*stops,-1*requires=/申し訳/     rules of `rules.py`, each with a weight
    reward:models/my-reward-model                          a sequence classifier in a folder
    0.1*judge:http://host:8000/v1?model=qwen2.5-32b        a chat model asked for a score from 1 to 10

The final score is the sum of weight times score. A scorer that asks a model does it through the schedule and
the cache of answers; a rule computes.
"""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_builders.asking.answers import Answer
from data_builders.lines import BuilderError
from tuning.pairs.prompts import Prompt
from tuning.pairs.rules import Rule, rule_of

WEIGHTED = re.compile(r"(?P<weight>-?\d+(?:\.\d+)?)\*(?P<rest>.*)", re.DOTALL)
RULE = re.compile(r"(?P<name>[\w.*-]+?)(?:=(?P<value>/(?:[^/\\]|\\.)*/|[^,/]*))?(?:,|\Z)")

Steps = Generator[list[Any], list[Answer], list[float | None]]


@dataclass(frozen=True)
class Candidate:
    """One answer to a prompt, as it is scored."""

    number: int
    message: Mapping[str, str]
    is_finished: bool

    @property
    def content(self) -> str:
        return self.message["content"]


class Scorer(Protocol):
    """Scores answers; None for one that it could not score."""

    name: str
    """The key of its scores."""
    workers: int
    batch_size: int
    counts: Counter[str]
    """What `steps` counts: replies that were no score."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that a score depends on besides question and answer."""

    def check(self) -> None:
        """Raises `BuilderError` for what can be wrong before anything is asked."""

    def open(self) -> None:
        """Reads weights, if it has any; called before the first `ask`."""

    def close(self) -> None:
        """Lets them go."""

    def steps(self, prompt: Prompt, answers: Sequence[Candidate]) -> Steps:
        """Yields what it asks, gets the answers, returns a score an answer."""

    def ask(self, requests: Sequence[Any]) -> list[Answer]:
        """Answers the requests that `steps` yields."""


@dataclass(frozen=True)
class Weighted:
    """A scorer and what its score counts."""

    weight: float
    scorer: Scorer


class RuleScorer:
    """A rule as a scorer that asks nobody."""

    workers = batch_size = 1

    def __init__(self, rule: Rule, text: str) -> None:
        self.rule, self.name = rule, rule.name
        self.counts: Counter[str] = Counter()
        self.identity: Mapping[str, Any] = {"kind": "rule", "rule": text}

    def check(self) -> None:
        pass

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def steps(self, prompt: Prompt, answers: Sequence[Candidate]) -> Steps:
        return [self.rule.score(prompt.question, one.content, one.is_finished) for one in answers]
        yield

    def ask(self, requests: Sequence[Any]) -> list[Answer]:
        raise AssertionError("a rule asks nobody")


def scorers_of(text: str) -> list[Weighted]:
    """The scorers that a text names; raises `BuilderError` with what is accepted."""
    weight, rest = _weight(text)
    kind, _, value = rest.partition(":")
    if not value or kind not in ("rules", "reward", "judge"):
        accepted = "rules:NAME,NAME, reward:FOLDER or judge:URL?model=NAME, each perhaps after WEIGHT*"
        raise BuilderError(f"score: saw {text!r}; accepted: {accepted}", code="unknown_score")
    if kind == "rules":
        return [Weighted(weight * one.weight, one.scorer) for one in _rules(value)]
    if kind == "judge":
        return [Weighted(weight, _judge(value))]
    from tuning.pairs.reward_model import RewardModel

    return [Weighted(weight, RewardModel(Path(value)))]


def _weight(text: str) -> tuple[float, str]:
    found = WEIGHTED.fullmatch(text)
    return (float(found["weight"]), found["rest"]) if found else (1.0, text)


def _rules(value: str) -> list[Weighted]:
    found, at = [], 0
    while at < len(value):
        rule = RULE.match(value, at)
        if rule is None or rule.end() == at:
            accepted = "NAME or NAME=VALUE, separated by commas, such as length=20..2000,forbids=/https?:/"
            raise BuilderError(f"score: rules:{value}: saw {value[at:]!r}; accepted: {accepted}", "bad_rule")
        weight, name = _weight(rule["name"])
        text = rule["name"] if rule["value"] is None else f"{rule['name']}={rule['value']}"
        found.append(Weighted(weight, RuleScorer(rule_of(name, rule["value"]), text)))
        at = rule.end()
    return found


def _judge(value: str) -> Scorer:
    from tuning.pairs.judge import Judge

    parts = urllib.parse.urlsplit(value)
    query = dict(urllib.parse.parse_qsl(parts.query))
    if not query.get("model"):
        raise BuilderError(
            f"score: judge:{value.partition('?')[0]}: accepted: judge:URL?model=NAME", "no_model"
        )
    model, key_variable = query.pop("model"), query.pop("key_variable", None)
    url = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(query)))
    return Judge(url, model, key_variable=key_variable)
