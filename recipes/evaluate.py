"""Evaluation: the same questions to every model of the run, before and after each stage.

Held-out loss, held-out preference accuracy, taught questions answered exactly, answers that stop by
themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from tuning.chat import encode_prompt
from tuning.config import Recipe
from tuning.evaluate.answers import exact_share, greedy_answers
from tuning.mixture import Mixture, built_rows
from tuning.model.head import TargetModel
from tuning.model.loading import compute_dtype, load_model
from tuning.records import write_json
from tuning.schema import Conversation, Message
from tuning.shares import split
from tuning.stage import Paths, open_mixture, open_tokenizer, shares, takes_pairs
from tuning.train.held_out import held_out_loss, held_out_preferences
from tuning.train.steps import Division

BUDGET = 8192
"""Tokens of one evaluation row."""


def evaluate(recipe: Recipe, paths: Paths, models: Mapping[str, str]) -> dict[str, Any]:
    """Figures per model (`models`: stage -> folder), also written to `evaluation.json`."""
    config = recipe.evaluate
    assert config is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, template = open_tokenizer(recipe, paths.start)

    mixtures: dict[str, Mixture] = {
        stage: open_mixture(recipe, getattr(recipe, stage), paths, tokenizer, template, stage=stage)
        for stage in ("sft", "dpo")
        if getattr(recipe, stage) is not None
    }
    taught = [
        (row.messages[:-1], row.messages[-1].content)
        for source in config.questions
        for row in built_rows(paths.datasets[source], preference=False, stage="evaluate")
        if isinstance(row, Conversation) and len([m for m in row.messages if m.role == "assistant"]) == 1
    ]
    asked = [messages for messages, _ in taught] + held_out_prompts(recipe, paths, config.answers)
    prompts = [encode_prompt(messages, tokenizer, template) for messages in asked]

    figures: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for stage, folder in models.items():
        print(f"evaluate {stage}: {folder}", file=sys.stderr, flush=True)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model: Any = load_model(folder, dtype=dtype, trust_remote_code=recipe.trust_remote_code)
        model.to(device).eval()
        scorer, values = TargetModel(model), dict[str, Any]()
        if "sft" in mixtures and mixtures["sft"].dev:
            values |= held_out_loss(scorer, mixtures["sft"].dev, Division(BUDGET), device=device)
        if "dpo" in mixtures and (pairs := mixtures["dpo"].dev_pairs):
            values |= held_out_preferences(
                scorer, pairs, Division(BUDGET), end_token=tokenizer.eos_token_id, device=device
            )
        if prompts:
            model.set_attn_implementation("sdpa")
            answers = greedy_answers(model, tokenizer, prompts, max_new_tokens=config.max_new_tokens)
            if taught:
                values["taught_exact"] = exact_share(answers[: len(taught)], [answer for _, answer in taught])
                values["questions"] = len(taught)
            values["stops"] = sum(answer.stopped for answer in answers) / len(answers)
            values["answers"] = len(answers)
            samples[stage] = [
                {"question": messages[-1].content, "answer": answer.text, "stopped": answer.stopped}
                for messages, answer in zip(asked, answers, strict=True)
            ]
        figures[stage] = values
    write_json(paths.folder / "evaluation.json", {"figures": figures, "answers": samples})
    return {"figures": figures, "precision": str(compute_dtype(recipe.precision))}


def held_out_prompts(recipe: Recipe, paths: Paths, limit: int) -> list[tuple[Message, ...]]:
    """Prompts of held-out rows, the same number from each source, at most `limit`."""
    by_source: list[list[tuple[Message, ...]]] = []
    for stage in ("sft", "dpo"):
        config = getattr(recipe, stage)
        for name, share in (shares(config) if config else {}).items():
            rows = built_rows(paths.datasets[name], preference=takes_pairs(recipe, stage), stage=stage)
            dev = split(rows, share, recipe.seed, name).dev
            by_source.append(
                [row.messages[:-1] if isinstance(row, Conversation) else row.prompt for row in dev]
            )
    turns = max((len(prompts) for prompts in by_source), default=0)
    spread = [prompts[turn] for turn in range(turns) for prompts in by_source if turn < len(prompts)]
    return spread[:limit]
