"""Checkpoints in, checkpoints out: safetensors only, no remote code unless the recipe says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tuning.model import attention

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy")


class ModelError(ValueError):
    """A checkpoint or tokenizer that cannot be used, with the reason."""


def load_tokenizer(folder_or_hub_id: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or hub id. A slow one is refused: encoding needs character offsets."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_hub_id, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"no tokenizer could be loaded from {folder_or_hub_id}: {first_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{folder_or_hub_id}: a fast tokenizer (tokenizer.json) is needed for character offsets"
        )
    return tokenizer


def load_model(
    folder_or_hub_id: str,
    *,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    quantize: str | None = None,
    for_training: bool = True,
) -> PreTrainedModel:
    """The causal language model of a folder or hub id, its attention replaced for packed trees if
    `for_training`.

    Raises `ModelError` for a checkpoint that holds only pickled weights, or whose class cannot run packed
    trees.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        found = (
            f"; {', '.join(pickles[:3])} would need unpickling, convert it to safetensors" if pickles else ""
        )
        raise ModelError(f"{folder_or_hub_id}: no *.safetensors here{found}")
    try:
        config = AutoConfig.from_pretrained(folder_or_hub_id, trust_remote_code=trust_remote_code)
        options: dict[str, Any] = {"quantization_config": quantization(quantize, dtype)} if quantize else {}
        model = AutoModelForCausalLM.from_pretrained(
            folder_or_hub_id,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no model could be loaded from {folder_or_hub_id}: {first_line(error)}") from error
    if for_training:
        use_forest_attention(model)
    return model  # type: ignore[no-any-return]


def use_forest_attention(model: PreTrainedModel) -> None:
    """Switches a model to packed trees; refuses a class whose output would not be the plain projection of its
    state."""
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ModelError(
                f"{type(model).__name__}: logits are rescaled ({name}), which the head does not support yet"
            )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise ModelError(
            f"{type(model).__name__}: sliding-window attention is not supported on packed trees yet"
        )
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(f"{type(model).__name__}: a vocabulary projection without bias is needed")
    model.set_attn_implementation(attention.register())


def quantization(kind: str, dtype: torch.dtype) -> Any:
    """The bitsandbytes settings of QLoRA: NF4 weights with double quantization, computing in `dtype`."""
    from transformers import BitsAndBytesConfig

    if kind != "nf4":
        raise ModelError(f"quantize: {kind} is not known; accepted: nf4")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes a folder that transformers, vLLM and the llama.cpp converters load, template included.

    Of several processes with the same weights the first one writes.
    """
    if not is_first_process():
        return
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    refuse_pickles(folder)


def is_first_process() -> bool:
    """Whether this process writes what all processes of a launch hold alike."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def refuse_pickles(folder: str | Path) -> None:
    """Raises when a folder that we release holds a file that must be unpickled to be read."""
    found = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix in PICKLE_SUFFIXES)
    if found:
        raise ModelError(f"{folder}: holds pickled files ({', '.join(found)}); nothing that we write may")


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype behind the recipe's `precision`: auto is bf16 on CUDA and float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for one-line errors."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
