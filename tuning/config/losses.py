"""The preference losses that a recipe may name, the settings each has, and what is wrong with a choice.

`tuning.train.preference_losses` computes them; a test holds the two tables equal. A setting that no chosen
loss has is a mistake, not a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuning.config.checks import PREFERENCE_STAGES, TRAINED_STAGES, Draft
from tuning.config.errors import brief, nearest

_DIVERGENCE = ("divergence", "divergence_alpha")

LOSSES: dict[str, tuple[str, ...]] = {
    "sigmoid": ("label_smoothing", *_DIVERGENCE),
    "robust": ("label_smoothing", *_DIVERGENCE),
    "hinge": _DIVERGENCE,
    "ipo": _DIVERGENCE,
    "sigmoid_norm": _DIVERGENCE,
    "exo_pair": ("label_smoothing", *_DIVERGENCE),
    "nca_pair": (),
    "bco_pair": (),
    "sppo_hard": (),
    "apo_zero": (),
    "apo_down": (),
    "discopop": ("discopop_tau", *_DIVERGENCE),
    "aot": ("label_smoothing",),
    "aot_unpaired": ("label_smoothing",),
    "simpo": ("gamma", "label_smoothing"),
    "alphapo": ("alphapo_alpha", "gamma", "label_smoothing"),
    "cpo": ("label_smoothing",),
    "cpo_hinge": (),
    "cpo_ipo": (),
    "orpo": (),
    "plackett_luce": (),
    "kto": ("desirable_weight", "undesirable_weight"),
    "apo_zero_unpaired": ("desirable_weight", "undesirable_weight"),
}
"""Settings of each loss besides `beta`."""

REQUIRED = {"robust": "label_smoothing", "exo_pair": "label_smoothing", "alphapo": "alphapo_alpha"}
_USUAL = {
    "robust": "above 0, such as 0.1",
    "exo_pair": "above 0, such as 1e-3",
    "alphapo": "other than 0, such as 0.25",
}
REFERENCE_FREE = ("simpo", "alphapo", "cpo", "cpo_hinge", "cpo_ipo", "orpo")
SEES_STEP = ("aot", "aot_unpaired", "kto", "apo_zero_unpaired")
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
OPTIONS = (
    *("label_smoothing", "gamma", "alphapo_alpha", "discopop_tau", *_DIVERGENCE),
    *("desirable_weight", "undesirable_weight"),
)


def check_loss(draft: Draft) -> None:
    """The losses of `dpo` are known, and every setting that is given belongs to one of them; settings of
    pairs stand only where pairs are mixed."""
    _check_pair_settings(draft)
    dpo = draft.section("dpo")
    if not dpo or not draft.is_clean("dpo.loss"):
        return
    terms = dpo.get("loss_terms")
    if isinstance(terms, dict):
        _check_terms(draft, terms)
    names = loss_names(dpo)
    for option in OPTIONS:
        if dpo.get(option) is None or option == "divergence_alpha":
            continue
        without = [name for name in names if option not in LOSSES[name]]
        if without:
            having = ", ".join(name for name, options in LOSSES.items() if option in options)
            message = f"dpo.{option}: {', '.join(without)} has no such setting; losses that have it: {having}"
            draft.add(f"dpo.{option}", message)
    for name in names:
        if name in REQUIRED and not dpo.get(REQUIRED[name]):
            draft.add("dpo.loss", f"dpo.loss: {name} needs dpo.{REQUIRED[name]} {_USUAL[name]}")
    if dpo.get("divergence_alpha") is not None and dpo.get("divergence") != "alpha_divergence":
        message = "dpo.divergence_alpha: only divergence: alpha_divergence has it"
        draft.add("dpo.divergence_alpha", message)
    _check_modifiers(draft, dpo, names)
    _check_reference(draft, dpo, names)
    if draft.section("dpo.lora").get("dropout"):
        key = "dpo.lora.dropout"
        message = (
            f"{key}: a preference is learnt without dropout, since two passes may differ in weights alone"
        )
        draft.add(key, f"{message}; take it out")


def loss_names(dpo: Mapping[str, Any]) -> list[str]:
    """The known losses among those that the section names."""
    terms = dpo.get("loss_terms")
    names = list(terms) if isinstance(terms, dict) else [dpo.get("loss", "sigmoid")]
    return [name for name in names if name in LOSSES]


def _check_terms(draft: Draft, terms: dict[str, Any]) -> None:
    if "dpo.loss" in draft.places:
        draft.add("dpo.loss_terms", "dpo.loss_terms: given together with dpo.loss; give one of the two")
    if not terms:
        draft.add("dpo.loss_terms", "dpo.loss_terms is empty; accepted: weights by name of loss")
    for name, weight in terms.items():
        key = f"dpo.loss_terms.{name}"
        if name == "sft":
            draft.add(key, f"{key}: the SFT term has a setting of its own", "dpo.sft_weight")
        elif name not in LOSSES:
            draft.add(key, f"{key} is not a loss; losses: {', '.join(LOSSES)}", nearest(name, LOSSES))
        elif isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight <= 0:
            draft.add(key, f"{key}: saw {brief(weight)}; accepted: a number above 0")
    apart = [name for name in terms if name in SEES_STEP]
    if apart and not set(terms) <= {"aot", "aot_unpaired"} and len(terms) > 1:
        message = f"dpo.loss_terms: {apart[0]} compares the rows of a step with each other and stands alone"
        draft.add("dpo.loss_terms", message)


def _check_modifiers(draft: Draft, dpo: dict[str, Any], names: list[str]) -> None:
    sorting = [name for name in names if name in SEES_STEP]
    if sorting and dpo.get("weigh_by_policy"):
        message = f"dpo.weigh_by_policy: {sorting[0]} takes answers apart, so a pair has no weight of its own"
        draft.add("dpo.weigh_by_policy", message)
    ranked = "plackett_luce" in names
    if dpo.get("ld_alpha") is not None and (ranked or sorting):
        name = "plackett_luce" if ranked else sorting[0]
        draft.add("dpo.ld_alpha", f"dpo.ld_alpha: {name} has no pair whose shorter answer it could refer to")
    if dpo.get("weigh_by_policy") and ranked:
        draft.add("dpo.weigh_by_policy", "dpo.weigh_by_policy: plackett_luce ranks answers, it has no pairs")


def _check_reference(draft: Draft, dpo: dict[str, Any], names: list[str]) -> None:
    """Where the reference comes from is said once, and only if a loss asks for one."""
    given = [
        key
        for key, is_set in (
            ("dpo.reference", dpo.get("reference") == "live"),
            ("dpo.reference_store", dpo.get("reference_store") is not None),
        )
        if is_set
    ]
    if given and names and all(name in REFERENCE_FREE for name in names):
        for key in given:
            draft.add(key, f"{key}: {', '.join(names)} has no reference; take it out")
    elif len(given) == 2:
        draft.add(
            given[1], f"{given[1]}: with dpo.reference: live nothing is stored; take one of the two out"
        )
    weights = dpo.get("desirable_weight"), dpo.get("undesirable_weight")
    if weights == (0, 0):
        key = "dpo.desirable_weight"
        draft.add(key, f"{key}: undesirable_weight is 0 as well, so nothing is learnt; accepted: one above 0")


def _check_pair_settings(draft: Draft) -> None:
    """A mix entry's own beta and margins, where something reads them and they leave something."""
    apart = [name for name in loss_names(draft.section("dpo")) if name in ("aot", "aot_unpaired")]
    for stage in TRAINED_STAGES:
        for source, entry in draft.section(f"{stage}.mix").items():
            values = entry if isinstance(entry, dict) else {}
            for name in ("beta", "min_margin", "max_margin"):
                key = f"{stage}.mix.{source}.{name}"
                if values.get(name) is None:
                    continue
                if stage not in (("dpo",) if name == "beta" else PREFERENCE_STAGES):
                    what = "has no beta" if name == "beta" else "mixes conversations, which have no margin"
                    draft.add(key, f"{key}: {stage} {what}; take it out")
                elif name == "beta" and apart:
                    draft.add(key, f"{key}: {apart[0]} sorts the answers of a step apart and cannot use it")
            least, most = values.get("min_margin"), values.get("max_margin")
            if least is not None and most is not None and least > most:
                key = f"{stage}.mix.{source}.min_margin"
                draft.add(key, f"{key}: saw {least:g}; accepted: at most max_margin, which is {most:g}")
