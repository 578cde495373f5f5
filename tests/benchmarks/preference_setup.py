"""What both sides of `preference.py` start from: the pairs and the random weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TEMPLATE = "llm-jp-v3"
SHAPES = {  # hidden, layers, heads, intermediate
    "51m": (256, 6, 4, 1024),
    "1.8b": (2048, 24, 16, 7168),
    "7.2b": (4096, 32, 32, 11008),
}


def make_pairs(kind: str, count: int, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Pairs as `ids` (chosen, rejected), `start` (first scored token), and for HH-RLHF the row itself."""
    import numpy as np

    if kind == "long":
        random = np.random.default_rng(20_261_122)

        def lengths(mean: int) -> list[int]:
            spread = np.log(1 + 0.5**2)
            drawn = random.lognormal(np.log(mean) - spread / 2, np.sqrt(spread), count)
            return drawn.round().astype(int).clip(mean // 8, 5 * mean // 2).tolist()  # type: ignore[no-any-return]

        pairs = []
        for prompt, chosen, rejected in zip(lengths(1500), lengths(300), lengths(300), strict=True):
            start = random.integers(1_000, 99_000, prompt).tolist()
            sides = [start + random.integers(1_000, 99_000, size).tolist() for size in (chosen, rejected)]
            pairs.append({"ids": sides, "start": prompt})
        return pairs
    from transformers import AutoTokenizer

    from data_builders import build
    from tuning.chat import encode_pair, load_template
    from tuning.records import read_jsonl

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with TemporaryDirectory() as built:
        build("hh_rlhf", [str(data / "hh-rlhf" / "harmless-base-part.jsonl.gz")], built)
        rows = [row for row, _ in zip(read_jsonl(Path(built) / "data.jsonl"), range(count), strict=False)]
    if len(rows) < count:
        raise SystemExit(f"{count} pairs are asked for, the file has {len(rows)}")
    pairs = []
    for row in rows:
        messages = {side: row[side] for side in ("prompt", "chosen", "rejected")}
        encoded = encode_pair(*messages.values(), tokenizer, load_template(TEMPLATE))
        starts = {int(np.flatnonzero(side.is_target)[0]) for side in encoded}
        assert len(starts) == 1 and all(side.is_target[min(starts) :].all() for side in encoded)
        pairs.append(
            {"ids": [side.input_ids.tolist() for side in encoded], "start": min(starts), "row": messages}
        )
    return pairs


def make_model(shape: str, folder: Path, tokenizer: Any) -> str:
    """Writes random weights; returns their number in words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, intermediate = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=99_584,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    vocabulary = sum(layer.weight.numel() for layer in (model.lm_head, model.model.embed_tokens))
    total = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{vocabulary / 1e6:.1f}M weights of embeddings and head, {(total - vocabulary) / 1e6:.1f}M of layers"
    )
