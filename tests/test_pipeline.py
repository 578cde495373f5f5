"""A whole run of a very small recipe: what it leaves, what it does again, what it takes up, what stops it."""

from __future__ import annotations

import json
import os
import pickletools
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import WORDS, TinyRun, chat_row, run_tiny, write_lines, write_recipe
from tuning import load_recipe, run
from tuning.chat import encode, load_template
from tuning.config import RecipeError
from tuning.mixture import MixtureError, built_rows
from tuning.model.loading import load_tokenizer
from tuning.pipeline import StageError, check
from tuning.records import changed_keys, check_counts, read_json, read_jsonl, read_record, sha256_of_file
from tuning.schema import Conversation, dicts
from tuning.shares import split
from tuning.stage import Paths, plain_texts, rows_by_stage, shares, training_texts

ROOT = Path(__file__).parents[1]
STAGES = ["base", "sft", "dpo", "evaluate", "release"]
DATA = ["data/chats", "data/taught", "data/pairs"]
SAID = re.compile(r"^(\S+): (running|reused|taken up again|changed: .*)", re.MULTILINE)


@pytest.fixture
def copied(tiny_run: TinyRun, tmp_path: Path) -> TinyRun:
    """A copy of the finished run, for a test that goes on from it."""
    output = tmp_path / "run"
    shutil.copytree(tiny_run.output, output)
    return TinyRun(tiny_run.recipe, output)


def again(
    one: TinyRun, capsys: pytest.CaptureFixture[str], *overrides: str, **options: Any
) -> dict[str, str]:
    """Runs once more; stage -> what became of it (`running`, `reused`, `taken up again`)."""
    capsys.readouterr()
    run_tiny(one.recipe, one.output, *overrides, **options)
    said = SAID.findall(capsys.readouterr().err)
    return {stage: what for stage, what in said if not what.startswith("changed")}


def inputs(one: TinyRun, stage: str) -> dict[str, Any]:
    record = read_record(one.output / stage)
    assert record is not None
    return dict(record["inputs"])


# What a run leaves


def test_a_run_leaves_every_stage_with_its_record(tiny_run: TinyRun) -> None:
    for stage in [*DATA, *STAGES]:
        record = read_record(tiny_run.output / stage)
        assert record is not None
        assert record["stage"] == stage
        assert not (tiny_run.output / stage / "started.json").exists()
        for name, size in record["files"].items():
            assert (tiny_run.output / stage / name).stat().st_size == size
    for stage in ("sft", "dpo"):
        assert [line["step"] for line in read_jsonl(tiny_run.output / stage / "metrics.jsonl")] == [1, 2]
        assert (tiny_run.output / stage / "model" / "model.safetensors").is_file()
    figures = read_json(tiny_run.output / "evaluate" / "evaluation.json")["figures"]
    assert list(figures) == ["base", "sft", "dpo"]


def test_dpo_starts_from_what_sft_made_and_the_first_loss_is_ln_2(tiny_run: TinyRun) -> None:
    first = next(iter(read_jsonl(tiny_run.output / "dpo" / "metrics.jsonl")))
    assert first["loss"] == pytest.approx(0.693147, abs=1e-6)
    sft = read_record(tiny_run.output / "sft")
    assert sft is not None
    assert inputs(tiny_run, "dpo")["start"] == sft["fingerprint"]


def test_rows_in_are_rows_kept_and_dropped_in_every_manifest_and_record(tiny_run: TinyRun) -> None:
    kept = {}
    for name in DATA:
        manifest = read_json(tiny_run.output / name / "manifest.json")
        check_counts(manifest, name)
        lines = list(read_jsonl(tiny_run.output / name / "data.jsonl"))
        assert manifest["rows_kept"] == len(lines)
        kept[name.removeprefix("data/")] = len(lines)
    assert kept == {"chats": 22, "taught": 4, "pairs": 12}
    pairs = read_json(tiny_run.output / "data/pairs/manifest.json")
    assert (pairs["rows_in"], pairs["rows_dropped"]) == (14, {"empty_side": 1, "identical_sides": 1})
    for stage in ("sft", "dpo"):
        record = read_record(tiny_run.output / stage)
        assert record is not None
        for name, counts in record["result"]["sources"].items():
            check_counts(counts, name)
            assert counts["rows_in"] == kept[name]
            assert counts["train_rows"] + counts["dev_rows"] == counts["rows_kept"]


