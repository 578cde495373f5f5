"""`base: tiny`: a small Llama and its tokenizer, pretrained for a moment on the training rows' text.

It stands in for a real base checkpoint where there is none: it has seen the words but never learnt to answer
or to stop. No held-out row of any stage is among its text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuning.config import Recipe
from tuning.forest import Sequence
from tuning.model.head import TargetModel
from tuning.model.loading import compute_dtype, save_model, use_forest_attention
from tuning.model.tiny import tiny_llama
from tuning.stage import Paths, tiny_tokenizer, training_texts
from tuning.train.session import Session, training_arguments
from tuning.train.step_objectives import imitation
from tuning.train.steps import Example, Order, Schedule
from tuning.train.trainer import ChatTrainer


def train(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """Writes `model/` with the tokenizer; returns what the record keeps."""
    config = recipe.tiny
    assert config is not None

    texts = training_texts(recipe, paths)
    tokenizer = tiny_tokenizer(recipe, texts)
    model = tiny_llama(
        tokenizer,
        hidden_size=config.hidden_size,
        layers=config.layers,
        heads=config.heads,
        key_value_heads=config.key_value_heads,
        seed=recipe.seed,
    )
    use_forest_attention(model)

    examples = [_example(text, number, tokenizer) for number, text in enumerate(texts)]
    order = Order({"text": [[example] for example in examples]}, {"text": 1.0}, recipe.seed)
    session = Session(
        name="base",
        folder=paths.folder,
        schedule=Schedule(
            order, config.batch_rows, round(config.pretrain_epochs * len(examples)), is_preference=False
        ),
        tokens_per_device=8192,
        learning_rate=config.learning_rate,
        warmup_steps=4,
        log_steps=10,
    )
    arguments = training_arguments(
        paths.folder,
        precision=compute_dtype(recipe.precision),
        num_steps=session.schedule.num_steps,
        settings={"seed": recipe.seed, "learning_rate": config.learning_rate},
    )
    if session.schedule.num_steps:
        ChatTrainer(TargetModel(model), arguments, session, imitation).run()

    save_model(model, tokenizer, paths.folder / "model")
    return {
        "texts": len(texts),
        "vocab_size": len(tokenizer),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": session.schedule.num_steps,
    }


def _example(text: str, number: int, tokenizer: Any) -> Example:
    ids = np.asarray(
        [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]], dtype=np.int32
    )
    ids = ids[:1024]
    name = f"text-{number:05d}"
    return Example(name, "text", name, (Sequence(ids, np.arange(len(ids)) > 0),))
