"""Alarms: a run's own metric lines, watched for what usually ruins a model, and told in plain words.

A `Watch` sees the lines of `metrics.jsonl` in their order and nothing else. So a resumed run shows it the
lines that it kept, and recorded lines can be watched afterwards. Every alarm rings once in a run.

Where a loss has no reference (SimPO, CPO, ORPO), the run's own first lines stand for it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

WINDOW = 5
"""Lines whose mean is judged: one odd batch is no trend."""
CHANCE_WINDOW = 20
"""Lines over which accuracies are counted: they are shares of few pairs, and scatter."""
FELL_NATS = 1.0
"""Fall of the chosen answers' log p per token against the reference. Each token is then e times less likely
than it was. A healthy run loses some likelihood on chosen answers, since both answers share most of their
words: hundredths to a few tenths of a nat per token."""
KL_NATS = 3.0
"""|log p - log p_ref| per token, of either answer. A token that is 20 times more or less likely than before
was written by another model. Rejected answers are meant to fall, so this bound is wider than `FELL_NATS`."""
FLAT_MARGIN = 0.02
"""Mean reward margin under which pairs count as not separated: the loss is then within 1.5 % of ln 2, its
value at the start."""
FLAT_ACCURACY = 0.65
"""Pairs that are ordered rightly more often than this are being told apart, however small beta makes their
margins."""
FLAT_AFTER = 0.5
"""Share of the run after which pairs should have separated: half of the learning rate's area is spent."""
FLAT_STEPS = 20
"""No run is called flat before this step: a shorter one has hardly begun."""
END_TOKEN_SHARE = 0.5
"""Share of its first value under which the end token's probability has fallen: answers then go on, on
average, twice as often where they should stop."""
END_TOKEN_KNOWN = 0.05
"""A model that gave the end token less than this at the start never knew it, and cannot forget it."""
LENGTH_GAP = 0.5
"""Accuracy where the chosen answer is the longer one, less that where it is the shorter. At 0.5 most of what
was learnt is length: the rule `the longer one wins` alone has 1."""
LENGTH_PAIRS = 40
"""Pairs of either kind that it takes to say so: with as many the gap's standard error is at most 0.11."""
CHANCE_SIGMAS = 4.0
"""Standard errors below 0.5 at which an accuracy is below chance: a coin does that once in 30,000 windows."""
LOSS_TIMES = 4.0
"""Loss against that of the first lines. A preference loss starts at ln 2, so it is then 2.8: most pairs are
ordered wrongly, and by a wide margin."""


