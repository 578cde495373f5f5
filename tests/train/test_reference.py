"""Reference log-probs: computed once, found again by content, never taken for another model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from tests.train.conftest import pair_examples, preferences
from tuning.train.reference import ReferenceStore, reference_key, sequence_key


def test_sums_are_found_again_by_content_whatever_the_row_is_called(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples = pair_examples(preferences(3), tokenizer)
    store = ReferenceStore(tmp_path / "sums.safetensors")
    store.add(examples, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    store.save()
    again = ReferenceStore(tmp_path / "sums.safetensors")
    renamed = [replace(example, id="other", source="elsewhere") for example in reversed(examples)]
    assert all(example in again for example in renamed)
    assert again.of(renamed, 0).tolist() == [-5.0, -3.0, -1.0]
    assert again.of(renamed, 1).tolist() == [-6.0, -4.0, -2.0]


def test_another_target_mask_is_another_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    """Guards against TRL's cache that ignored what is scored (PEERS D3)."""
    [example] = pair_examples(preferences(1), tokenizer)
    chosen = example.sequences[0]
    fewer = replace(chosen, is_target=np.concatenate([chosen.is_target[:-1], [False]]))
    assert sequence_key(fewer) != sequence_key(chosen)


def test_one_changed_weight_is_another_reference(checkpoint: Path) -> None:
    before = reference_key(str(checkpoint), precision="fp32")
    assert reference_key(str(checkpoint), precision="fp32") == before
    assert reference_key(str(checkpoint), precision="bf16") != before
    [file] = checkpoint.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += torch.finfo(tensors[name].dtype).eps + 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert reference_key(str(checkpoint), precision="fp32") != before
