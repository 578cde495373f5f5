"""Reward models: a language model whose head gives one number for a sequence, read at its last token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from tuning.model.loading import ModelError, first_line


def new_reward_model(
    folder_or_hub_id: str, *, pad_token_id: int, seed: int, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A checkpoint's model with a fresh head of one number, in float32; the same seed draws the same head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _load(folder_or_hub_id, torch.float32, trust_remote_code)
    # The number is read at the last token that is not padding.
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = pad_token_id
    return model


def load_reward_model(
    folder_or_hub_id: str,
    *,
    pad_token_id: int,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A trained reward model; `pad_token_id` is what it is padded with if it does not say.

    Raises `ModelError` for a checkpoint without a head of one number, whose scores would be those of a random
    one.
    """
    config = _config(folder_or_hub_id, trust_remote_code)
    names = [str(name) for name in getattr(config, "architectures", None) or []]
    if not any(name.endswith("ForSequenceClassification") for name in names) or config.num_labels != 1:
        seen = f"{', '.join(names) or 'no architecture'} with {config.num_labels} labels"
        accepted = "a sequence classification model with one label, as the reward stage makes it"
        raise ModelError(f"{folder_or_hub_id}: no reward model: saw {seen}; accepted: {accepted}")
    model = _load(folder_or_hub_id, dtype, trust_remote_code)
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = pad_token_id
    return model


@torch.no_grad()
def scores(model: Any, sequences: Sequence[Any], *, batch_size: int = 16) -> Tensor:
    """float64, (sequences,), on the CPU: the model's number for each sequence of ids, whatever it is batched
    with.

    Sequences of like length are computed together, padded on the right.
    """
    pad = model.config.get_text_config().pad_token_id
    found = torch.zeros(len(sequences), dtype=torch.float64)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = torch.full((len(batch), len(sequences[batch[-1]])), pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            tokens = torch.tensor(sequences[index], dtype=torch.int64)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        device = next(model.parameters()).device
        output = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        found[batch] = output.logits[:, 0].to("cpu", torch.float64)
    return found


def _config(folder_or_hub_id: str, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(folder_or_hub_id, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no model could be loaded from {folder_or_hub_id}: {first_line(error)}") from error


def _load(folder_or_hub_id: str, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    folder = Path(folder_or_hub_id)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder_or_hub_id}: no *.safetensors here; pickled weights are not loaded")
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            folder_or_hub_id,
            num_labels=1,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no model could be loaded from {folder_or_hub_id}: {first_line(error)}") from error