def test_records_state_the_licences_of_what_was_trained_on(tiny_run: TinyRun) -> None:
    results = {
        stage: (read_record(tiny_run.output / stage) or {})["result"] for stage in ("sft", "dpo", "release")
    }
    assert results["sft"]["licences"] == {"chats": "CC-BY-4.0", "taught": "CC0-1.0"}
    assert results["dpo"]["licences"] == {"pairs": "MIT"}
    assert results["release"]["terms"]["declared"]["id"] == "Apache-2.0"
    assert results["release"]["terms"]["strictest"]["id"] == "CC-BY-4.0"


def test_numbers_on_the_released_card_are_those_of_manifests_and_records(tiny_run: TinyRun) -> None:
    card = (tiny_run.release / "README.md").read_text(encoding="utf-8")
    for name in DATA:
        manifest = read_json(tiny_run.output / name / "manifest.json")
        dropped = ", ".join(f"{code} {count}" for code, count in manifest["rows_dropped"].items()) or "none"
        counts = f"{manifest['rows_in']} | {manifest['rows_kept']} | {dropped} | {manifest['licence']}"
        assert f"| {manifest['source']} | {counts} | {manifest['builder']} |" in card
        assert f"- **{manifest['source']}** ({manifest['licence']})" in card
    for stage in ("sft", "dpo"):
        record = read_record(tiny_run.output / stage)
        assert record is not None
        assert f"### {stage.upper()}: {record['result']['steps']} steps" in card
        for name, counts in record["result"]["sources"].items():
            keys = ("train_rows", "dev_rows", "weight", "target_tokens")
            numbers = " | ".join(f"{counts[key]:g}" for key in keys)
            assert f"| {name} | {counts['rows_in']} | {counts['rows_kept']} | none | {numbers} |" in card
    loss = read_record(tiny_run.output / "evaluate")["result"]["figures"]["dpo"]["loss"]  # type: ignore[index]
    assert f"{loss:.3f} |" in card
    assert "The rows were screened neither for duplicates nor for evaluation items." in card
    assert str(tiny_run.output) not in card
    assert str(tiny_run.recipe.parent) not in card


def test_models_and_checkpoints_hold_nothing_that_must_be_unpickled(tiny_run: TinyRun) -> None:
    looked_at = 0
    for stage in ("base", "sft", "dpo", "release"):
        for path in (tiny_run.output / stage).rglob("*"):
            if not path.is_file():
                continue
            looked_at += 1
            assert path.suffix in {".safetensors", ".json", ".jsonl", ".jinja", ".md"}, path
            assert not zipfile.is_zipfile(path), path
            content = path.read_bytes()
            assert not content.startswith(b"\x80"), path  # the PROTO opcode of every pickle since protocol 2
            with pytest.raises((ValueError, IndexError, UnicodeDecodeError)):
                list(pickletools.genops(content))
    assert looked_at > 30


def test_released_folder_serves_the_training_ids_with_plain_transformers(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_run.release))
    template = load_template("llm-jp-v3")
    rows = built_rows(tiny_run.output / "data/chats", preference=False, stage="sft")
    expected = []
    for row in rows[:21]:  # the last one holds a literal </s>, which serving cannot tell from a control token
        assert isinstance(row, Conversation)
        [sequence] = encode(row.messages, tokenizer, template)
        expected.append([dicts(row.messages), sequence.input_ids.tolist()])
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    code = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
for messages, ids in expected:
    served = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert served["input_ids"] == ids, messages
