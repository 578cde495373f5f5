"""LoRA through peft: attached for a stage, switched off to be the reference, merged when the stage ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import PreTrainedModel

from tuning.model.loading import ModelError


def attach_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: list[str] | str = "all-linear",
    seed: int = 0,
    start_from: str | Path | None = None,
    task_type: str = "CAUSAL_LM",
) -> PeftModel:
    """The model with a trainable adapter and everything else frozen.

    `targets` are module names, or `all-linear` for every linear layer but the vocabulary projection. A fresh
    adapter changes nothing yet (its B matrices are zero); `start_from` takes up a saved one instead. Adapter
    weights are kept in float32 whatever the model's dtype. With the `task_type` SEQ_CLS the head that scores
    is trained in full beside it.
    """
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if start_from is not None:
        return PeftModel.from_pretrained(model, str(start_from), is_trainable=True)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=targets,
        task_type=task_type,
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)  # type: ignore[return-value,arg-type]
        except ValueError as error:
            names = sorted(
                {
                    name.rsplit(".", 1)[-1]
                    for name, part in model.named_modules()
                    if isinstance(part, nn.Linear)
                }
            )
            raise ModelError(
                f"lora.targets: {targets} matched no layer; linear layers here: {', '.join(names)}"
            ) from error


@contextmanager
def reference_of(model: nn.Module) -> Iterator[None]:
    """Within it, `model` computes as the reference: the adapter is off, if there is one."""
    adapted = adapter_of(model)
    if adapted is None:
        yield
        return
    with adapted.disable_adapter():
        yield


def adapter_of(model: nn.Module) -> PeftModel | None:
    """The adapted model inside `model`, wrapped as it may be; None without an adapter."""
    return next((part for part in model.modules() if isinstance(part, PeftModel)), None)


def merge(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapter folded into its weights."""
    return model.merge_and_unload(safe_merge=True)  # type: ignore[operator,no-any-return]


def disable_dropout(model: nn.Module) -> None:
    """Sets every dropout to zero: a preference loss compares two passes that must differ in weights alone."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "attn_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