@dataclass(frozen=True)
class Alarm:
    """One thing that is going wrong."""

    code: str
    step: int
    """Where it was noticed."""
    since: int
    """Where it began."""
    seen: str
    means: str
    advice: str

    def __str__(self) -> str:
        return f"ALARM at step {self.step} ({self.code}): {self.seen}. {self.means} {self.advice}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Watch:
    """Sees the lines of a run, one after another."""

    def __init__(self, num_steps: int, learning_rate: float) -> None:
        self.num_steps, self.learning_rate = num_steps, learning_rate
        self.lines: list[Mapping[str, Any]] = []
        self._rung: set[str] = set()

    def see(self, line: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that this line sets off."""
        self.lines.append(line)
        found = [alarm for rule in RULES for alarm in rule(self) if alarm.code not in self._rung]
        self._rung |= {alarm.code for alarm in found}
        return found

    def recent(self, name: str, count: int = WINDOW) -> float | None:
        """The mean of a metric over the last `count` lines that have it; None before there are as many."""
        values = self.last(name, count)
        return statistics.fmean(values) if len(values) == count else None

    def last(self, name: str, count: int) -> list[float]:
        """The last `count` values of a metric, the newest first."""
        values: list[float] = []
        for line in reversed(self.lines):
            if len(values) == count:
                break
            if name in line:
                values.append(line[name])
        return values

    def first(self, name: str) -> float | None:
        """A metric on the first line, which is computed before the first update: the model as it was."""
        value = self.lines[0].get(name)
        return None if value is None else float(value)

    def start(self, name: str, count: int = WINDOW) -> float | None:
        """The mean of a metric over the first `count` lines that have it; None before there are as many, and
        as many again behind them."""
        values = [line[name] for line in self.lines if name in line]
        return statistics.fmean(values[:count]) if len(values) >= 2 * count else None

    @property
    def has_reference(self) -> bool:
        return any("kl/chosen" in line or "kl/rejected" in line for line in self.lines[:WINDOW])

    def drift(self, side: str) -> float | None:
        """log p - log p_ref per token of the `chosen` or `rejected` answers of the last lines, nats; without
        a reference, log p against the run's first lines."""
        if self.has_reference:
            return self.recent(f"kl/{side}")
        now, before = self.recent(f"logps_per_token/{side}"), self.start(f"logps_per_token/{side}")
        return None if now is None or before is None else now - before

    def drifts_since(self, side: str, bound: float) -> int:
        """The step behind the last one at which a side had drifted by less than a bound."""
        if self.has_reference:
            return self.since(f"kl/{side}", lambda value: abs(value) < bound)
        name = f"logps_per_token/{side}"
        before = self.start(name) or 0.0
        return self.since(name, lambda value: abs(value - before) < bound)

    def margin(self) -> float | None:
        """The mean reward margin of the last lines, or the gap between good and bad answers that were judged
        one by one. Without a reference, by how much it has grown since the first lines, 0 where that is
        within two standard errors of nothing."""
        name = "rewards/margins"
        if not self.last(name, 1):
            chosen, rejected = self.recent("rewards/chosen"), self.recent("rewards/rejected")
            return None if chosen is None or rejected is None else chosen - rejected
        if self.has_reference:
            return self.recent(name)
        values = [line[name] for line in self.lines if name in line]
        if len(values) < 2 * CHANCE_WINDOW:
            return None
        first, last = values[:CHANCE_WINDOW], values[-CHANCE_WINDOW:]
        grown = statistics.fmean(last) - statistics.fmean(first)
        scatter = math.sqrt((statistics.variance(first) + statistics.variance(last)) / CHANCE_WINDOW)
        return grown if abs(grown) > 2 * scatter else 0.0

    def length_gap(self) -> float | None:
        """Accuracy of the last lines where the chosen answer is the longer one, less that where it is the
        shorter; without a reference, against the first lines: sums favour short answers by themselves."""
        kinds = [f"rewards/accuracies_{kind}" for kind in ("longer", "shorter")]
        longer, shorter = (self.recent(kind, CHANCE_WINDOW) for kind in kinds)
        if longer is None or shorter is None or self.has_reference:
            return None if longer is None or shorter is None else longer - shorter
        before = [self.start(kind, CHANCE_WINDOW) for kind in kinds]
        if before[0] is None or before[1] is None:
            return None
        return (longer - shorter) - (before[0] - before[1])

    def since(self, name: str, is_harmless: Callable[[float], bool]) -> int:
        """The step behind the last one at which a metric was harmless."""
        for line in reversed(self.lines):
            if name in line and is_harmless(line[name]):
                return int(line["step"]) + 1
        return int(self.lines[0]["step"])

    @property
    def step(self) -> int:
        return int(self.lines[-1]["step"])

    @property
    def lower_rate(self) -> str:
        return f"learning_rate {self.learning_rate / 5:.2g} (a fifth)"


def chosen_collapses(watch: Watch) -> Iterator[Alarm]:
    fall, now = watch.drift("chosen"), watch.recent("logps_per_token/chosen")
    if fall is None or now is None or fall > -FELL_NATS:
        return
    since = watch.drifts_since("chosen", FELL_NATS / 4)
    yield Alarm(
        "chosen_collapses",
        watch.step,
        since,
        "the model is making the chosen answers less likely, too: their log p per token fell from "
        f"{now - fall:.1f} to {now:.1f} since step {since}",
        "It only has to push rejected answers further down, and loses the language on the way: such a model "
        "repeats itself or writes noise. The learning rate is probably too high, or beta too low.",
        f"Try {watch.lower_rate}, a larger beta (0.1 is usual), or an SFT term.",
    )


def kl_explodes(watch: Watch) -> Iterator[Alarm]:
    for side in ("chosen", "rejected"):
        kl = watch.drift(side)
        if kl is None or abs(kl) < KL_NATS:
            continue
        since = watch.drifts_since(side, KL_NATS / 4)
        left = "the reference" if watch.has_reference else "where it started"
        yield Alarm(
            "kl_explodes",
            watch.step,
            since,
            f"the model has left {left}: its log p per token on {side} answers differs by "
            f"{kl:+.1f} nats since step {since}",
            f"Each token is {math.exp(min(50.0, abs(kl))):.0f} times {'more' if kl > 0 else 'less'} likely "
            "than before; nothing that the start model knew is safe.",
            f"Try {watch.lower_rate} or a larger beta, which is the pull back to the reference."
            if watch.has_reference
            else f"Try {watch.lower_rate} or an SFT term.",
        )
        return


def pairs_never_separate(watch: Watch) -> Iterator[Alarm]:
    margin = watch.margin()
    is_early = watch.step < max(FLAT_STEPS, FLAT_AFTER * watch.num_steps)
    accuracy = watch.recent("rewards/accuracies")
    if margin is None or is_early or abs(margin) >= FLAT_MARGIN or (accuracy or 0.0) > FLAT_ACCURACY:
        return
    rate = max(line["learning_rate"] for line in watch.lines)
    hint = (
        "The learning rate has been 0 throughout: set learning_rate, or a shorter warm-up."
        if rate == 0
        else f"Try learning_rate {5 * watch.learning_rate:.2g} (five times as much), more epochs, or a LoRA "
        "of higher rank; look at some pairs with `tuning preview`."
    )
    yield Alarm(
        "pairs_never_separate",
        watch.step,
        int(watch.lines[0]["step"]),
        f"after {watch.step} of {watch.num_steps} steps the model still cannot tell chosen from rejected: "
        f"the mean reward margin {'is' if watch.has_reference else 'has moved by'} {margin:+.4f}",
        "Nothing is being learnt. The learning rate is too low, or the two sides differ in nothing that the "
        "model can see.",
        hint,
    )


def end_token_falls(watch: Watch) -> Iterator[Alarm]:
    now, before = watch.recent("end_token/chosen"), watch.first("end_token/chosen")
    if now is None or before is None or before < END_TOKEN_KNOWN or now > END_TOKEN_SHARE * before:
        return
    since = watch.since("end_token/chosen", lambda value: value > 0.8 * before)
    yield Alarm(
        "end_token_falls",
        watch.step,
        since,
        f"the model is forgetting how to stop: the end token of chosen answers had probability {before:.2f} "
        f"at the start and has {now:.2f} since step {since}",
        "Answers will run on to the length limit. The end token's probability falls with that of all tokens, "
        "or rejected answers are the shorter ones.",
        f"Try {watch.lower_rate}, a larger beta, or pairs of more equal length.",
    )


def length_runs_away(watch: Watch) -> Iterator[Alarm]:
    gap = watch.length_gap()
    if gap is None or abs(gap) < LENGTH_GAP:
        return
    for kind in ("longer", "shorter"):
        lines = [line for line in watch.lines if f"rewards/accuracies_{kind}" in line][-CHANCE_WINDOW:]
        if sum(line["pairs"] * line[f"length/chosen_{kind}"] for line in lines) < LENGTH_PAIRS:
            return
    what, other = ("longer", "shorter") if gap > 0 else ("shorter", "longer")
    right = {kind: watch.recent(f"rewards/accuracies_{kind}", CHANCE_WINDOW) for kind in (what, other)}
    share = watch.recent("length/ratio", CHANCE_WINDOW)
    ratio = (
        f"; chosen answers have {share:.2f} times the tokens of rejected ones" if share is not None else ""
    )
    yield Alarm(
        "length_runs_away",
        watch.step,
        max(1, watch.step - CHANCE_WINDOW + 1),
        f"the model is learning length: it prefers the chosen answer in {right[what]:.0%} of the "
        f"pairs where that is the {what} one, and in {right[other]:.0%} where it is the {other}" + ratio,
        f"It will write {what} and {what} answers, whatever is asked.",
        "Try a length-normalised loss (sigmoid_norm), LD-DPO (ld_alpha), or pairs of more equal length.",
    )


def below_chance(watch: Watch) -> Iterator[Alarm]:
    names = [name for name in watch.lines[-1] if _is_accuracy(name)]
    for name in names:
        recent = [line for line in watch.lines if name in line][-CHANCE_WINDOW:]
        if len(recent) < CHANCE_WINDOW:
            continue
        accuracy = statistics.fmean(line[name] for line in recent)
        pairs = sum(_pairs_of(line, name) for line in recent)
        # Against a reference a model starts at one half, by itself where its taste happens to be.
        start, scatter, what = 0.5, 0.5, "Worse than chance"
        if not watch.has_reference:
            before = watch.start(name, CHANCE_WINDOW)
            if before is None:
                continue
            start, scatter, what = (
                before,
                0.5 * math.sqrt(2),
                f"Less than the {before:.0%} of the first steps",
            )
        if pairs == 0 or accuracy > start - CHANCE_SIGMAS * scatter / math.sqrt(pairs):
            continue
        source = name.removeprefix("rewards/accuracies").lstrip("/")
        of = f" of {source}" if source else ""
        yield Alarm(
            "below_chance" + (f"/{source}" if source else ""),
            watch.step,
            int(recent[0]["step"]),
            f"the model moves towards the rejected answers{of}: only {accuracy:.0%} of "
            f"the last {pairs:.0f} pairs go the right way since step {recent[0]['step']}",
            f"{what} is no accident: chosen and rejected are swapped in these rows, or other pairs teach the "
            "opposite.",
            "Look at some pairs with `tuning preview`, and at the builder's fields.",
        )


def loss_explodes(watch: Watch) -> Iterator[Alarm]:
    now, before = watch.recent("loss"), watch.first("loss")
    grad_norm = watch.lines[-1].get("grad_norm")
    if grad_norm is not None and not math.isfinite(grad_norm):
        seen, since = f"the gradient of step {watch.step} is {grad_norm}", watch.step
    elif now is not None and before is not None and before > 0 and now > LOSS_TIMES * before:
        since = watch.since("loss", lambda value: value < 2 * before)
        seen = f"the loss rose from {before:.3g} to {now:.3g} since step {since}"
    else:
        return
    yield Alarm(
        "loss_explodes",
        watch.step,
        since,
        seen,
        "The run is diverging; its loss will soon not be a number.",
        f"Try {watch.lower_rate}, a longer warm-up, or a smaller max_grad_norm.",
    )


RULES: tuple[Callable[[Watch], Iterator[Alarm]], ...] = (
    chosen_collapses,
    kl_explodes,
    pairs_never_separate,
    end_token_falls,
    length_runs_away,
    below_chance,
    loss_explodes,
)


def diverged(step: int, value: float, learning_rate: float, *, what: str = "loss") -> Alarm:
    """The last alarm of a run that stops because its loss, or the norm of its gradient, is no number."""
    return Alarm(
        "diverged",
        step,
        step,
        f"the {what} of step {step} is {value}",
        "The run has stopped; nothing of this step is kept, and earlier checkpoints are untouched.",
        f"Try learning_rate {learning_rate / 5:.2g} (a fifth), a longer warm-up, or other rows.",
    )


def _is_accuracy(name: str) -> bool:
    return name == "rewards/accuracies" or name.startswith("rewards/accuracies/")


def _pairs_of(line: Mapping[str, Any], name: str) -> float:
    """How many pairs an accuracy was counted over."""
    source = name.removeprefix("rewards/accuracies")
    return float(line["pairs"] * line.get(f"share{source}", 1.0))
