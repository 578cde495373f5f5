"""The visibility rule as a dense mask: the definition, and the slow exact twin of `batch.Layout`."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_mask(subtree_end: Tensor) -> Tensor:
    """Whether query q sees key k: `k <= q < subtree_end[k]`. bool, (tokens, tokens), rows are queries."""
    position = torch.arange(len(subtree_end), device=subtree_end.device)
    query, key = position[:, None], position[None, :]
    return (key <= query) & (query < subtree_end[None, :])
