"""A Llama small enough to train from nothing on a laptop, and a tokenizer of the same kind as LLM-jp's.

The tokenizer is a Unigram model with byte fallback and LLM-jp's normalizers: `▁` for a space and at the start
of a text, newline only as the byte `<0x0A>`. No trainer adds byte pieces by itself, so the 256 of them are
added here; without them every rare character would be `<unk>`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
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

from tuning.model.loading import ModelError

CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
BYTE_SCORE = -20.0
"""Log-probability of a byte piece: below any learnt piece, so bytes are the last resort."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer of at most `vocab_size` pieces, 256 bytes and control tokens included.

    The text may yield fewer; `len(tokenizer)` tells. The same texts give the same tokenizer.
    """
    normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"(?<!\n)^"), "▁"), normalizers.Replace(Regex(" "), "▁")]
    )
    texts = list(texts)
    learnt = _learnt_pieces(texts, normalizer, vocab_size - 256 - len(CONTROL_TOKENS))
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


def _learnt_pieces(
    texts: Sequence[str], normalizer: normalizers.Normalizer, num_pieces: int
) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, at most `num_pieces`.

    The pieces are those of a BPE trainer, the probabilities their shares of the best segmentation, estimated
    three times over. tokenizers' own Unigram trainer visits its hash maps in another order in every
    process, and its pieces differ from run to run.
    """
    # Only while learning: no piece may cross a newline, and in Latin text none may cross a word.
    splits = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "removed"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[。、！？「」：:.,!?#]+"), "isolated"),
        ]
    )
    merges = Tokenizer(models.BPE())
    merges.normalizer, merges.pre_tokenizer = normalizer, splits
    merges.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=num_pieces, max_token_length=8, show_progress=False)
    )
    pieces = {piece: 0.0 for piece in sorted(merges.get_vocab())}
    for _ in range(3):
        unigram = Tokenizer(models.Unigram([("<unk>", -100.0), *pieces.items()], unk_id=0))
        unigram.normalizer, unigram.pre_tokenizer = normalizer, splits
        found = Counter(token for row in unigram.encode_batch(list(texts)) for token in row.tokens)
        # A piece that no segmentation takes may be one that two others replace; its characters must stay.
        counts = {piece: found[piece] for piece in pieces if found[piece] or len(piece) == 1}
        total = sum(counts.values())
        pieces = {piece: math.log(max(count, 0.5) / total) for piece, count in counts.items()}
    return list(pieces.items())


def rendered_headers(template: str) -> str:
    """What a chat template writes around messages, so that a tokenizer learns pieces for it. Raises
    `ModelError` for a template that refuses one turn."""
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    try:
        rendered: Any = render_jinja_template(
            conversations=[messages], chat_template=template, bos_token="", eos_token=""
        )
    except Exception as error:  # whatever a stranger's template raises is its refusal
        raise ModelError(f"the template refuses one turn: {type(error).__name__}: {error}") from error
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
