"""What a training stage notes on its way, in whole runs: alarms, the best step, an early end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.conftest import run_tiny, write_recipe
from tuning import load_recipe, run
from tuning.mixture import MixtureError
from tuning.records import read_json, read_jsonl, read_record

# A rate at which the held-out loss falls at first and then rises, an evaluation a step.
CHOOSING = (
    *("sft.max_steps=8", "sft.batch_rows=4", "sft.learning_rate=0.3", "sft.schedule=constant"),
    *("sft.eval_steps=1", "sft.best_by=loss", "sft.keep_checkpoints=2"),
)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe and the output of its SFT stage, of which an evaluation chose the model."""
    recipe, output = write_recipe(tmp_path_factory.mktemp("recipe")), tmp_path_factory.mktemp("run")
    run_tiny(recipe, output, *CHOOSING, to_stage="sft")
    return recipe, output


def unfinished(output: Path, copy: Path, *, without_last_checkpoint: bool = True) -> Path:
    """A copy of the run as a kill before its end would have left the SFT stage."""
    shutil.copytree(output, copy)
    stage = copy / "sft"
    record = read_record(stage)
    assert record is not None
    (stage / "record.json").unlink()
    (stage / "best.json").unlink()
    started = {"fingerprint": record["fingerprint"], "inputs": record["inputs"]}
    (stage / "started.json").write_text(json.dumps(started))
    shutil.rmtree(stage / "model")
    if without_last_checkpoint:
        shutil.rmtree(max((stage / "checkpoints").iterdir()))
    return stage


def is_of_checkpoint(stage: Path, step: int) -> bool:
    """Whether the stage's model has the weights of the checkpoint behind `step`."""
    saved = load_file(stage / f"checkpoints/step-{step:08d}/model.safetensors")
    model = load_file(stage / "model/model.safetensors")
    return all(saved[f"lm.{name}"].equal(tensor) for name, tensor in model.items())


def result(stage: Path) -> dict[str, Any]:
    record = read_record(stage)
    assert record is not None
    return dict(record["result"])