assert "tuning" not in sys.modules
config = model.generation_config
ids = [config.bos_token_id, config.eos_token_id, config.pad_token_id]
names = [*tokenizer.convert_ids_to_tokens(ids), tokenizer.eos_token, tokenizer.pad_token]
print(json.dumps([names, bool(config.do_sample), str(model.dtype)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_run.release), str(tmp_path / "expected.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert json.loads(done.stdout) == [["<s>", "</s>", "<pad>", "</s>", "<pad>"], False, "torch.float32"]


# What is done again


def test_a_second_run_reuses_every_stage_and_imports_no_torch(tiny_run: TinyRun) -> None:
    code = (
        "import sys\nfrom tuning import load_recipe, run\n"
        "paths = run(load_recipe(sys.argv[1], ['output=' + sys.argv[2]]))\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(*paths)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_run.recipe), str(tiny_run.output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.split() == ["data", *STAGES]
    assert dict(SAID.findall(done.stderr)) == dict.fromkeys([*DATA, *STAGES], "reused")
    assert "held-out loss" in done.stderr
    assert "tuning chat" in done.stderr


def test_keys_without_effect_on_the_result_reuse_every_stage(
    tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ["sft.tokens_per_device=100", "sft.log_steps=7", "dpo.save_steps=1", "dpo.keep_checkpoints=1"]
    assert again(tiny_run, capsys, *changed) == dict.fromkeys([*DATA, *STAGES], "reused")


def test_a_changed_key_runs_its_stage_and_those_behind_it_and_going_back_takes_the_old_ones_up(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(copied.output / "dpo")
    assert record is not None
    weights = sha256_of_file(copied.output / "dpo/model/model.safetensors")
    capsys.readouterr()
    run_tiny(copied.recipe, copied.output, "dpo.beta=0.5", to_stage="evaluate")
    said = capsys.readouterr().err
    assert "dpo: changed: settings.beta\n" in said
    assert dict(SAID.findall(said)) == {
        **dict.fromkeys([*DATA, "base", "sft"], "reused"),
        **dict.fromkeys(["dpo", "evaluate"], "running"),
    }
    kept = copied.output / f"dpo@{record['fingerprint'][:8]}"
    assert sha256_of_file(kept / "model/model.safetensors") == weights
    assert sha256_of_file(copied.output / "dpo/model/model.safetensors") != weights

    assert again(copied, capsys) == {
        **dict.fromkeys([*DATA, "base", "sft", "release"], "reused"),
        **dict.fromkeys(["dpo", "evaluate"], "taken up again"),
    }
    assert sha256_of_file(copied.output / "dpo/model/model.safetensors") == weights
    assert not kept.exists()
    assert again(copied, capsys) == dict.fromkeys([*DATA, *STAGES], "reused")


def test_from_runs_a_stage_again_though_it_is_current_and_gives_the_same_weights(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = sha256_of_file(copied.output / "sft/model/model.safetensors")
    done = again(copied, capsys, from_stage="sft", to_stage="sft")
    assert done == {**dict.fromkeys([*DATA, "base"], "reused"), "sft": "running"}
    assert sha256_of_file(copied.output / "sft/model/model.safetensors") == weights
    assert len(list(copied.output.glob("sft@*"))) == 1


def test_to_stops_behind_its_stage_and_the_paths_tell(tiny_recipe: Path, tmp_path: Path) -> None:
    paths = run_tiny(tiny_recipe, tmp_path / "run", to_stage="data")
    assert list(paths) == ["data"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"from_stage": "dop"},
            "--from dop: this recipe has the stages data, base, sft, dpo, evaluate, release",
        ),
        ({"to_stage": "eval"}, "--to eval: this recipe has"),
        ({"from_stage": "dpo", "to_stage": "sft"}, "dpo comes after sft"),
    ],
)
def test_stages_that_cannot_be_meant_are_refused_before_anything_is_written(
    tiny_recipe: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(StageError, match=re.escape(message)):
        run_tiny(tiny_recipe, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_result_with_a_missing_or_cut_file_is_made_again(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied.output / "data/taught/data.jsonl").write_text("")
    done = again(copied, capsys, to_stage="sft")
    assert done == {
        "data/chats": "reused",
        "data/taught": "running",
        **dict.fromkeys(["data/pairs", "base", "sft"], "reused"),
    }


def test_two_files_of_one_name_are_both_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against hashes kept by file name: the first of two `train.jsonl` could change unseen."""
    for folder in ("helpful", "harmless"):
        write_lines(tmp_path / folder / "train.jsonl", [chat_row(f"Are you {folder}?", "I try.")])
    recipe = write_recipe(tmp_path)
    one = TinyRun(recipe, tmp_path / "run")
    files = "data.chats.input=[helpful/train.jsonl, harmless/train.jsonl]"
    monkeypatch.chdir(tmp_path)
    assert again(one, capsys, files, to_stage="data")["data/chats"] == "running"
    write_lines(tmp_path / "helpful/train.jsonl", [chat_row("Are you sure?", "I am.")])
    assert again(one, capsys, files, to_stage="data")["data/chats"] == "running"
    rows = [row["messages"][0]["content"] for row in read_jsonl(one.output / "data/chats/data.jsonl")]
    assert rows == ["Are you sure?", "Are you harmless?"]


def test_held_out_rows_of_a_mix_entry_decide_what_the_tiny_base_may_read(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a reused base that has read rows which the changed recipe holds out."""
    done = again(copied, capsys, "dpo.mix.pairs.dev_rows=3", to_stage="base")
    assert done["base"] == "running"
    assert inputs(copied, "base")["held_out"]["dpo"] == [["pairs", 3, True]]


def test_a_changed_licence_or_count_is_released_again_without_training_again(
    tmp_path: Path, copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a card that keeps the numbers and terms of an older build of the same rows."""
    recipe, pairs = write_recipe(tmp_path / "mine"), tmp_path / "mine" / "pairs.jsonl"
    pairs.write_text(pairs.read_text() + pairs.read_text().splitlines()[-1] + "\n")
    one = TinyRun(recipe, copied.output)
    done = again(one, capsys, "data.taught.licence=MIT", "data.chats.revision=v7")
    assert done == {
        "data/chats": "reused",
        **dict.fromkeys(["data/taught", "data/pairs"], "running"),
        **dict.fromkeys(["base", "sft", "dpo", "evaluate"], "reused"),
        "release": "running",
    }
    card = (one.release / "README.md").read_text(encoding="utf-8")
    assert "| pairs | 15 | 12 | empty_side 2, identical_sides 1 | MIT | hh_rlhf | - |" in card
    assert "| taught | 4 | 4 | none | MIT |" in card
    assert "| chats | 22 | 22 | none | CC-BY-4.0 | files | v7 |" in card


def test_a_released_sft_model_does_not_claim_the_dpo_that_came_after_it(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    done = again(copied, capsys, "release.from=sft")
    assert done["release"] == "running"
    card = (copied.release / "README.md").read_text(encoding="utf-8")
    assert "with [tuning]: SFT." in card
    assert "### DPO" not in card
    assert sha256_of_file(copied.release / "model.safetensors") == sha256_of_file(
        copied.output / "sft/model/model.safetensors"
    )


# What is interrupted


def test_a_failed_build_leaves_no_folder_behind_once_it_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a `chats@<hash8>` with nothing in it for every attempt."""
    recipe = write_recipe(tmp_path)
    good = (tmp_path / "chats.jsonl").read_text()
    (tmp_path / "chats.jsonl").write_text(good + "{broken\n")
    with pytest.raises(ValueError, match=r"chats\.jsonl:23: .*\[invalid_json\]"):
        run_tiny(recipe, tmp_path / "run", to_stage="data")
    (tmp_path / "chats.jsonl").write_text(good)
    run_tiny(recipe, tmp_path / "run", to_stage="data")
    assert sorted(path.name for path in (tmp_path / "run/data").iterdir()) == ["chats", "pairs", "taught"]


def test_an_unfinished_stage_is_taken_up_where_it_stopped(
    copied: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    sft = copied.output / "sft"
    record = read_record(sft)
    assert record is not None
    weights = sha256_of_file(sft / "model/model.safetensors")
    # As a kill between the first checkpoint and the second would leave it.
    (sft / "record.json").unlink()
    (sft / "started.json").write_text(
        json.dumps({"fingerprint": record["fingerprint"], "inputs": record["inputs"]})
    )
    shutil.rmtree(sft / "model")
    shutil.rmtree(sft / "checkpoints/step-00000002")
    capsys.readouterr()
    run_tiny(copied.recipe, copied.output, to_stage="sft")
    assert "resumes after step 1/2" in capsys.readouterr().err
    assert sha256_of_file(sft / "model/model.safetensors") == weights
    assert [line["step"] for line in read_jsonl(sft / "metrics.jsonl")] == [1, 2]


def test_a_killed_run_started_again_ends_with_the_very_weights_of_an_uninterrupted_one(
    copied: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ["sft.max_steps=8", "sft.save_steps=1"]
    killed = TinyRun(copied.recipe, tmp_path / "killed")
    shutil.copytree(copied.output, killed.output)
    shutil.rmtree(killed.output / "sft")
    process = subprocess.Popen(
        [sys.executable, "-m", "tuning", "run", str(killed.recipe), *changed, f"output={killed.output}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = killed.output / "sft/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() or metrics.read_text().count("\n") < 2:
        assert process.poll() is None, process.communicate()[1][-1000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_record(killed.output / "sft") is None
    for one in (killed, copied):
        capsys.readouterr()
        run_tiny(one.recipe, one.output, *changed, to_stage="sft")
        assert ("resumes after step" in capsys.readouterr().err) == (one == killed)
    weights, others = (load_file(one.output / "sft/model/model.safetensors") for one in (killed, copied))
    assert set(weights) == set(others)
    assert all(weights[name].equal(others[name]) for name in weights)
    lines, straight = (list(read_jsonl(one.output / "sft/metrics.jsonl")) for one in (killed, copied))
    assert [(line["step"], line["loss"]) for line in lines] == [
        (line["step"], line["loss"]) for line in straight
    ]


# What stops a run before it starts


def messages(recipe: Path, *overrides: str) -> list[str]:
    """What `check` says, whether the recipe could be loaded or not."""
    try:
        return [str(problem) for problem in check(load_recipe(recipe, list(overrides)))]
    except RecipeError as error:
        return [str(problem) for problem in error.problems]


def test_a_sound_recipe_has_no_problems_and_checking_writes_nothing(tiny_recipe: Path) -> None:
    before = sorted(tiny_recipe.parent.rglob("*"))
    assert messages(tiny_recipe) == []
    assert sorted(tiny_recipe.parent.rglob("*")) == before


def test_an_unknown_option_of_a_builder_is_named(tiny_recipe: Path) -> None:
    [message] = messages(tiny_recipe, "data.chats.options.from=messages")
    assert "data.chats.options.from" in message
    assert "did you mean form?" in message


@pytest.mark.parametrize(
    ("splits", "said"),
    [("[dev, trian]", "saw 'trian'; did you mean train?; accepted: train, dev, test"), ("[]", "saw none")],
)
def test_a_split_that_a_builder_does_not_know_is_named_before_anything_is_built(
    tmp_path: Path, splits: str, said: str
) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "NP.xml").write_text("<jsem-dataset/>")
    recipe.write_text(
        recipe.read_text().replace(
            "data:\n",
            f"data:\n  nlu: {{builder: jaster, input: [NP.xml], options: {{splits: {splits}}}}}\n",
        )
    )
    [message] = messages(recipe)
    assert message.startswith(f"{recipe}:6: jaster.splits: {said}")


def test_commercial_use_names_the_source_its_terms_and_what_to_remove(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "ichikara.json").write_text(json.dumps([{"ID": "1", "text": "海は", "output": "広い。"}]))
    text = recipe.read_text().replace(
        "data:\n", "data:\n  own: {builder: ichikara, input: [ichikara.json]}\n"
    )
    recipe.write_text(text.replace("mix: {chats: {},", "mix: {own: {}, chats: {},"))
    assert messages(recipe, "release.licence=null") == []
    [message] = messages(recipe, "use=commercial", "release.licence=null")
    assert message.startswith(
        f"{recipe}:6: use: commercial is forbidden by own (CC-BY-NC-SA-4.0: non-commercial;"
    )
    assert message.endswith("remove data.own, sft.mix.own")


def test_commercial_use_is_measured_by_the_licence_that_the_recipe_states(tiny_recipe: Path) -> None:
    """Guards against a stated non-commercial licence that passed because the builder knew none."""
    assert messages(tiny_recipe, "use=commercial") == []
    stated = ["data.taught.licence=CC-BY-NC-4.0", "release.licence=null"]
    [message] = messages(tiny_recipe, "use=commercial", *stated)
    assert "forbidden by taught (CC-BY-NC-4.0: non-commercial)" in message
    assert message.endswith("remove data.taught, sft.mix.taught, evaluate.questions")


def test_a_base_of_pickled_weights_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    text = recipe.read_text()
    recipe.write_text(re.sub(r"base: tiny\n(.*\n)tiny: .*\n", r"base: base\n\1", text))
    shutil.copytree(tiny_run.output / "base/model", tmp_path / "base")
    assert messages(recipe) == []
    (tmp_path / "base/model.safetensors").rename(tmp_path / "base/pytorch_model.bin")
    [message] = messages(recipe)
    assert message.startswith(
        f"{recipe}:2: {tmp_path / 'base'} has no *.safetensors; pickled weights are not loaded"
    )


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.chats.input=[tests]", "a folder, not a file"),
        ("data.chats.input=[README.txt]", "no file README.txt"),
        ("data.chats.input=[pyproject.toml]", "not a known format; accepted endings: .jsonl"),
        ("template=base", "base: tiny has none"),
        ("output=pyproject.toml", "output: pyproject.toml is a file"),
        ("output=pyproject.toml/run", "output: pyproject.toml is a file"),
    ],
)
def test_what_would_stop_a_run_later_is_found_by_check(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, override: str, part: str
) -> None:
    monkeypatch.chdir(ROOT)
    [message] = messages(tiny_recipe, override)
    assert part in message


def test_a_source_too_small_for_its_weight_stops_with_its_reason(copied: TinyRun) -> None:
    with pytest.raises(MixtureError, match=r"weight 0\.1 of the 4 groups of taught takes none"):
        run_tiny(copied.recipe, copied.output, "sft.mix.taught.weight=0.1", to_stage="sft")


def test_changed_keys_are_named_by_their_dotted_leaves() -> None:
    old = {"settings": {"beta": 0.1, "mix": [1]}, "seed": 1, "gone": None}
    new = {"settings": {"beta": 0.5, "mix": [1]}, "seed": 1.0, "new": None}
    assert changed_keys(old, new) == ["gone", "new", "seed", "settings.beta"]


def test_no_held_out_text_is_pretrained_on_even_if_another_source_has_it(tmp_path: Path) -> None:
    """A request stands in the chats and, with the same answer, in the pairs: held out of one, out of both."""
    recipe_file = write_recipe(tmp_path)
    pairs = []
    for index, one in enumerate(WORDS):
        asked = f"\n\nHuman: Tell me of the {one}.\n\nAssistant: "
        chosen = f"{asked}The {one} is near the {WORDS[index - 1]}. 海🇯🇵"
        pairs.append({"chosen": chosen, "rejected": f"{asked}No."})
    write_lines(tmp_path / "pairs.jsonl", pairs)
    recipe = load_recipe(recipe_file, [f"output={tmp_path / 'run'}", "sft.mix.chats.dev_rows=8"])
    paths = run(recipe, to_stage="data", quiet=True)
    places = Paths("", {name: paths["data"] / name for name in recipe.data}, tmp_path, tmp_path)
    rows = rows_by_stage(recipe, places)["sft"]["chats"]
    dev = split(rows, shares(recipe.sft)["chats"], recipe.seed, "chats").dev  # type: ignore[arg-type]
    texts = training_texts(recipe, places)
    assert len(dev) == 8
    assert not {text for row in dev for text in plain_texts(row)} & set(texts)
    assert any("near the" in text for text in texts)
