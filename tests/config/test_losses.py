"""Which losses and settings a recipe may put together, and what a wrong choice is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuning.config import RecipeError, load_recipe

RECIPE = """\
name: chat
base: tiny
template: llm-jp-v3
data:
  pairs: {builder: files, input: [pairs.jsonl]}
dpo:
  mix: {pairs: {}}
  learning_rate: 1.0e-6
"""


def problems(tmp_path: Path, *overrides: str) -> list[str]:
    (tmp_path / "pairs.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "my.yaml").write_text(RECIPE, encoding="utf-8")
    try:
        load_recipe(tmp_path / "my.yaml", overrides)
    except RecipeError as error:
        return [problem.message for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "overrides",
    [
        ["dpo.loss=ipo", "dpo.divergence=js_divergence"],
        ["dpo.loss=exo_pair", "dpo.label_smoothing=0.001"],
        ["dpo.loss_terms={sigmoid: 0.8, bco_pair: 0.2}", "dpo.sft_weight=1"],
        ["dpo.loss_terms={aot: 1, aot_unpaired: 1}"],
        ["dpo.loss=simpo", "dpo.gamma=0.4", "dpo.ld_alpha=0.5"],
        ["dpo.loss=kto", "dpo.undesirable_weight=1.3"],
        ["dpo.loss=apo_zero_unpaired", "dpo.desirable_weight=1.3"],
        ["dpo.loss=alphapo", "dpo.alphapo_alpha=-0.5", "dpo.gamma=0.4"],
        ["dpo.divergence=alpha_divergence", "dpo.divergence_alpha=0.3"],
        ["dpo.mix.pairs={beta: 0.3, min_margin: 1, max_margin: 2}", "dpo.lora={rank: 4}"],
        ["reward={mix: {pairs: {min_margin: 1}}, learning_rate: 1e-5}"],
        ["dpo.loss_terms={simpo: 1, ipo: 1}", "dpo.reference=live"],
    ],
)
def test_what_goes_together(tmp_path: Path, overrides: list[str]) -> None:
    assert problems(tmp_path, *overrides) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["dpo.loss=sigmoyd"], "one of sigmoid, robust"),
        (["dpo.loss=simpo", "dpo.reference=live"], "dpo.reference: simpo has no reference; take it out"),
        (["dpo.loss=orpo", "dpo.reference_store=x"], "dpo.reference_store: orpo has no reference"),
        (["dpo.reference=live", "dpo.reference_store=x"], "with dpo.reference: live nothing is stored"),
        (["dpo.lora={rank: 4, dropout: 0.05}"], "dpo.lora.dropout: a preference is learnt without dropout"),
        (["dpo.loss=aot", "dpo.mix.pairs.beta=0.3"], "dpo.mix.pairs.beta: aot sorts the answers of a step"),
        (["dpo.mix.pairs={min_margin: 5, max_margin: 1}"], "min_margin: saw 5; accepted: at most max_margin"),
        (["dpo.loss=kto", "dpo.desirable_weight=0", "dpo.undesirable_weight=0"], "so nothing is learnt"),
        (["sft={mix: {pairs: {beta: 0.3}}, learning_rate: 1e-5}"], "sft.mix.pairs.beta: sft has no beta"),
        (["sft={mix: {pairs: {min_margin: 1}}, learning_rate: 1e-5}"], "sft mixes conversations, which have"),
        (["reward={mix: {pairs: {beta: 1}}, learning_rate: 1e-5}"], "reward.mix.pairs.beta: reward has no"),
        (
            ["dpo.loss=hinge", "dpo.label_smoothing=0.1"],
            "hinge has no such setting; losses that have it: sig",
        ),
        (["dpo.gamma=1"], "sigmoid has no such setting; losses that have it: simpo"),
        (["dpo.loss=simpo", "dpo.divergence=forward_kl"], "simpo has no such setting"),
        (["dpo.loss=exo_pair"], "exo_pair needs dpo.label_smoothing above 0, such as 1e-3"),
        (["dpo.loss=alphapo"], "alphapo needs dpo.alphapo_alpha other than 0, such as 0.25"),
        (["dpo.loss=simpo", "dpo.alphapo_alpha=0.25"], "losses that have it: alphapo"),
        (["dpo.loss=cpo_ipo", "dpo.reference=live"], "dpo.reference: cpo_ipo has no reference"),
        (["dpo.loss_terms={apo_zero_unpaired: 1, sigmoid: 1}"], "stands alone"),
        (["dpo.loss=robust", "dpo.label_smoothing=0"], "robust needs dpo.label_smoothing above 0"),
        (["dpo.divergence_alpha=0.3"], "only divergence: alpha_divergence has it"),
        (["dpo.loss=ipo", "dpo.loss_terms={ipo: 1}"], "given together with dpo.loss"),
        (["dpo.loss_terms={}"], "dpo.loss_terms is empty"),
        (["dpo.loss_terms={sft: 1, sigmoid: 1}"], "the SFT term has a setting of its own"),
        (["dpo.loss_terms={sigmoit: 1}"], "dpo.loss_terms.sigmoit is not a loss"),
        (["dpo.loss_terms={sigmoid: -1}"], "accepted: a number above 0"),
        (["dpo.loss_terms={aot: 1, sigmoid: 1}"], "aot compares the rows of a step"),
        (["dpo.loss_terms={kto: 1, aot: 1}"], "stands alone"),
        (["dpo.loss=aot", "dpo.weigh_by_policy=true"], "a pair has no weight of its own"),
        (["dpo.loss=plackett_luce", "dpo.ld_alpha=0.5"], "plackett_luce has no pair"),
        (["dpo.label_smoothing=0.5"], "below 0.5"),
        (["dpo.reference=frozen"], "one of store, live"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, overrides: list[str], expected: str) -> None:
    found = problems(tmp_path, *overrides)
    assert any(expected in message for message in found), found
