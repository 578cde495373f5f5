"""Every kind of preference row and loss, and a live reference, from raw file to a trained model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_tiny, write_lines, write_recipe
from tuning.mixture import MixtureError
from tuning.records import read_json, read_jsonl

ANSWERS = ["the sea is wide", "the river runs to it", "past a town", "where people sell rice", "and paper"]


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Say {number}."}]


def answer(number: int) -> str:
    return f"{ANSWERS[number % 5]} {number}"


def lines_of(
    tmp_path: Path, rows: list[dict[str, Any]], *overrides: str
) -> tuple[list[dict[str, Any]], Path]:
    """The lines of the dpo stage's metrics, and its folder; five rows a step, two steps."""
    recipe = write_recipe(tmp_path)
    write_lines(tmp_path / "own.jsonl", rows)
    text = recipe.read_text(encoding="utf-8")
    text = text.replace(
        "pairs: {builder: hh_rlhf, input: [pairs.jsonl]}", "own: {builder: files, input: [own.jsonl]}"
    )
    recipe.write_text(
        text.replace("mix: {pairs: {dev_rows: 2}}", "mix: {own: {dev_rows: 2}}"), encoding="utf-8"
    )
    settings = ["dpo.batch_pairs=5", "sft=null"]
    paths = run_tiny(recipe, tmp_path / "run", *settings, *overrides, to_stage="dpo")
    return list(read_jsonl(paths["dpo"] / "metrics.jsonl")), paths["dpo"]


def test_rankings_train_under_plackett_luce(tmp_path: Path) -> None:
    """At the first step every order is equally likely: three answers have 3! orders, so the loss is ln 6."""
    rows = [{"prompt": asked(n), "ranked": [answer(n), answer(n + 1), answer(n + 2)]} for n in range(12)]
    lines, folder = lines_of(tmp_path, rows, "dpo.loss=plackett_luce")
    assert lines[0]["loss"] == pytest.approx(math.log(6), abs=1e-12)
    assert lines[1]["loss"] != lines[0]["loss"]
    counts = read_json(folder / "record.json")["result"]["sources"]["own"]
    assert counts["rows_kept"] == 12 and counts["notes"] == {}


def test_a_pair_loss_takes_the_ends_of_a_ranking_and_counts_the_rest(tmp_path: Path) -> None:
    rows = [{"prompt": asked(n), "ranked": [answer(n), answer(n + 1), answer(n + 2)]} for n in range(12)]
    lines, folder = lines_of(tmp_path, rows, "dpo.reference=live")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-12)
    counts = read_json(folder / "record.json")["result"]["sources"]["own"]
    assert counts["notes"]["ranked_between_unused"] == 12


def test_judged_answers_train_under_kto(tmp_path: Path) -> None:
    """The policy is the reference at first: every answer loses 1 - sigmoid(0), a bad one twice that."""
    rows = [
        {"prompt": asked(n), "completion": answer(n), "label": n % 2 == 0, "id": f"judged-{n}"}
        for n in range(12)
    ]
    course = ("dpo.mix.own.dev_rows=4", "dpo.eval_steps=1", "dpo.best_by=loss")
    lines, folder = lines_of(tmp_path, rows, "dpo.loss=kto", "dpo.undesirable_weight=2", *course)
    held_out = list(read_jsonl(folder / "evaluation.jsonl"))
    assert len(held_out) == 2 and held_out[0]["loss"] != held_out[1]["loss"]
    total = 5 * lines[0]["loss"] / 0.5  # good answers and twice the bad ones among five
    assert total == pytest.approx(round(total), abs=1e-9) and 5 <= total <= 10
    assert "kl" in lines[0]


def test_judged_answers_train_without_the_answers_of_strangers(tmp_path: Path) -> None:
    """APO-zero has no KL to estimate: nothing but the rows' own answers is computed."""
    rows = [{"prompt": asked(n), "completion": answer(n), "label": n % 2 == 0} for n in range(12)]
    tokens = {}
    for loss in ("kto", "apo_zero_unpaired"):
        lines, _ = lines_of(tmp_path / loss, rows, f"dpo.loss={loss}", "dpo.reference=live")
        assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-9)
        assert ("kl" in lines[0]) == (loss == "kto")
        tokens[loss] = sum(line["tokens"] for line in lines)
    assert tokens["apo_zero_unpaired"] < tokens["kto"]


