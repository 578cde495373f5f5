"""A conversation with a chat model: streamed, over several turns, in the template that the model carries."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import TextStreamer, set_seed

from tuning.chat import ChatError, encode_prompt, load_template
from tuning.model.loading import load_model, load_tokenizer

HELP = "empty line or Ctrl-D ends, /new starts over"


def talk(
    model: str,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Reads questions from standard input and streams answers to standard output.

    Each prompt is rendered with the model's own template and encoded as in training, so special tokens typed
    by the user stay text. Raises `ChatError` for a model without a template.
    """
    tokenizer = load_tokenizer(model)
    template = load_template("base", tokenizer=tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    lm: Any = load_model(model, dtype=dtype, for_training=False)
    lm.to(device).eval()
    set_seed(seed)
    opening = [{"role": "system", "content": system}] if system else []
    messages: list[dict[str, Any]] = list(opening)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(f"{model} ({HELP})")
    while (question := _question(is_terminal)) is not None:
        if question == "/new":
            messages = list(opening)
            continue
        messages.append({"role": "user", "content": question})
        try:
            prompt = encode_prompt(messages, tokenizer, template)
        except ChatError as error:
            print(error, file=sys.stderr)
            messages.pop()
            continue
        limit = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
        room = max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt))
        if room < 1:
            message = f"the conversation has {len(prompt)} tokens, the model takes {limit}; /new starts over"
            print(message, file=sys.stderr)
            messages.pop()
            continue
        ids = torch.from_numpy(prompt).to(torch.int64)[None].to(device)
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        samples = temperature > 0
        sampling = {"do_sample": True, "temperature": temperature} if samples else {"do_sample": False}
        output = lm.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
            **sampling,
        )
        new = output[0, ids.shape[1] :].tolist()
        answer = tokenizer.decode([token for token in new if token != tokenizer.eos_token_id])
        messages.append({"role": "assistant", "content": str(answer).strip()})


def _question(is_terminal: bool) -> str | None:
    """The next line, or None at the end."""
    try:
        question = input("> " if is_terminal else "").strip()
    except EOFError:
        return None
    return question or None
