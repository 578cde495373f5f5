"""What `screening:` says beyond types: evaluation files that exist, codes that there are."""

from __future__ import annotations

import importlib

from tuning.config.checks import TRAINED_STAGES, Draft, checked_input
from tuning.config.errors import brief, nearest


def check_screening(draft: Draft) -> None:
    """Notes every mistake in the section; paths become absolute."""
    values = draft.section("screening")
    if isinstance(values.get("against"), list):
        values["against"] = [
            checked_input(draft, f"screening.against[{index}]", value)
            for index, value in enumerate(values["against"])
        ]
    findings = importlib.import_module("data_builders.findings")
    for name, policy in draft.section("screening.quality").items():
        key = f"screening.quality.{name}"
        if name not in findings.SETTABLE:
            message = f"{key} is not a code; codes: {', '.join(findings.SETTABLE)}"
            draft.add(key, message, nearest(name, findings.SETTABLE))
        elif draft.is_clean(key) and policy not in findings.POLICIES:
            message = f"{key}: saw {brief(policy)}; accepted: one of {', '.join(findings.POLICIES)}"
            draft.add(key, message, nearest(str(policy), findings.POLICIES))
    has_mix = any(draft.section(f"{stage}.mix") for stage in TRAINED_STAGES)
    if draft.has("screening") and not has_mix and all(map(draft.is_clean, TRAINED_STAGES)):
        draft.add("screening", "screening: no stage mixes a source, so there is nothing to screen")
