"""What `reward:` and `grpo:` say beyond types: batches that divide, rewards that are told what they need."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tuning.config.checks import BORROWED_STAGES, TRAINED_STAGES, Draft, check_checkpoint
from tuning.config.errors import brief

TAKES = {"length": ("min_tokens", "max_tokens"), "regex": ("pattern",), "model": ("model",)}
"""The settings of a reward that its rule reads; the other rules need none."""


def check_methods(draft: Draft) -> None:
    """Notes every mistake in the two sections; folders of reward models become absolute."""
    reward, grpo = draft.section("reward"), draft.section("grpo")
    _check_batch(draft, "reward", reward.get("batch_pairs"), "pairs_per_device")
    prompts, answers = grpo.get("batch_prompts"), grpo.get("num_generations")
    if prompts is not None and answers is not None:
        _check_batch(draft, "grpo", prompts * answers, "answers_per_device")
    limit, longest = grpo.get("max_length"), grpo.get("max_new_tokens")
    if limit is not None and longest is not None and longest >= limit:
        key = "grpo.max_new_tokens"
        draft.add(key, f"{key}: saw {longest}; accepted: less than grpo.max_length, which is {limit}")
    for stage in BORROWED_STAGES:
        if draft.section(f"{stage}.lora").get("quantize"):
            key = f"{stage}.lora.quantize"
            draft.add(key, f"{key}: only sft and dpo train on quantised weights; leave it out")
    if draft.has("grpo") and grpo.get("rewards") == {} and draft.is_clean("grpo.rewards"):
        draft.add(
            "grpo.rewards", "grpo.rewards is empty; accepted: at least one, such as stops: {rule: stops}"
        )
    for name, entry in draft.section("grpo.rewards").items():
        _check_reward(draft, f"grpo.rewards.{name}", entry)
    _warn_of_dev_rows(draft)


def _check_batch(draft: Draft, stage: str, batch: int | None, setting: str) -> None:
    at_once, key = draft.section(stage).get(setting), f"{stage}.{setting}"
    if batch is not None and at_once and batch % at_once:
        what = f"{stage}.batch_pairs" if stage == "reward" else "grpo.batch_prompts * grpo.num_generations"
        draft.add(key, f"{key}: saw {at_once}; accepted: a divisor of {what}, which is {batch}")


def _check_reward(draft: Draft, key: str, entry: dict[str, Any]) -> None:
    rule = entry.get("rule")
    if rule is None:
        return
    for names in TAKES.values():
        for name in names:
            if entry.get(name) is not None and name not in TAKES.get(rule, ()):
                draft.add(f"{key}.{name}", f"{key}.{name}: the rule {rule} does not read it; take it out")
    shortest, longest = entry.get("min_tokens"), entry.get("max_tokens")
    if rule == "length" and shortest is None and longest is None:
        draft.add(key, f"{key}: the rule length needs min_tokens, max_tokens or both")
    elif rule == "length" and shortest and longest and shortest > longest:
        message = f"{key}.min_tokens: saw {shortest}; accepted: at most max_tokens, which is {longest}"
        draft.add(f"{key}.min_tokens", message)
    if rule == "regex":
        _check_pattern(draft, key, entry.get("pattern"))
    if rule == "model":
        _check_model(draft, key, entry)


def _check_pattern(draft: Draft, key: str, pattern: Any) -> None:
    if pattern is None:
        if draft.is_clean(f"{key}.pattern"):
            draft.add(key, f"{key}: the rule regex needs pattern")
        return
    try:
        re.compile(pattern)
    except re.error as error:
        message = f"{key}.pattern: saw {brief(pattern)}, which is no regular expression ({error})"
        draft.add(f"{key}.pattern", message)


def _check_model(draft: Draft, key: str, entry: dict[str, Any]) -> None:
    """The recipe's own reward model, or a checkpoint; a folder becomes absolute."""
    model = entry.get("model")
    if model is None:
        if not draft.has("reward") and draft.is_clean(f"{key}.model"):
            draft.add(
                key, f"{key}: this recipe has no reward stage; accepted: one, or model: a folder or hub id"
            )
        return
    check_checkpoint(draft, f"{key}.model", [], within=entry)
    folder = Path(entry["model"])
    if folder.is_dir() and not (folder / "config.json").is_file():
        draft.add(
            f"{key}.model", f"{key}.model: {folder} has no config.json; a checkpoint folder is accepted"
        )


def _warn_of_dev_rows(draft: Draft) -> None:
    """Two stages that hold out different numbers of one source's rows train on what the other holds out."""
    held: dict[str, tuple[str, int | None]] = {}
    for stage in TRAINED_STAGES:
        values = draft.section(stage)
        for source, entry in draft.section(f"{stage}.mix").items():
            own = entry.get("dev_rows") if isinstance(entry, dict) else None
            rows = own if own is not None else values.get("dev_rows")
            other, others = held.setdefault(source, (stage, rows))
            if rows != others and rows is not None and others is not None:
                key = f"{stage}.mix.{source}"
                message = f"{key}: {stage} holds out {rows} rows and {other} {others}; the one with fewer"
                draft.warn(key, f"{message} trains on rows that the other evaluates on")
