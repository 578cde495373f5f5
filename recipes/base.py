"""`base: tiny`: a small Llama and its tokenizer, pretrained for a moment on the training rows' text.

It stands in for a real base checkpoint where there is none: it has seen the words but never learnt to answer or to
stop. No held-out row of any stage is among its text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from tuning.chat import load_template
from tuning.config import Recipe
from tuning.forest import Sequence
from tuning.mixture import split
from tuning.model.head import TargetModel
from tuning.model.loading import compute_dtype, load_tokenizer, save_model, use_forest_attention
from tuning.model.tiny import tiny_llama, train_tokenizer
from tuning.schema import Conversation, Message, Row
from tuning.stage import Paths, rows_by_stage, shares
from tuning.train.steps import Example, Order, Schedule
from tuning.train.trainer import ChatTrainer, Session, imitation, training_arguments


def train(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """Writes `model/` with the tokenizer; returns what the record keeps."""
    config = recipe.tiny
    assert config is not None

    rows = [
        row
        for stage, sources in rows_by_stage(recipe, paths).items()
        for name, rows in sources.items()
        for row in split(rows, shares(getattr(recipe, stage))[name], recipe.seed, name).train
    ]
    texts = list(dict.fromkeys(text for row in rows for text in documents(row)))
    if recipe.tokenizer:
        tokenizer = load_tokenizer(recipe.tokenizer, trust_remote_code=recipe.trust_remote_code)
    else:
        headers = rendered_headers(load_template(recipe.template).source)
        tokenizer = train_tokenizer([*texts, *[headers] * 50], config.vocab_size)

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
        schedule=Schedule(order, config.batch_rows, round(config.pretrain_epochs * len(examples)), is_preference=False),
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


def documents(row: Row) -> list[str]:
    """The texts of a row as a base model would meet them: question and answer as lines, without any template."""
    if isinstance(row, Conversation):
        return [_text(row.messages)]
    return [_text(row.prompt + row.chosen), _text(row.prompt + row.rejected)]


def rendered_headers(template: str) -> str:
    """What the template writes around messages, so that the tokenizer has pieces for it."""
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    rendered, _ = render_jinja_template(conversations=[messages], chat_template=template, bos_token="", eos_token="")
    return str(rendered[0])


def _text(messages: tuple[Message, ...]) -> str:
    parts = [part for message in messages for part in (message.input, message.content) if part]
    return "\n".join(parts)


def _example(text: str, number: int, tokenizer: Any) -> Example:
    ids = np.asarray([tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]], dtype=np.int32)
    ids = ids[:1024]
    name = f"text-{number:05d}"
    return Example(name, "text", name, (Sequence(ids, np.arange(len(ids)) > 0),))
