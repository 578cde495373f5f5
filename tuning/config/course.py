"""What a training stage says of its course: its learning rate, which step wins, when to stop."""

from __future__ import annotations

from tuning.config.checks import TRAIN_STAGES, Draft
from tuning.config.errors import brief, nearest

FIGURES = {
    "sft": ("loss",),
    "dpo": ("loss", "accuracy", "rewards/accuracies", "rewards/margins"),
}
"""Evaluation figures that can choose a stage's best step; each also of one source, as in `loss/dolly-ja`."""


def check_course(draft: Draft) -> None:
    """Settings of a training stage that exclude or need each other."""
    for stage in TRAIN_STAGES:
        values = draft.section(stage)
        if values:
            _check_rate(draft, stage)
            _check_dev(draft, stage)
            if values.get("best_by") is not None:
                _check_best(draft, stage)
            elif values.get("stop_after_evaluations") is not None:
                key = f"{stage}.stop_after_evaluations"
                draft.add(key, f"{key} needs {stage}.best_by, the figure that has to improve")


def _check_rate(draft: Draft, stage: str) -> None:
    values = draft.section(stage)
    if values.get("warmup_steps") and values.get("warmup_ratio") is not None:
        key, other = f"{stage}.warmup_ratio", f"{stage}.warmup_steps"
        draft.add(key, f"{key} and {other} ({draft.place(other)}) both say how long the warm-up is; give one")
    key, held = f"{stage}.hold_steps", values.get("hold_steps")
    if held and values.get("schedule") == "constant":
        draft.add(key, f"{key}: a constant schedule never comes down to what it could hold")
    warmup, steps = values.get("warmup_steps"), values.get("max_steps")
    if held and steps is not None and warmup is not None and steps <= warmup + held:
        draft.warn(
            key,
            f"{key}: {steps} steps are no more than {warmup} of warm-up and {held} held, so the learning "
            "rate has no time to fall: it is at the minimum right behind its peak",
        )


def _check_dev(draft: Draft, stage: str) -> None:
    for source in draft.section(f"{stage}.mix"):
        entry, key = draft.section(f"{stage}.mix.{source}"), f"{stage}.mix.{source}.dev_share"
        if entry.get("dev_share") is not None and entry.get("dev_rows") is not None:
            draft.add(key, f"{key} and {stage}.mix.{source}.dev_rows both say how much is held out; give one")


def _check_best(draft: Draft, stage: str) -> None:
    """The figure exists, there are rows to compute it on, and more than one evaluation to choose from."""
    values, key = draft.section(stage), f"{stage}.best_by"
    name, mix = values["best_by"], draft.section(f"{stage}.mix")
    figure = next(
        (known for known in FIGURES[stage] if name in (known, *(f"{known}/{one}" for one in mix))), None
    )
    if figure is None:
        accepted = ", ".join(FIGURES[stage])
        draft.add(
            key,
            f"{key}: saw {brief(name)}; accepted: {accepted}, each also as name/source for one of the mix",
            nearest(str(name), FIGURES[stage]),
        )
        return
    wanted = [name.removeprefix(f"{figure}/")] if name != figure else list(mix)
    if mix and not any(_holds_out(values, mix[source]) for source in wanted):
        which = f"{stage}.mix.{wanted[0]}" if name != figure else f"any source of {stage}.mix"
        draft.add(key, f"{key}: no row of {which} is held out to compute it on; set dev_rows")
    if values.get("eval_steps") is None:
        draft.add(
            key,
            f"{key} needs {stage}.eval_steps: without it there is one evaluation, at the end, and nothing to "
            "choose from",
        )


def _holds_out(values: dict[str, object], entry: object) -> bool:
    own = entry if isinstance(entry, dict) else {}
    if own.get("dev_share") is not None:
        return True
    rows = own.get("dev_rows") if own.get("dev_rows") is not None else values.get("dev_rows")
    return rows != 0
