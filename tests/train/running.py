"""One training stage in a few lines, as the recipes run it: model and examples in, `metrics.jsonl` out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuning.model.adapters import disable_dropout
from tuning.model.head import TargetModel
from tuning.model.loading import use_forest_attention
from tuning.records import read_jsonl
from tuning.train.reference import ReferenceStore
from tuning.train.session import Session, training_arguments
from tuning.train.step_objectives import PreferenceObjective, imitation
from tuning.train.steps import Example, Order, Schedule
from tuning.train.trainer import ChatTrainer


def order_of(examples: list[Example], seed: int = 7) -> Order:
    groups: dict[str, list[list[Example]]] = {}
    for example in examples:
        groups.setdefault(example.source, []).append([example])
    return Order(groups, dict.fromkeys(groups, 1.0), seed)


def train(
    model: nn.Module,
    examples: list[Example],
    folder: Path,
    *,
    num_steps: int,
    batch_rows: int,
    preference: bool = False,
    reference: nn.Module | None = None,
    budget: int = 4096,
    share_prefix: bool = True,
    learning_rate: float = 1e-3,
    stop_after: int | None = None,
    method: dict[str, Any] | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`. `reference` is a policy's own start unless another model is given;
    `method` is what `PreferenceObjective` is made of, by default DPO with beta 0.1."""
    for part in (model, reference):
        if part is not None:
            base = part.get_base_model() if hasattr(part, "get_base_model") else part
            use_forest_attention(base)
    folder.mkdir(parents=True, exist_ok=True)
    session = Session(
        name="dpo" if preference else "sft",
        folder=folder,
        schedule=Schedule(order_of(examples), batch_rows, num_steps * batch_rows, is_preference=preference),
        tokens_per_device=budget,
        learning_rate=learning_rate,
        share_prefix=share_prefix,
        save_steps=1,
        keep_checkpoints=8,
        stop_after=stop_after,
    )
    arguments = training_arguments(
        folder,
        precision=torch.float32,
        num_steps=num_steps,
        settings={"learning_rate": learning_rate, "seed": 7, "max_grad_norm": 1.0, **settings},
    )
    policy = TargetModel(model)
    if not preference:
        ChatTrainer(policy, arguments, session, imitation).run()
        return list(read_jsonl(session.metrics_file))
    disable_dropout(policy)
    store = ReferenceStore(per_token=bool(method and "ld_alpha" in method))
    objective = PreferenceObjective(
        **{"terms": {"sigmoid": 1.0}, "beta": 0.1, "store": store, **(method or {})}
    )
    if reference is not None:
        other = ChatTrainer(TargetModel(reference), arguments, session, objective)
        other.compute_reference(store, [])
        other.meter.close()
    trainer = ChatTrainer(policy, arguments, session, objective)
    trainer.compute_reference(store, [])
    trainer.run()
    return list(read_jsonl(session.metrics_file))
