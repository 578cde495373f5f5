"""From prompts to a dataset of pairs: counts, provenance, refusals, kills, and DPO steps on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_builders import BuilderError, build
from data_builders.asking.answers import AskingStopped
from tests.conftest import TinyRun, run_tiny
from tests.pairs.conftest import Model, Reply, built_rows, judged, lines_of, numbered, prompts_file
from tests.pairs.test_pairs_scorers import Serve
from tuning.cli import main
from tuning.pairs import LocalModel, Sampling, ServedModel, build_pairs
from tuning.schema import parse_row

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("TUNING_SHARED", ROOT.parent / "shared"))
SHORT = Sampling(max_new_tokens=24)
RULES = ["rules:length=10..40,stops,no_loop"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def balanced(manifest: dict[str, Any]) -> bool:
    return bool(manifest["rows_in"] == manifest["rows_kept"] + sum(manifest["rows_dropped"].values()))


def test_a_local_model_answers_and_every_prompt_is_accounted_for(model_folder: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a river"}, {"role": "assistant", "content": "rice"}]
    rows = [
        {"messages": turns, "group": "tree-1", "meta": {"category": "talk", "score": 3}},
        {"messages": [turns[0], {"role": "assistant", "content": "another answer"}]},
        {"messages": [{"role": "user", "content": "sea " * 90}, turns[1]]},
        *({"messages": [{"role": "user", "content": f"the town {at}"}, turns[1]]} for at in range(5)),
    ]
    source = built_rows(tmp_path, rows, language="en")
    manifest = build_pairs(source, tmp_path / "out", LocalModel(model_folder, sampling=SHORT), score=RULES)
    assert balanced(manifest)
    assert (manifest["rows_in"], manifest["counts"]["prompts"], manifest["counts"]["answers"]) == (8, 8, 48)
    assert manifest["rows_dropped"]["duplicate_prompt"] == 1
    assert manifest["rows_dropped"]["too_long"] == 1
    pairs = lines_of(tmp_path / "out" / "data.jsonl")
    assert pairs
    first = pairs[0]
    assert first["prompt"] == turns[:1]
    assert (first["id"], first["source"], first["group"]) == ("talks-00001", "talks-pairs", "tree-1")
    meta = first["meta"]
    assert (meta["language"], meta["category"]) == ("en", "talk")
    assert "score" not in meta  # of the answer that was not taken
    assert meta["chosen_score"] == pytest.approx(sum(meta["scores"]["chosen"].values()), abs=1e-6)
    assert meta["margin"] == pytest.approx(meta["chosen_score"] - meta["rejected_score"])
    for row in pairs:
        parse_row(row)
        assert "chosen" not in row["meta"]["unfinished"]
        assert row["meta"]["margin"] > 0


def test_the_answers_stand_beside_the_pairs_with_scores_and_fate(model_folder: Path, tmp_path: Path) -> None:
    sampler = LocalModel(model_folder, sampling=SHORT)
    build_pairs(prompts_file(tmp_path), tmp_path / "out", sampler, score=RULES, answers=5)
    pairs = {row["id"]: row for row in lines_of(tmp_path / "out" / "data.jsonl")}
    lines = lines_of(tmp_path / "out" / "candidates.jsonl")
    assert [line["id"] for line in lines] == [f"asked-{at:05d}" for at in range(1, 7)]
    for line in lines:
        assert [answer["number"] for answer in line["answers"]] == [0, 1, 2, 3, 4]
        used = {answer["used_as"][0]: answer for answer in line["answers"] if answer["used_as"]}
        assert (line["dropped"] is None) == (line["id"] in pairs) == (set(used) == {"chosen", "rejected"})
        if used:
            pair = pairs[line["id"]]
            assert pair["chosen"][0]["content"] == used["chosen"]["text"].strip()
            assert pair["meta"]["rejected_score"] == used["rejected"]["score"]
            rivals = [answer["score"] for answer in line["answers"] if answer["finished"]]
            assert used["chosen"]["score"] == max(score for score in rivals if score is not None)


def test_terms_of_the_prompts_and_of_the_model_reach_the_manifest(model_folder: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "sea"}, {"role": "assistant", "content": "b"}]}]
    source = built_rows(tmp_path, rows, licence="CC-BY-SA-4.0", attribution="ACME")
    manifest = build_pairs(
        source,
        tmp_path / "out",
        LocalModel(model_folder, sampling=SHORT),
        score=RULES,
        licence="CC-BY-NC-4.0",
        restrictions=["no competing models"],
    )
    assert manifest["licence"] == "CC-BY-SA-4.0 AND CC-BY-NC-4.0"
    assert manifest["commercial"] is False
    assert manifest["attribution"].startswith("ACME; answers sampled from pairs-model")
    assert "no competing models" in manifest["use_restrictions"]
    assert manifest["prompts_of"]["data_sha256"]
    assert manifest["sampler"]["sampling"] == {
        **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 24, "seed": 0},
    }
    assert [one["name"] for one in manifest["scorers"]] == ["length", "stops", "no_loop"]


def test_the_second_time_nothing_is_sampled_and_fewer_prompts_first_change_nothing(
    model_folder: Path, tmp_path: Path
) -> None:
    """The tiny model's weights are gone after the first build."""
    prompts = prompts_file(tmp_path)
    whole = tmp_path / "whole"
    build_pairs(prompts, whole / "out", LocalModel(model_folder, sampling=SHORT), score=RULES)
    resumed = tmp_path / "resumed"
    sampler = LocalModel(model_folder, sampling=SHORT)
    build_pairs(prompts, resumed / "out", sampler, score=RULES, first=2)
    build_pairs(prompts, resumed / "out", sampler, score=RULES)
    assert files_of(resumed / "out") == files_of(whole / "out")
    again = LocalModel(model_folder, sampling=SHORT)
    again.open = lambda: pytest.fail("the model was opened")  # type: ignore[method-assign, assignment]
    build_pairs(prompts, resumed / "out", again, score=RULES)
    assert files_of(resumed / "out") == files_of(whole / "out")


