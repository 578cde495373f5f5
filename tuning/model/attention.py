"""Attention over packed trees, registered with transformers so that stock model classes run it.

`AttentionInterface` looks the name up in every layer, and since no mask function is registered under it,
transformers builds no mask: the layout, passed as a keyword through the model, says what each query sees. On
CUDA one call of `torch.nn.attention.varlen.varlen_attn` computes all runs; elsewhere each run is one call of
scaled-dot-product attention. Both read the same `Layout`; `forest.mask.dense_mask` is the twin that tests
compare them with.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from tuning.forest.batch import Layout

NAME = "tuning_forest"


def register() -> str:
    """Makes the attention known to transformers and returns its name."""
    AttentionInterface.register(NAME, forest_attention)
    return NAME


def forest_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention output, (1, tokens, heads, head_dim), for query (1, heads, tokens, head_dim) and fewer key
    heads.

    Raises `ValueError` when called without a layout: a plain `model(input_ids)` must use another
    implementation.
    """
    if layout is None:
        raise ValueError(f"attention {NAME!r} needs `layout`; call the model through `TargetModel`")
    if attention_mask is not None:
        raise ValueError(f"attention {NAME!r} reads visibility from `layout` and takes no mask")
    if query.is_cuda:
        return _varlen(query, key, value, scaling, dropout, layout), None
    return _by_run(query, key, value, scaling, dropout, layout), None


def _by_run(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, layout: Layout
) -> Tensor:
    if layout.key_index is not None:
        key, value = key.index_select(2, layout.key_index), value.index_select(2, layout.key_index)
    enable_gqa = query.shape[1] != key.shape[1]
    # Split rather than sliced: the gradients of slices are added up as one whole row of zeros for each.
    num_queries_of, num_keys_of = zip(
        *((stop - start, last - first) for start, stop, first, last in layout.bounds), strict=True
    )
    queries, keys, values = (
        query.split(num_queries_of, dim=2),
        key.split(num_keys_of, dim=2),
        value.split(num_keys_of, dim=2),
    )
    outputs = []
    for queries_of_run, keys_of_run, values_of_run in zip(queries, keys, values, strict=True):
        num_queries, num_keys = queries_of_run.shape[2], keys_of_run.shape[2]
        # Aligned at the end: the last query of a run sees all its keys. SDPA's own `is_causal` aligns at the
        # start.
        mask = None
        if num_keys != num_queries:
            ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device)
            mask = ones.tril(diagonal=num_keys - num_queries)
        outputs.append(
            functional.scaled_dot_product_attention(
                queries_of_run,
                keys_of_run,
                values_of_run,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=enable_gqa,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, layout: Layout
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise ValueError(
            "attention dropout is not supported on packed trees; set the model's attention dropout to 0"
        )
    query, key, value = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    if layout.key_index is not None:
        key, value = key.index_select(0, layout.key_index), value.index_select(0, layout.key_index)
    if torch.is_autocast_enabled("cuda"):
        # Rotary embedding multiplies by float32 cosines, which promotes queries and keys again.
        query, key, value = (states.to(torch.get_autocast_dtype("cuda")) for states in (query, key, value))
    options = dict(_causal_options())
    if query.shape[1] != key.shape[1]:
        if _takes_gqa():
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    dtype = query.dtype
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"packed attention on CUDA computes in bf16, saw {dtype}; set precision: bf16")
    output: Any = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        layout.cu_q,
        layout.cu_k,
        layout.max_q,
        layout.max_k,
        scale=scaling,
        **options,
    )
    return output[None]


@cache
def _causal_options() -> tuple[tuple[str, Any], ...]:
    """How this torch spells causal: `is_causal` in 2.10, `window_size` from 2.11."""
    from torch.nn.attention.varlen import varlen_attn

    if "window_size" in inspect.signature(varlen_attn).parameters:
        return (("window_size", (-1, 0)),)
    return (("is_causal", True),)


@cache
def _takes_gqa() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
