"""Log-probs of targets from a batch of packed trees, without a (tokens, vocab) tensor.

    hidden (tokens, hidden) --gather at target_position--> (targets, hidden) --tiles--> logits --> log
    p(target)

Only targets reach the vocabulary projection, a tile of logits at a time; what survives a tile is a number or
two per target. `target_log_probs` recomputes the logits in the backward pass, since a preference loss
knows its coefficients only when the whole pair is summed. `weighted_nll` knows them beforehand (they are the
target weights), so it forms the gradient in the forward pass and never projects twice.

A gradient of logits is `coefficient * (onehot - softmax)`, row by row. The coefficient is never multiplied
into a tile: it scales the row of hidden states that the tile is multiplied with, or the row that comes out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuning.forest.batch import ForestBatch

CHUNK_ELEMENTS = 1 << 25
"""Logits held at a time: 32 Mi elements, 128 MiB in float32."""
CPU_TILE_ELEMENTS = 1 << 20
"""The same on a CPU, where a tile that stays in the cache is exponentiated several times faster."""
CPU_TILE_ROWS = 2048
"""Targets of such a tile: so many that its matrix products run at full speed."""


class TargetModel(nn.Module):
    """A causal language model whose forward is batch -> log-probs of the batch's targets.

    One module whose forward is the whole computation is what gets wrapped, sharded and checkpointed by DDP,
    FSDP and DeepSpeed. The language model itself is at `.lm`.
    """

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self, batch: ForestBatch, *, as_nll: bool = False, with_collisions: bool = False
    ) -> tuple[Tensor, ...]:
        """(loss, log_probs): log_probs are float32 (float64 for a float64 model), (targets,), in nats.

        With `as_nll`, loss is the weighted negative sum of the log-probs and carries the gradient, log_probs
        do not. Otherwise the log-probs carry it, and loss is their plain sum times zero. `with_collisions`
        adds a third: log sum_v p(v)^2 at each target, without gradient.
        """
        base = causal_lm(self.lm)
        output = decoder(base)(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            attention_mask=None,
            use_cache=False,
            layout=batch.layout,
        )
        hidden = output.last_hidden_state[0].index_select(0, batch.target_position)
        weight = base.get_output_embeddings().weight
        if as_nll:
            return weighted_nll(hidden, weight, batch.target_token, batch.target_weight)
        log_probs = target_log_probs(hidden, weight, batch.target_token)
        if with_collisions:
            return log_probs.sum() * 0, log_probs, log_collisions(hidden.detach(), weight.detach())
        return log_probs.sum() * 0, log_probs


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model behind a possible peft wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[return-value,operator]


def decoder(lm: PreTrainedModel) -> nn.Module:
    """The part of a causal language model below its vocabulary projection."""
    return getattr(lm, lm.base_model_prefix)


def target_log_probs(hidden: Tensor, head: Tensor, token: Tensor, chunk: int | None = None) -> Tensor:
    """log softmax(hidden @ head.T)[token], (targets,), for hidden (targets, hidden) and head (vocab,
    hidden). `chunk` is the number of targets in a tile."""
    hidden = _in_compute_dtype(hidden)
    return _TargetLogProbs.apply(hidden, head, token, *tile_shape(len(token), head, chunk))  # type: ignore[no-any-return]


@torch.no_grad()
def log_collisions(hidden: Tensor, head: Tensor, chunk: int | None = None) -> Tensor:
    """log sum_v p(v)^2 of p = softmax(hidden @ head.T), (targets,): how concentrated each prediction is."""
    hidden = _in_compute_dtype(hidden)
    found = hidden.new_empty(len(hidden), dtype=_accumulation_dtype(hidden))
    size = chunk or _chunk_size(head)
    with torch.autocast(hidden.device.type, enabled=False):
        projection = head.to(hidden.dtype)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = (hidden[part] @ projection.T).to(found.dtype)
            found[part] = (2 * logits).logsumexp(dim=1) - 2 * logits.logsumexp(dim=1)
    return found


def weighted_nll(
    hidden: Tensor, head: Tensor, token: Tensor, weight: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """(-sum(weight * log_probs), log_probs): the sum carries the gradient; log_probs, (targets,), are for
    metrics."""
    hidden = _in_compute_dtype(hidden)
    return _WeightedNLL.apply(hidden, head, token, weight, chunk or _chunk_size(head))  # type: ignore[no-any-return]


def tile_shape(num_targets: int, head: Tensor, chunk: int | None = None) -> tuple[int, int]:
    """(targets, words of the vocabulary) of the tiles that `target_log_probs` computes."""
    if head.device.type != "cpu":
        return chunk or _chunk_size(head), head.shape[0]
    parts = max(1, math.ceil(num_targets / (chunk or CPU_TILE_ROWS)))
    rows = max(1, math.ceil(num_targets / parts))
    return rows, min(head.shape[0], max(64, CPU_TILE_ELEMENTS // rows))


def _in_compute_dtype(hidden: Tensor) -> Tensor:
    if torch.is_autocast_enabled(hidden.device.type):
        return hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return hidden


def _chunk_size(head: Tensor) -> int:
    return max(16, CHUNK_ELEMENTS // head.shape[0])


def _accumulation_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


class _TargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, token: Tensor, rows: int, columns: int) -> Tensor:
        dtype = _accumulation_dtype(hidden)
        target_logit = hidden.new_zeros(len(token), dtype=dtype)
        normaliser = hidden.new_empty(len(token), dtype=dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            projection = head.to(hidden.dtype)
            for part in _slices(len(token), rows):
                softmax = _OnlineSoftmax(target_logit[part])
                for words in _slices(len(head), columns):
                    logits = (hidden[part] @ projection[words].T).to(dtype)
                    softmax.fold(logits, token[part] - words.start)
                normaliser[part] = softmax.maximum + softmax.total.log()
        ctx.save_for_backward(hidden, head, token, normaliser)
        ctx.tile = rows, columns
        return target_logit - normaliser

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:  # type: ignore[override]
        hidden, head, token, normaliser = ctx.saved_tensors
        dtype = _accumulation_dtype(hidden)
        scale = -grad.to(dtype)[:, None]
        rows, columns = ctx.tile
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.empty_like(head, dtype=dtype) if ctx.needs_input_grad[1] else None
        if grad_head is not None and not len(token):
            grad_head.zero_()
        with torch.autocast(hidden.device.type, enabled=False):
            projection = head.to(hidden.dtype)
            for part in _slices(len(token), rows):
                scaled = (scale[part] * hidden[part]).to(hidden.dtype)
                back = torch.empty_like(hidden[part], dtype=dtype)
                for words in _slices(len(head), columns):
                    logits = (hidden[part] @ projection[words].T).to(dtype)
                    logits.sub_(normaliser[part, None]).exp_()
                    _subtract_at(logits, token[part] - words.start, 1.0)
                    logits = logits.to(hidden.dtype)
                    _add_product(back, logits, projection[words], is_first=words.start == 0)
                    if grad_head is not None:
                        _add_product(grad_head[words], logits.T, scaled, is_first=part.start == 0)
                grad_hidden[part] = back.mul_(scale[part])
        return grad_hidden, None if grad_head is None else grad_head.to(head.dtype), None, None, None


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, token: Tensor, weight: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        dtype = _accumulation_dtype(hidden)
        weight = weight.to(dtype)
        log_probs = hidden.new_zeros(len(token), dtype=dtype)
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head, dtype=dtype) if needs_head else None
        with torch.autocast(hidden.device.type, enabled=False):
            projection = head.to(hidden.dtype)
            for part in _slices(len(token), chunk):
                logits = (hidden[part] @ projection.T).to(dtype)
                softmax = _OnlineSoftmax(log_probs[part])
                softmax.fold(logits, token[part])  # logits are now the softmax times its total
                log_probs[part] -= softmax.maximum + softmax.total.log()
                _subtract_at(logits, token[part], softmax.total)
                scale = (weight[part] / softmax.total)[:, None]
                logits = logits.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = scale * (logits @ projection)
                if grad_head is not None:
                    _add_product(grad_head, logits.T, (scale * hidden[part]).to(hidden.dtype))
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(log_probs)
        return -(weight * log_probs).sum(), log_probs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # type: ignore[override]
        grad_hidden, grad_head = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad.to(grad_hidden.dtype)
        if grad_head is not None:
            grad_head = (grad_head * grad).to(ctx.head_dtype)
        return grad_hidden, grad_head, None, None, None


class _OnlineSoftmax:
    """What is kept of rows of logits that are seen a few columns at a time (Milakov and Gimelshein 2018,
    arXiv:1805.02867): their maximum, the total of `exp(logit - maximum)`, and the target's logit."""

    def __init__(self, target_logit: Tensor) -> None:
        self.target_logit = target_logit
        """(rows,), zeros at first; written in place"""
        self.maximum = torch.full_like(target_logit, -math.inf)
        self.total = torch.zeros_like(target_logit)

    def fold(self, logits: Tensor, token: Tensor) -> None:
        """Takes up the next columns, in which the target is column `token` if there is such a column. Leaves
        `exp(logits - maximum)` in `logits`."""
        inside, column = _inside(logits, token)
        self.target_logit += torch.where(inside, logits.gather(1, column)[:, 0], 0)
        maximum = torch.maximum(self.maximum, logits.amax(dim=1))
        self.total.mul_((self.maximum - maximum).exp_())
        self.total += logits.sub_(maximum[:, None]).exp_().sum(dim=1)
        self.maximum = maximum


def _inside(logits: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each row's column `token` is among those of `logits`, (rows,), and a column to read, (rows,
    1)."""
    return (token >= 0) & (token < logits.shape[1]), token.clamp(0, logits.shape[1] - 1)[:, None]


def _subtract_at(logits: Tensor, token: Tensor, amount: Tensor | float) -> None:
    """Subtracts `amount` in each row's column `token`, where there is one."""
    inside, column = _inside(logits, token)
    logits.scatter_add_(1, column, (inside.to(logits.dtype) * -amount)[:, None])


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, is_first: bool = False) -> None:
    """`total += left @ right`, or the product itself if it is the first."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if is_first else 1)
    elif is_first:
        total.copy_(left @ right)
    else:
        total += left @ right
