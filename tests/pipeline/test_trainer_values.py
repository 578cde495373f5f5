"""Values under `trainer:` against the fields that transformers and TRL declare."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path

import pytest
import trl
from transformers import TrainingArguments

from tuning.config import load_recipe
from tuning.pipeline.checks import check
from tuning.pipeline.trainer_values import _hints, fits

RECIPE = """\
name: t
base: tiny
template: chatml
data:
  own: {builder: files, input: [rows.jsonl]}
sft:
  mix: {own: {}}
  learning_rate: 1.0e-4
  trainer:
"""


def problems(folder: Path, *settings: str) -> list[str]:
    """What `tuning check` says of a recipe with these lines under `trainer:`, which begin at line 10."""
    (folder / "rows.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    recipe = folder / "r.yaml"
    recipe.write_text(RECIPE + "".join(f"    {line}\n" for line in settings), encoding="utf-8")
    return [str(problem) for problem in check(load_recipe(str(recipe)))]


def test_every_wrong_value_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        "optim: adamw_foo",
        "dataloader_num_workers: two",
        "torch_compile: 1",
        "ddp_backend: [gloo]",
        "tf32: 'yes'",
    )
    assert [line.split(" takes ")[0].partition("r.yaml:")[2] for line in told] == [
        "10: sft.trainer.optim: saw 'adamw_foo'; transformers.TrainingArguments",
        "11: sft.trainer.dataloader_num_workers: saw 'two'; transformers.TrainingArguments",
        "12: sft.trainer.torch_compile: saw 1; transformers.TrainingArguments",
        "13: sft.trainer.ddp_backend: saw ['gloo']; transformers.TrainingArguments",
        "14: sft.trainer.tf32: saw 'yes'; transformers.TrainingArguments",
    ]
    assert "adamw_torch, " in told[0]
    assert [line.split(" takes ")[1] for line in told[1:]] == [
        "a whole number",
        "true or false",
        "a text or null",
        "true or false or null",
    ]


def test_what_the_machine_has_to_answer_is_not_judged(tmp_path: Path) -> None:
    """TF32 needs a GPU that the machine of the check may lack."""
    fine = ("tf32: true", "optim: adafactor", "fsdp: true", "fsdp_config: {version: 2}", "ddp_timeout: 60")
    assert problems(tmp_path, *fine) == []


@pytest.mark.parametrize("arguments", [TrainingArguments, trl.RewardConfig, trl.GRPOConfig])
def test_every_default_of_the_installed_classes_fits(arguments: type) -> None:
    hints = _hints(f"{'trl' if arguments is not TrainingArguments else 'transformers'}.{arguments.__name__}")
    for field in dataclasses.fields(arguments):
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = default.value if isinstance(default, enum.Enum) else default
        assert value is dataclasses.MISSING or fits(value, hints[field.name]), (field.name, value)
