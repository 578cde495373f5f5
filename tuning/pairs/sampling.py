"""How answers are sampled, and a noise that makes each depend on its prompt and number alone.

A token is drawn by adding Gumbel noise to its logits and taking the largest, which samples exactly from their
softmax (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030):

    argmax_t (logit_t / temperature + g_t),   g_t = -log(-log u_t)

Here u_t is a hash of (seed, prompt, answer number, position, t). So an answer is the same in any batch, order
or engine, and after a kill, as far as the engine computes the same logits: float32 on one machine does but
for the last bits, bfloat16 logits change with the shape of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from data_builders.lines import BuilderError
from tuning.chat import Template
from tuning.records import fingerprint


@dataclass(frozen=True)
class Sampling:
    """The defaults draw from the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 for all tokens."""
    max_new_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name, is_right, accepted in (
            ("temperature", self.temperature > 0, "a number above 0 (at 0 all answers would be the same)"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0, at most 1"),
            ("top_k", self.top_k >= 0, "a whole number, 0 for all tokens"),
            ("max_new_tokens", self.max_new_tokens > 0, "a whole number above 0"),
        ):
            if not is_right:
                raise BuilderError(f"{name}: saw {getattr(self, name)}; accepted: {accepted}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """One answer to one prompt: its token ids, or its messages as JSON for a server that renders them."""

    prompt: tuple[int, ...] | str
    number: int
    limit: int
    """Tokens that the answer may have."""

    @property
    def text(self) -> tuple[int, ...] | str:
        """What the schedule sorts by length."""
        return self.prompt

    def seed(self, seed: int) -> int:
        """31 bits for this answer alone."""
        return int(fingerprint([seed, self.prompt, self.number])[:8], 16) & 0x7FFFFFFF


def noise_key(seed: int, position: int) -> int:
    """31 bits for one position of one answer."""
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF


def perturbed(scores: torch.Tensor, keys: torch.Tensor, sampling: Sampling, num_tokens: int) -> torch.Tensor:
    """float32 (rows, vocabulary): the largest of each row is its sampled token.

    `keys` are int32 or int64, (rows,). Rows of padded embeddings, from `num_tokens` on, are never drawn.
    """
    scores = scores.float() / sampling.temperature
    scores[:, num_tokens:] = float("-inf")
    if 0 < sampling.top_k < num_tokens:
        least = torch.topk(scores, sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, float("-inf"))
    if sampling.top_p < 1:
        ordered, places = torch.sort(scores, dim=-1, descending=True)
        shares = ordered.softmax(dim=-1)
        is_out = shares.cumsum(dim=-1) - shares >= sampling.top_p
        scores = scores.masked_fill(is_out.scatter(-1, places, is_out), float("-inf"))
    return scores + gumbel(keys, scores.shape[-1])


def gumbel(keys: torch.Tensor, width: int) -> torch.Tensor:
    """float32 (rows, width): Gumbel noise that is a function of key and column, the same on every device."""
    columns = torch.arange(width, device=keys.device, dtype=torch.int64)
    bits = _mixed(_mixed(keys.to(torch.int64))[:, None] + columns * _signed(0x9E3779B97F4A7C15))
    uniform = (_shifted(bits, 11).double() + 0.5) * 2.0**-53
    return (-torch.log(-torch.log(uniform))).float()


def _mixed(value: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014) on int64, whose products wrap."""
    value = (value ^ _shifted(value, 30)) * _signed(0xBF58476D1CE4E5B9)
    value = (value ^ _shifted(value, 27)) * _signed(0x94D049BB133111EB)
    return value ^ _shifted(value, 31)


def _shifted(value: torch.Tensor, places: int) -> torch.Tensor:
    """A right shift that fills with zeros; torch fills with the sign."""
    return (value >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def ends_of(tokenizer: Any, template: Template, model: Any) -> tuple[int, ...]:
    """The ids with which an answer stops by itself: the template's, the tokenizer's and those that the model
    states."""
    stated = getattr(model.generation_config, "eos_token_id", None)
    ids: Sequence[int] = [stated] if isinstance(stated, int) else stated or ()
    end = tokenizer.convert_tokens_to_ids(template.end_token(tokenizer))
    return tuple(dict.fromkeys([end, tokenizer.eos_token_id, *ids]))
