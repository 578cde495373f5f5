"""Our loss and gradient norm are TRL's, step by step, on the same ids, targets, order, schedule, clipping and
AdamW."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig as TRLConfig
from trl import DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from tests.train.conftest import chats, llama, pair_examples, preferences, sft_examples
from tests.train.running import order_of, train
from tuning.mixture import with_strangers
from tuning.model.adapters import attach_lora
from tuning.train.preference_losses import DIVERGENCES, Divergence

STEPS, ROWS, MICRO = 4, 12, 3

COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": MICRO,
    "gradient_accumulation_steps": ROWS // MICRO,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "bf16": False,
    "use_cpu": True,
    "max_length": None,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "gradient_checkpointing": False,
    "train_sampling_strategy": "sequential",
    "disable_tqdm": True,
}


class Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "grad_norm" in logs:
            self.lines.append(logs)


def assert_equal_steps(
    ours: list[dict[str, Any]], theirs: list[dict[str, float]], *more: str, steps: int = STEPS
) -> None:
    """`more` are differences of float32 sums of about -100, hence an absolute tolerance."""
    assert len(ours) == len(theirs) == steps
    for our, their in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "learning_rate"):
            assert our[name] == pytest.approx(their[name], rel=1e-5, abs=1e-9), (our["step"], name)
        for name in more:
            assert our[name] == pytest.approx(their[name], abs=3e-6), (our["step"], name)


def test_sft_equals_trl(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    examples = sft_examples(chats(STEPS * ROWS), tokenizer)
    ordered = [example for _, example in order_of(examples).epoch(0)]
    rows = []
    for example in ordered:
        [sequence] = example.sequences
        labels = [int(i) if t else -100 for i, t in zip(sequence.input_ids, sequence.is_target, strict=True)]
        rows.append({"input_ids": sequence.input_ids.tolist(), "labels": labels})
    recorder = Recorder()
    trainer = SFTTrainer(
        model=llama(len(tokenizer)),
        args=SFTConfig(output_dir=str(tmp_path / "trl"), packing=False, shuffle_dataset=False, **COMMON),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.train()
    ours = train(llama(len(tokenizer)), examples, tmp_path / "ours", num_steps=STEPS, batch_rows=ROWS)
    assert_equal_steps(ours, recorder.lines)
    assert max(line["grad_norm"] for line in ours) > 1.0  # so that clipping is part of what is compared


@pytest.mark.parametrize("adapter", [False, True])
def test_dpo_equals_trl(adapter: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """With `adapter`, both start from the same saved LoRA, and the reference is the model without it."""
    rows = preferences(STEPS * ROWS)
    examples = pair_examples(rows, tokenizer)
    numbers = [int(example.id.split("-")[1]) for _, example in order_of(examples).epoch(0)]
    size = len(tokenizer)
    if adapter:
        saved = get_peft_model(llama(size), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        torch.manual_seed(3)
        for name, parameter in saved.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        saved.save_pretrained(str(tmp_path / "adapter"))
        policy: Any = PeftModel.from_pretrained(llama(size), str(tmp_path / "adapter"), is_trainable=True)
        ours_policy: Any = attach_lora(llama(size), rank=4, alpha=8, start_from=tmp_path / "adapter")
    else:
        policy, ours_policy = llama(size), llama(size)
    recorder = Recorder()
    trainer = DPOTrainer(
        model=policy,
        ref_model=llama(size),
        args=TRLConfig(output_dir=str(tmp_path / "trl"), beta=0.1, loss_type=["sigmoid"], **COMMON),
        train_dataset=Dataset.from_list([rows[number] for number in numbers]),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.train()
    ours = train(ours_policy, examples, tmp_path / "ours", num_steps=STEPS, batch_rows=ROWS, preference=True)
    assert_equal_steps(ours, recorder.lines, "rewards/chosen", "rewards/rejected", "rewards/margins")
    for our, their in list(zip(ours, recorder.lines, strict=True))[
        1:
    ]:  # step 1 is all ties: half for us, none for TRL
        assert our["rewards/accuracies"] == pytest.approx(their["rewards/accuracies"], abs=1e-6)
    if adapter:
        assert ours[0]["loss"] != pytest.approx(
            0.6931, abs=1e-5
        )  # the saved adapter already differs from the reference
    else:
        assert ours[0]["loss"] == pytest.approx(math.log(2), abs=1e-15)


SMOOTHED = {"label_smoothing": 0.1}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # TRL's settings, ours
    **{
        name: ({"loss_type": [name]}, {"terms": {name: 1.0}})
        for name in (
            *("hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero"),
            *("apo_down", "discopop", "sigmoid_norm"),
        )
    },
    **{
        f"{name}, smoothed": (
            {"loss_type": [name], **SMOOTHED},
            {"terms": {name: 1.0}, "options": SMOOTHED},
        )
        for name in ("robust", "exo_pair", "aot", "aot_unpaired")
    },
    # TRL's `sigmoid` ignores label_smoothing. With S = -log sigmoid(x), F = -log sigmoid(-x) and its robust
    # loss R = ((1 - e) S - e F) / (1 - 2 e), ours, (1 - e) S + e F, is (2 - 2 e) S - (1 - 2 e) R.
    "cDPO": (
        {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.8, -0.8], **SMOOTHED},
        {"terms": {"sigmoid": 1.0}, "options": SMOOTHED},
    ),
    "discopop's tau": (
        {"loss_type": ["discopop"], "discopop_tau": 0.5},
        {"terms": {"discopop": 1.0}, "options": {"discopop_tau": 0.5}},
    ),
    "sft term": (
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 0.5]},
        {"terms": {"sigmoid": 0.8, "bco_pair": 0.2}, "sft_weight": 0.5},
    ),
    "LD-DPO": ({"ld_alpha": 0.4}, {"ld_alpha": 0.4}),
    "LD-DPO, sft term": (
        {"loss_type": ["sigmoid", "sft"], "ld_alpha": 0.4},
        {"ld_alpha": 0.4, "sft_weight": 1.0},
    ),
    "LD-DPO, mean log-ratios": (
        {"loss_type": ["ipo"], "ld_alpha": 0.4},
        {"terms": {"ipo": 1.0}, "ld_alpha": 0.4},
    ),
    "WPO": ({"use_weighting": True}, {"weighs_by_policy": True}),
    "WPO of two losses": (
        {"loss_type": ["ipo", "sigmoid"], "loss_weights": [0.3, 0.7], "use_weighting": True},
        {"terms": {"ipo": 0.3, "sigmoid": 0.7}, "weighs_by_policy": True},
    ),
    **{
        f"{name}, {divergence}": (
            {
                "loss_type": [name],
                "f_divergence_type": divergence,
                "f_alpha_divergence_coef": 0.3,
                **options,
            },
            {"terms": {name: 1.0}, "options": {"divergence": Divergence(divergence, 0.3), **options}},
        )
        for name, divergence, options in (
            *(("sigmoid", divergence, {}) for divergence in DIVERGENCES[1:]),
            ("hinge", "alpha_divergence", {}),
            ("ipo", "forward_kl", {}),
            ("sigmoid_norm", "js_divergence", {}),
            ("discopop", "alpha_divergence", {}),
            ("robust", "js_divergence", SMOOTHED),
            ("exo_pair", "forward_kl", SMOOTHED),
        )
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_preference_losses_equal_trl(method: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """On a real batch, against a reference that differs from the policy, two steps."""
    theirs, ours = METHODS[method]
    rows = preferences(2 * ROWS)
    examples = pair_examples(rows, tokenizer)
    numbers = [int(example.id.split("-")[1]) for _, example in order_of(examples).epoch(0)]
    recorder = Recorder()
    batch = {"per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "max_steps": 2}
    trainer = DPOTrainer(
        model=llama(len(tokenizer)),
        ref_model=llama(len(tokenizer), seed=5),
        args=TRLConfig(output_dir=str(tmp_path / "trl"), **{**COMMON, **batch, "beta": 0.3, **theirs}),
        train_dataset=Dataset.from_list([rows[number] for number in numbers]),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.train()
    lines = train(
        llama(len(tokenizer)),
        examples,
        tmp_path / "ours",
        num_steps=2,
        batch_rows=ROWS,
        preference=True,
        reference=llama(len(tokenizer), seed=5),
        budget=200,
        method={"beta": 0.3, **ours},
    )
    assert lines[0]["micro_steps"] > 1
    assert_equal_steps(lines, recorder.lines, steps=2)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_judged_answers_equal_trl(loss: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """In one step; KTO's KL is estimated from the same strangers' answers."""
    rows = chats(ROWS, seed=4)
    examples = sft_examples(rows, tokenizer)
    numbers = [int(example.id.split("-")[1]) for _, example in order_of(examples).epoch(0)]
    judged = [replace(examples[number], desirable=number % 3 > 0) for number in numbers]
    ready = {example.id: example for example in with_strangers(judged, max_length=4096)}
    recorder = Recorder()
    batch = {"per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "max_steps": 1}
    trainer = KTOTrainer(
        model=llama(len(tokenizer)),
        ref_model=llama(len(tokenizer), seed=5),
        args=KTOConfig(
            output_dir=str(tmp_path / "trl"),
            loss_type=loss,
            beta=0.3,
            desirable_weight=1.2,
            undesirable_weight=1.5,
            **{**COMMON, **batch},
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": rows[number]["messages"][:1],
                    "completion": rows[number]["messages"][1:],
                    "label": number % 3 > 0,
                }
                for number in numbers
            ]
        ),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.train()
    lines = train(
        llama(len(tokenizer)),
        [ready[example.id] for example in examples],
        tmp_path / "ours",
        num_steps=1,
        batch_rows=ROWS,
        preference=True,
        reference=llama(len(tokenizer), seed=5),
        budget=200,
        method={
            "terms": {loss: 1.0},
            "beta": 0.3,
            "options": {"desirable_weight": 1.2, "undesirable_weight": 1.5},
        },
    )
    assert_equal_steps(lines, recorder.lines, "rewards/chosen", "rewards/rejected", steps=1)
    if loss == "kto":
        assert lines[0]["kl"] > 0.01  # so that it is part of what is compared
        assert lines[0]["kl"] == pytest.approx(recorder.lines[0]["kl"], abs=3e-6)
