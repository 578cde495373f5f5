"""Release: the last model becomes a folder that transformers, vLLM and llama.cpp converters load, with its
card.

The folder is built beside its final name, loaded and made to answer in a clean process, and only then
renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from tuning.card import model_card
from tuning.chat import ChatError, encode
from tuning.config import CHAT_STAGES, Recipe
from tuning.mixture import built_rows
from tuning.model.loading import load_model, refuse_pickles, save_model
from tuning.records import write_text
from tuning.release import check_in_clean_process
from tuning.schema import Conversation, dicts
from tuning.stage import Paths, open_tokenizer


def release(
    recipe: Recipe,
    paths: Paths,
    *,
    records: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, Mapping[str, Any]],
    terms: Mapping[str, Any],
    recipe_yaml: str,
) -> dict[str, Any]:
    """Writes the released folder from the model in `paths.start`; returns what the clean process saw."""
    config = recipe.release
    assert config is not None
    tokenizer, template = open_tokenizer(recipe, paths.start)

    draft = paths.folder / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    dtype: Any = {"auto": "auto", "bfloat16": torch.bfloat16, "float32": torch.float32}[config.dtype]
    model = load_model(
        paths.start, dtype=dtype, trust_remote_code=recipe.trust_remote_code, for_training=False
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(model, tokenizer, draft)

    served, question = _conversations(recipe, paths, tokenizer, template)
    limit = recipe.evaluate.max_new_tokens if recipe.evaluate else 64
    seen = check_in_clean_process(draft, served, question, limit)

    seen_languages = {language for manifest in manifests.values() for language in manifest["languages"]}
    languages = sorted(seen_languages - {"unknown"})
    card = model_card(
        name=recipe.name,
        base=recipe.base,
        terms=terms,
        languages=config.language or languages,
        use=recipe.use,
        manifests=manifests,
        stages={stage: records[stage] for stage in CHAT_STAGES if stage in records},
        recipe_yaml=recipe_yaml,
        figures=records.get("evaluate", {}).get("figures", {}),
        template=recipe.template,
        example={"question": question, "answer": seen["answer"]},
    )
    write_text(draft / "README.md", card)
    refuse_pickles(draft)
    for file in sorted(draft.iterdir()):
        os.replace(file, paths.folder / file.name)
    draft.rmdir()
    return {"clean_process": seen, "question": question, "terms": terms}


def _conversations(recipe: Recipe, paths: Paths, tokenizer: Any, template: Any) -> tuple[list[Any], str]:
    """Conversations with their training ids for the clean process to render, and a question for it to ask."""
    served: list[Any] = []
    question = "こんにちは。自己紹介をしてください。"
    if recipe.sft is None:
        return served, question
    sources = list(recipe.sft.mix)
    if recipe.evaluate and recipe.evaluate.questions:
        sources = [
            *recipe.evaluate.questions,
            *(name for name in sources if name not in recipe.evaluate.questions),
        ]
    for name in sources:
        for row in built_rows(paths.datasets[name], preference=False, stage="release")[:20]:
            assert isinstance(row, Conversation)
            if any(message.input for message in row.messages):
                continue
            try:
                sequences = encode(row.messages, tokenizer, template)
            except ChatError:
                continue
            if len(sequences) == 1 and not sequences[0].counts.get("literal_special_token"):
                served.append(
                    (
                        [{"role": m["role"], "content": m["content"]} for m in dicts(row.messages)],
                        sequences[0].input_ids.tolist(),
                    )
                )
    first = served[0][0] if served else []
    if first:
        question = next(message["content"] for message in first if message["role"] == "user")
    return served, question