@pytest.mark.parametrize("figure", ["accuracy", "rewards/margins", "rewards/accuracies/own"])
def test_figures_of_pairs_cannot_choose_among_judged_answers(figure: str, tmp_path: Path) -> None:
    """Guards against a KeyError at the first evaluation."""
    rows = [{"prompt": asked(n), "completion": answer(n), "label": n % 2 == 0} for n in range(12)]
    course = ("dpo.mix.own.dev_rows=4", "dpo.eval_steps=1", f"dpo.best_by={figure}")
    with pytest.raises(
        MixtureError, match=r"dpo\.best_by: the rows of \w.* judged one by one.*accepted: loss"
    ):
        lines_of(tmp_path, rows, "dpo.loss=kto", *course)


@pytest.mark.parametrize(
    ("figure", "loss"), [("loss/own", "sigmoid"), ("rewards/margins/own", "simpo"), ("accuracy/own", "aot")]
)
def test_the_only_source_may_be_named_by_what_chooses(figure: str, loss: str, tmp_path: Path) -> None:
    """A run of one source has its figures under their plain names; guards against a KeyError."""
    rows = [{"prompt": asked(n), "chosen": answer(n), "rejected": answer(n + 1)} for n in range(24)]
    _, folder = lines_of(tmp_path, rows, f"dpo.loss={loss}", "dpo.eval_steps=1", f"dpo.best_by={figure}")
    best, name = read_json(folder / "record.json")["result"]["best"], figure.removesuffix("/own")
    held_out = [line[name] for line in read_jsonl(folder / "evaluation.jsonl")]
    assert best["figure"] == (min(held_out) if name == "loss" else max(held_out))


def test_a_loss_without_reference_chooses_its_best_step_by_its_own_loss(tmp_path: Path) -> None:
    rows = [{"prompt": asked(n), "chosen": answer(n), "rejected": answer(n + 1)} for n in range(24)]
    course = ("dpo.eval_steps=1", "dpo.best_by=loss")
    _, folder = lines_of(tmp_path, rows, "dpo.loss=simpo", "dpo.beta=2", *course)
    held_out = list(read_jsonl(folder / "evaluation.jsonl"))
    best = read_json(folder / "record.json")["result"]["best"]
    assert best["figure"] == min(line["loss"] for line in held_out)


def test_a_mix_entry_chooses_by_margin_and_brings_its_beta(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": asked(n),
            "chosen": answer(n),
            "rejected": answer(n + 1),
            **({"meta": {"chosen_score": n, "rejected_score": 2}} if n else {}),
        }
        for n in range(12)
    ]
    mix = "dpo.mix.own={dev_rows: 0, min_margin: 1, max_margin: 8, beta: 0.7}"
    lines, folder = lines_of(tmp_path, rows, mix, "dpo.beta=0.1", "dpo.loss=ipo")
    counts = read_json(folder / "record.json")["result"]["sources"]["own"]
    assert counts["rows_dropped"] == {"no_margin": 1, "small_margin": 2, "large_margin": 1}
    assert counts["rows_kept"] == 8
    assert lines[0]["loss"] == pytest.approx((1 / (2 * 0.7)) ** 2, abs=1e-12)  # IPO at h = 0, with its beta


def test_an_sft_term_and_several_losses_stand_in_the_metrics(tmp_path: Path) -> None:
    rows = [{"prompt": asked(n), "chosen": answer(n), "rejected": answer(n + 1)} for n in range(12)]
    terms = "dpo.loss_terms={sigmoid: 0.8, bco_pair: 0.2}"
    [first, _], _ = lines_of(tmp_path, rows, terms, "dpo.sft_weight=0.5", "dpo.ld_alpha=0.3")
    assert first["loss/sigmoid"] == pytest.approx(math.log(2)) and first["nll_loss"] > 0
    assert first["loss/bco_pair"] == pytest.approx(2 * math.log(2))
    expected = 0.8 * math.log(2) + 0.2 * 2 * math.log(2) + 0.5 * first["nll_loss"]
    assert first["loss"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("own", [{"beta": 0.3}, {"loss_weight": 2}])
def test_a_loss_that_takes_pairs_apart_refuses_what_a_pair_says_of_itself(
    own: dict[str, float], tmp_path: Path
) -> None:
    rows = [{"prompt": asked(n), "chosen": answer(n), "rejected": answer(n + 1)} for n in range(12)]
    rows[7] |= own  # type: ignore[arg-type]
    with pytest.raises(MixtureError, match=r"row own-00008 has a (weight 2|beta 0\.3) of its own; aot sorts"):
        lines_of(tmp_path, rows, "dpo.loss=aot", "dpo.mix.own.dev_rows=0")
