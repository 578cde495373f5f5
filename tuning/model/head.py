"""Log-probs of targets from a batch of packed trees, without a (tokens, vocab) tensor.

    hidden (tokens, hidden) --gather at target_position--> (targets, hidden) --chunks--> logits --> log
    p(target)

Only targets reach the vocabulary projection, a chunk of them at a time; what survives a chunk is one number
per target. `target_log_probs` recomputes the chunk's logits in the backward pass, since a preference loss
knows its coefficients only when the whole pair is summed. `weighted_nll` knows them beforehand (they are the
target weights), so it forms the gradient in the forward pass and never projects twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuning.forest.batch import ForestBatch

CHUNK_ELEMENTS = 1 << 25
"""Logits held at a time: 32 Mi elements, 128 MiB in float32."""


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
    hidden)."""
    hidden = _in_compute_dtype(hidden)
    return _TargetLogProbs.apply(hidden, head, token, chunk or _chunk_size(head))  # type: ignore[no-any-return]


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


def _in_compute_dtype(hidden: Tensor) -> Tensor:
    if torch.is_autocast_enabled(hidden.device.type):
        return hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return hidden


def _chunk_size(head: Tensor) -> int:
    return max(16, CHUNK_ELEMENTS // head.shape[0])


def _accumulation_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _log_softmax_parts(hidden: Tensor, head: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in the accumulation dtype, their logsumexp and log p(token) of one chunk."""
    logits = (hidden @ head.T).to(_accumulation_dtype(hidden))
    normaliser = logits.logsumexp(dim=1)
    return logits, normaliser, logits.gather(1, token[:, None])[:, 0] - normaliser


class _TargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, token: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(hidden, head, token)
        ctx.chunk = chunk
        log_probs = hidden.new_empty(len(token), dtype=_accumulation_dtype(hidden))
        with torch.autocast(hidden.device.type, enabled=False):
            projection = head.to(hidden.dtype)
            for start in range(0, len(token), chunk):
                part = slice(start, start + chunk)
                log_probs[part] = _log_softmax_parts(hidden[part], projection, token[part])[2]
        return log_probs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        hidden, head, token = ctx.saved_tensors
        needs_head = ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head, dtype=_accumulation_dtype(hidden)) if needs_head else None
        with torch.autocast(hidden.device.type, enabled=False):
            projection = head.to(hidden.dtype)
            for start in range(0, len(token), ctx.chunk):
                part = slice(start, start + ctx.chunk)
                logits, normaliser, _ = _log_softmax_parts(hidden[part], projection, token[part])
                _log_prob_gradient(logits, normaliser, token[part], grad[part])
                _project_back(logits, hidden[part], projection, grad_hidden[part], grad_head)
        return grad_hidden, None if grad_head is None else grad_head.to(head.dtype), None, None


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, token: Tensor, weight: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        dtype = _accumulation_dtype(hidden)
        weight = weight.to(dtype)
        log_probs = hidden.new_empty(len(token), dtype=dtype)
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head, dtype=dtype) if needs_head else None
        with torch.autocast(hidden.device.type, enabled=False):
            projection = head.to(hidden.dtype)
            for start in range(0, len(token), chunk):
                part = slice(start, start + chunk)
                logits, normaliser, log_probs[part] = _log_softmax_parts(
                    hidden[part], projection, token[part]
                )
                if needs_hidden or needs_head:
                    _log_prob_gradient(logits, normaliser, token[part], -weight[part])
                    piece = None if grad_hidden is None else grad_hidden[part]
                    _project_back(logits, hidden[part], projection, piece, grad_head)
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


def _log_prob_gradient(logits: Tensor, normaliser: Tensor, token: Tensor, grad: Tensor) -> None:
    """Turns logits, in place, into the gradient of sum(grad * log p(token)): grad * (onehot - softmax)."""
    logits.sub_(normaliser[:, None]).exp_().mul_(-grad[:, None])
    logits.scatter_add_(1, token[:, None], grad[:, None].to(logits.dtype))


def _project_back(
    grad_logits: Tensor, hidden: Tensor, head: Tensor, grad_hidden: Tensor | None, grad_head: Tensor | None
) -> None:
    grad_logits = grad_logits.to(hidden.dtype)
    if grad_hidden is not None:
        torch.mm(grad_logits, head, out=grad_hidden)
    if grad_head is not None:
        grad_head += (grad_logits.T @ hidden).to(grad_head.dtype)
