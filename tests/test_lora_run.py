"""LoRA and QLoRA through the whole pipeline: an adapter trains, a complete plain model comes out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.conftest import run_tiny, write_recipe
from tuning.records import read_json


def plain_weights(model: Path) -> dict[str, torch.Tensor]:
    [file] = model.glob("*.safetensors")
    return load_file(file)


def test_lora_merges_into_a_plain_model_that_equals_base_plus_adapter(tmp_path: Path) -> None:
    """SFT, then DPO with an adapter of its own: `model/` is complete each time, `adapter/` lies beside it."""
    recipe = write_recipe(tmp_path)
    lora = ["sft.lora.rank=4", "dpo.lora.rank=4", "sft.lora.dropout=0.1", "sft.learning_rate=0.05"]
    paths = run_tiny(recipe, tmp_path / "run", *lora, to_stage="dpo")
    ids = torch.tensor([[1, 5, 6, 7, 8, 9]])
    before = paths["base"] / "model"
    for stage in ("sft", "dpo"):
        start = AutoModelForCausalLM.from_pretrained(before)
        merged = AutoModelForCausalLM.from_pretrained(paths[stage] / "model")
        assert not (paths[stage] / "model" / "adapter_config.json").exists()
        adapted = PeftModel.from_pretrained(start, str(paths[stage] / "adapter")).eval()
        with torch.no_grad():
            assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)
        before = paths[stage] / "model"
    assert any(
        not torch.equal(one, two)
        for one, two in zip(
            plain_weights(paths["base"] / "model").values(),
            plain_weights(paths["sft"] / "model").values(),
            strict=True,
        )
    )


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (extra gpu)")
def test_qlora_merges_into_unquantised_weights_and_states_the_drift(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    # bitsandbytes multiplies on CPU only by matrices whose sides are multiples of 32.
    size = ["tiny.hidden_size=192", "sft.lora.rank=4", "sft.lora.quantize=nf4"]
    paths = run_tiny(recipe, tmp_path / "run", *size, to_stage="sft")
    weights = plain_weights(paths["sft"] / "model")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    drift = read_json(paths["sft"] / "record.json")["result"]["merge_drift_nats"]
    assert 0 < drift < 1