def test_other_scores_ask_the_sampler_for_nothing_and_more_answers_only_for_those(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(numbered)
    prompts = prompts_file(tmp_path, 3)
    build_pairs(prompts, tmp_path / "out", ServedModel(server.url, "mine"), score=RULES, answers=4)
    assert len(server.bodies) == 12
    build_pairs(prompts, tmp_path / "out", ServedModel(server.url, "mine"), score=["rules:stops"], answers=4)
    assert len(server.bodies) == 12
    build_pairs(prompts, tmp_path / "out", ServedModel(server.url, "mine"), score=RULES, answers=6)
    assert len(server.bodies) == 18


def test_a_served_model_and_a_judge_make_the_pairs_that_the_scores_say(serve: Serve, tmp_path: Path) -> None:
    """The judge gives a point a word, the seed of an answer its words: the pair follows from the seeds."""
    mine, judge = serve(numbered), serve(judged)
    manifest = build_pairs(
        prompts_file(tmp_path, 4),
        tmp_path / "out",
        ServedModel(mine.url, "mine"),
        score=[f"0.5*judge:{judge.url}?model=judge"],
    )
    assert manifest["rows_kept"] == 4
    assert balanced(manifest)
    seeds: dict[str, list[int]] = {}
    for body in mine.bodies:
        seeds.setdefault(body["messages"][0]["content"], []).append(body["seed"] % 10)
    for row in lines_of(tmp_path / "out" / "data.jsonl"):
        digits = seeds[row["prompt"][0]["content"]]
        best, worst = max(digit for digit in digits if digit != 9), min(digits)
        assert row["chosen"][0]["content"].split() == ["word"] * (best + 1)
        assert row["rejected"][0]["content"].split() == ["word"] * (worst + 1)
        assert row["meta"]["chosen_score"] == 0.5 * (best + 1)
        assert row["meta"]["scores"]["chosen"] == {"judge:judge": best + 1}
    assert manifest["counts"]["answers_duplicate"] == 32 - sum(len(set(digits)) for digits in seeds.values())


def test_all_pairs_share_a_group_and_balance(serve: Serve, tmp_path: Path) -> None:
    server = serve(numbered)
    manifest = build_pairs(
        prompts_file(tmp_path, 3),
        tmp_path / "out",
        ServedModel(server.url, "mine"),
        score=["rules:length=100..200"],
        select="all",
        min_margin=0.05,
    )
    rows = lines_of(tmp_path / "out" / "data.jsonl")
    assert balanced(manifest)
    assert manifest["counts"]["further_pairs"] == len(rows) - 3
    assert len({row["group"] for row in rows}) == 3
    assert len(rows) > 6
    assert all(row["meta"]["margin"] >= 0.05 for row in rows)


def test_replies_of_a_judge_that_are_no_score_are_counted(serve: Serve, tmp_path: Path) -> None:
    mine = serve(numbered)
    judge = serve(lambda body: ("seven", "stop"))
    manifest = build_pairs(
        prompts_file(tmp_path, 1),
        tmp_path / "out",
        ServedModel(mine.url, "mine"),
        score=[f"judge:{judge.url}?model=judge"],
    )
    num_answers = 8 - manifest["counts"].get("answers_duplicate", 0)
    assert manifest["rows_dropped"] == {"too_few_scores": 1}
    assert manifest["counts"]["judge_unparsed"] == len(judge.bodies) == 3 * num_answers
    assert manifest["counts"]["no_score_judge:judge"] == num_answers


@pytest.mark.parametrize(
    "wrong", ["prompts", "score", "answers", "select", "server", "model", "key", "output"]
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    serve: Serve, tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(numbered)
    (tmp_path / "prompts").mkdir()
    prompts = prompts_file(tmp_path / "prompts")
    given: dict[str, Any] = {"score": RULES}
    output, url, model, key = tmp_path / "out", server.url, "mine", None
    if wrong == "prompts":
        prompts = tmp_path / "none"
    if wrong == "score":
        given["score"] = ["rules:polite"]
    if wrong == "answers":
        given["answers"] = 1
    if wrong == "select":
        given["select"] = "worst"
    if wrong == "server":
        url = "http://127.0.0.1:9/v1"
    if wrong == "model":
        model = "other"
    if wrong == "key":
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        key = "NO_SUCH_KEY"
    if wrong == "output":
        output = prompts.parent
    expected = {
        **{"prompts": "none: no such file", "score": "unknown_rule", "answers": "above 1", "select": "best_"},
        **{"server": "no_server", "model": "it serves: mine, judge", "key": "no_key", "output": "bad_output"},
    }
    with pytest.raises(BuilderError, match=expected[wrong]):
        build_pairs(prompts, output, ServedModel(url, model, key_variable=key), **given)
    assert not server.bodies
    assert not (tmp_path / "out").exists()


def test_the_key_is_sent_and_written_nowhere(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIAL_KEY", "secret-4711")
    mine, judge = serve(numbered), serve(judged)
    arguments = [
        "pairs",
        "build",
        "--prompts",
        str(prompts_file(tmp_path, 2)),
        "--output",
        str(tmp_path / "out"),
    ]
    arguments += ["--endpoint", mine.url, "--served-model", "mine", "--key-variable", "TRIAL_KEY"]
    arguments += ["--score", f"judge:{judge.url}?model=judge&key_variable=TRIAL_KEY", "--answers", "4"]
    assert main(arguments) == 0
    assert set(mine.keys) == set(judge.keys) == {"Bearer secret-4711"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    shown = "".join(capfd.readouterr())
    assert b"4711" not in written
    assert "4711" not in shown
    assert "2 rows in, 2 kept, dropped: none" in shown
    assert "pairs sample rows=2/2" in shown


def test_a_server_that_goes_away_stops_the_run_and_leaves_the_output_as_it_was(
    serve: Serve, tmp_path: Path
) -> None:
    asked = 0

    def reply(body: dict[str, Any]) -> Reply | int:
        nonlocal asked
        asked += 1
        return numbered(body) if asked <= 5 else 401

    server = serve(reply)
    sampler = ServedModel(server.url, "mine", concurrency=1)
    with pytest.raises(AskingStopped, match="status 401"):
        build_pairs(prompts_file(tmp_path), tmp_path / "out", sampler, score=RULES)
    assert not (tmp_path / "out").exists()
    asked = -100
    build_pairs(prompts_file(tmp_path), tmp_path / "out", sampler, score=RULES)
    assert len(server.bodies) == 48 + 1  # the five answers were kept, the refused one asked again


def test_a_killed_run_ends_with_the_same_bytes_and_asks_only_again_what_was_in_flight(
    serve: Serve, tmp_path: Path
) -> None:
    mine, judge = serve(numbered), serve(judged)
    mine.seconds = judge.seconds = 0.02
    prompts = prompts_file(tmp_path, 12)

    def started(folder: Path) -> subprocess.Popen[bytes]:
        arguments = ["pairs", "build", "--prompts", str(prompts), "--output", str(folder / "out")]
        arguments += ["--endpoint", mine.url, "--served-model", "mine", "--concurrency", "2"]
        arguments += ["--score", f"judge:{judge.url}?model=judge", "--score", "rules:stops"]
        command = [sys.executable, "-m", "tuning", *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def num_asked(models: list[Model]) -> int:
        return sum(len(model.bodies) for model in models)

    straight = started(tmp_path / "straight")
    assert straight.wait(120) == 0
    needed = num_asked([mine, judge])
    assert len(mine.bodies) == 96
    kills = (40, 120)  # while it samples, and while it judges
    for moment in kills:
        process = started(tmp_path / "killed")
        deadline = time.monotonic() + 60
        while num_asked([mine, judge]) < needed + moment and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "out").exists()
    process = started(tmp_path / "killed")
    assert process.wait(120) == 0
    assert files_of(tmp_path / "killed" / "out") == files_of(tmp_path / "straight" / "out")
    # two requests of the sampler may be in flight at a kill, of the judge 32
    assert needed <= num_asked([mine, judge]) - needed <= needed + len(kills) * 34
    different = {json.dumps(body, sort_keys=True) for body in mine.bodies}
    assert len(different) == 96
    assert len(mine.bodies) <= 2 * 96 + 2 * len(kills)


def test_pairs_of_the_models_own_answers_train_a_dpo_stage(tiny_run: TinyRun, tmp_path: Path) -> None:
    """The released model answers the questions it was tuned on; its recipe takes the pairs as a source."""
    prompts = tiny_run.output / "data" / "chats"
    sampler = LocalModel(tiny_run.release, sampling=Sampling(max_new_tokens=16))
    manifest = build_pairs(
        prompts, tmp_path / "pairs", sampler, score=["rules:length=5..30"], answers=4, unfinished="keep"
    )
    assert manifest["licence"] == "CC-BY-4.0"
    assert manifest["rows_kept"] >= 8
    folders = run_tiny(
        tiny_run.recipe,
        tmp_path / "run",
        "data.pairs.builder=files",
        f"data.pairs.input=[{tmp_path / 'pairs' / 'data.jsonl'}]",
        to_stage="dpo",
    )
    record = json.loads((folders["dpo"] / "record.json").read_text())
    built = json.loads((tmp_path / "run" / "data" / "pairs" / "manifest.json").read_text())
    assert (built["licence"], built["rows_kept"]) == ("CC-BY-4.0", manifest["rows_kept"])
    assert "answers sampled from release@" in built["attribution"]
    losses = [row["loss"] for row in lines_of(folders["dpo"] / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: policy and reference are the same at step 0
    assert record


@pytest.mark.skipif(not (SHARED / "tokenizers" / "llm-jp-v3").is_dir(), reason=f"{SHARED} is not here")
def test_real_prompts_go_through_the_real_tokenizer(tmp_path: Path) -> None:
    """Japanese dialogues of megagonlabs/instruction_ja, a random Llama with llm-jp-v3's 99,584 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tuning.chat import load_template
    from tuning.model.loading import load_tokenizer

    tokenizer = load_tokenizer(str(SHARED / "tokenizers" / "llm-jp-v3"))
    load_template("llm-jp-v3").install(tokenizer)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=99_584, bos_token_id=1, eos_token_id=2, **size)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    build("instruction_ja", SHARED / "data" / "instruction_ja" / "data.jsonl", tmp_path / "asked")
    manifest = build_pairs(
        tmp_path / "asked",
        tmp_path / "out",
        LocalModel(tmp_path / "model", sampling=Sampling(max_new_tokens=8)),
        score=["rules:length=20..60,language"],
        answers=3,
        unfinished="keep",
        first=20,
    )
    assert balanced(manifest)
    assert manifest["counts"]["prompts"] == 20
    assert manifest["rows_kept"] >= 15
    for row in lines_of(tmp_path / "out" / "data.jsonl"):
        parse_row(row)
        assert row["prompt"][-1]["role"] == "user"
