"""A Llama small enough to train from nothing on a laptop, and a tokenizer of the same kind as LLM-jp's.

The tokenizer is a Unigram model with byte fallback and LLM-jp's normalizers: `▁` for a space and at the start
of a text, newline only as the byte `<0x0A>`. The trainer adds no byte pieces by itself, so the 256 of them
are appended here; without them every rare character would be `<unk>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
BYTE_SCORE = -20.0
"""Log-probability of a byte piece: below any learnt piece, so bytes are the last resort."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer of at most `vocab_size` pieces, 256 bytes and control tokens included.

    The text may yield fewer; `len(tokenizer)` tells.
    """
    normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"(?<!\n)^"), "▁"), normalizers.Replace(Regex(" "), "▁")]
    )
    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizer
    # Only while learning: no piece may cross a newline, and in Latin text none may cross a word.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "removed"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[。、！？「」：:.,!?#]+"), "isolated"),
        ]
    )
    learner.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=vocab_size - 256,
            special_tokens=list(CONTROL_TOKENS),
            unk_token="<unk>",
            max_piece_length=8,
            show_progress=False,
        ),
    )
    vocabulary = json.loads(learner.to_str())["model"]["vocab"]
    learnt = [tuple(entry) for entry in vocabulary if entry[0] not in CONTROL_TOKENS]
    pieces = [(token, 0.0) for token in CONTROL_TOKENS]
    pieces += [(f"<0x{byte:02X}>", BYTE_SCORE) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces + learnt, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Replace(Regex("▁"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<!\n)^ "), ""),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def rendered_headers(template: str) -> str:
    """What a chat template writes around messages, so that a tokenizer learns pieces for it."""
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    rendered: Any = render_jinja_template(
        conversations=[messages], chat_template=template, bos_token="", eos_token=""
    )
    texts, _ = rendered
    return str(texts[0])


def tiny_llama(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    seed: int,
) -> LlamaForCausalLM:
    """A Llama with random weights for this tokenizer: untied embeddings, 4,096 positions."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=-(-hidden_size * 8 // 3 // 8) * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