def test_the_model_is_that_of_the_best_evaluation_and_its_checkpoint_is_kept(
    chosen: tuple[Path, Path],
) -> None:
    stage = chosen[1] / "sft"
    losses = [line["loss"] for line in read_jsonl(stage / "evaluation.jsonl")]
    best = losses.index(min(losses)) + 1
    assert 1 < best < 6, losses  # neither the first nor among the newest two, so the test can fail
    assert sorted(path.name for path in (stage / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (best, 7, 8)
    ]
    assert is_of_checkpoint(stage, best)
    assert not is_of_checkpoint(stage, 8)
    assert result(stage)["best"] == {"by": "loss", "step": best, "figure": min(losses), "evaluations": 8}


def test_a_resumed_run_chooses_the_same_step(
    chosen: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = unfinished(chosen[1], tmp_path / "run")
    run_tiny(chosen[0], tmp_path / "run", *CHOOSING, to_stage="sft")
    assert "resumes after step 7/8" in capsys.readouterr().err
    assert result(stage)["best"] == result(chosen[1] / "sft")["best"]
    assert is_of_checkpoint(stage, result(stage)["best"]["step"])


def test_a_resumed_run_without_its_best_checkpoint_stops_instead_of_choosing_another(
    chosen: tuple[Path, Path], tmp_path: Path
) -> None:
    best = result(chosen[1] / "sft")["best"]["step"]
    stage = unfinished(chosen[1], tmp_path / "run")
    (stage / f"checkpoints/step-{best:08d}/model.safetensors").write_bytes(b"")
    with pytest.raises(RuntimeError, match=rf"step-{best:08d}, the checkpoint of the best loss, .*differs"):
        run_tiny(chosen[0], tmp_path / "run", *CHOOSING, to_stage="sft")


def test_a_stage_ends_after_evaluations_without_improvement_also_when_taken_up_again(
    chosen: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patient = (*CHOOSING, "sft.stop_after_evaluations=2")
    run_tiny(chosen[0], tmp_path / "run", *patient, to_stage="sft")
    best = result(chosen[1] / "sft")["best"]["step"]
    stage = tmp_path / "run/sft"
    assert [line["step"] for line in read_jsonl(stage / "metrics.jsonl")] == list(range(1, best + 3))
    assert result(stage)["best"]["step"] == best
    assert "no better loss in 2 evaluations: stopped early" in capsys.readouterr().err

    again = unfinished(tmp_path / "run", tmp_path / "again", without_last_checkpoint=False)
    run_tiny(chosen[0], tmp_path / "again", *patient, to_stage="sft")
    assert [line["step"] for line in read_jsonl(again / "metrics.jsonl")] == list(range(1, best + 3))
    assert is_of_checkpoint(again, best)


def test_where_an_evaluation_chooses_its_steps_are_part_of_the_fingerprint(
    chosen: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a reused model that other evaluations would not have chosen."""
    shutil.copytree(chosen[1], tmp_path / "run")
    run_tiny(chosen[0], tmp_path / "run", *CHOOSING, "sft.eval_steps=4", to_stage="sft")
    assert "sft: changed: settings.eval_steps" in capsys.readouterr().err


def test_a_source_too_small_to_hold_rows_out_is_told_before_training(
    chosen: tuple[Path, Path], tmp_path: Path
) -> None:
    """`taught` has four rows, of which a tenth is none."""
    by_source = (*CHOOSING, "sft.best_by=loss/taught", "sft.mix.taught.dev_rows=null")
    with pytest.raises(MixtureError, match=r"sft\.best_by: no row of taught is held out"):
        run_tiny(chosen[0], tmp_path / "run", *by_source, to_stage="sft")


def test_quickstarts_dpo_is_silent_and_rings_with_a_tiny_beta_and_a_rate_fifty_times_too_high(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped settings on a smaller model that saw its SFT data less often."""
    small = (
        *("tiny.hidden_size=64", "tiny.layers=2", "tiny.vocab_size=1024"),
        *(f"output={tmp_path / 'run'}", "tiny.pretrain_epochs=0.3", "sft.epochs=1"),
    )
    run(load_recipe("quickstart", [*small]), to_stage="dpo")
    stage = tmp_path / "run/dpo"
    last = list(read_jsonl(stage / "metrics.jsonl"))[-1]
    assert last["rewards/accuracies"] > 0.7  # it did learn
    assert result(stage)["alarms"] == []
    assert not (stage / "alarms.jsonl").exists()
    assert "ALARM" not in capsys.readouterr().err

    run(load_recipe("quickstart", [*small, "dpo.beta=0.001", "dpo.learning_rate=5.0e-3"]), to_stage="dpo")
    alarms = list(read_jsonl(stage / "alarms.jsonl"))
    assert alarms == result(stage)["alarms"]
    assert {"chosen_collapses", "kl_explodes"} <= {alarm["code"] for alarm in alarms}
    said = capsys.readouterr().err
    assert (
        "the model is making the chosen answers less likely, too: their log p per token fell from -" in said
    )
    assert said.count("(chosen_collapses)") == 2  # when it rang, and at the end of the run
    assert "dpo: what it means and what to try: " in said


def test_held_out_pairs_are_measured_per_source_with_intervals(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    text = recipe.read_text().replace(
        "  pairs: {builder", "  others: {builder: hh_rlhf, input: [pairs.jsonl]}\n  pairs: {builder"
    )
    recipe.write_text(
        text.replace("mix: {pairs: {dev_rows: 2}}", "mix: {pairs: {dev_rows: 2}, others: {dev_share: 0.3}}")
    )
    run_tiny(recipe, tmp_path / "run", to_stage="dpo")
    [figures] = read_jsonl(tmp_path / "run/dpo/evaluation.jsonl")
    assert (figures["pairs"], figures["pairs/pairs"], figures["pairs/others"]) == (5, 2, 3)
    mean = (2 * figures["loss/pairs"] + 3 * figures["loss/others"]) / 5
    assert figures["loss"] == pytest.approx(mean)
    low, high = figures["accuracy_interval/others"]
    assert 0 <= low <= figures["accuracy/others"] <= high <= 1
    first = next(iter(read_jsonl(tmp_path / "run/dpo/metrics.jsonl")))
    assert first["kl/chosen/others"] == 0
    assert 0 < first["end_token/chosen"] < 1
    assert read_json(tmp_path / "run/dpo/record.json")["result"]["sources"]["others"]["dev_rows"] == 3
