"""The reference beside the policy: its log-probs computed anew in every micro-row, if no store is wanted."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tuning.forest.batch import ForestBatch
from tuning.model.adapters import adapter_of, reference_of


class LiveReference:
    """The policy with its adapter off, or else a frozen copy of it as it is now."""

    def __init__(self, policy: nn.Module) -> None:
        is_plain = adapter_of(policy) is None
        self._frozen = copy.deepcopy(policy).requires_grad_(False).eval() if is_plain else None

    @torch.no_grad()
    def __call__(self, policy: nn.Module, forest: ForestBatch) -> Tensor:
        """Log-probs of the targets, (targets,), in the very rows that the policy sees."""
        if self._frozen is not None:
            frozen: Tensor = self._frozen.to(forest.input_ids.device)(forest)[1]
            return frozen
        with reference_of(policy):
            without_adapter: Tensor = policy(forest)[1]
        return without_adapter
