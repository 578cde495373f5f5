"""The model card: what the model was made of, by which recipe, under which terms, and how it measured."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.evaluate.table import comparison, markdown


def model_card(
    *,
    name: str,
    base: str,
    terms: Mapping[str, Any],
    languages: list[str],
    use: str,
    manifests: Mapping[str, Mapping[str, Any]],
    stages: Mapping[str, Mapping[str, Any]],
    recipe_yaml: str,
    figures: Mapping[str, Mapping[str, Any]],
    template: str,
    example: Mapping[str, str],
) -> str:
    """README.md of a released model. Every count comes from the manifests and records given.

    `terms` are those of `tuning.pipeline.terms.terms_for_card`.
    """
    is_our_base = base == "tiny"
    base, is_here = (Path(base).name, True) if os.path.isabs(base) else (base, base == "tiny")
    template = Path(template).name
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if not is_here:  # a folder of ours is nothing that a hub could link to
        front += [f"base_model: {base}", "base_model_relation: finetune"]
    front += ["language:", *(f"- {language}" for language in languages)] if languages else []
    front += _licence_for_hub(terms)
    front += ["tags:", "- tuning", *(f"- {stage}" for stage in stages), "---"]
    lines = [
        *front,
        "",
        f"# {name}",
        "",
        f"Made from `{base}` with [tuning]: {', then '.join(stage.upper() for stage in stages)}. "
        f"Declared use: {use}. Chat template: `{template}`.",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        'messages = [{"role": "user", "content": ' + repr(example["question"]) + "}]",
        "inputs = tokenizer.apply_chat_template("
        'messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)',
        "output = model.generate(**inputs, max_new_tokens=100)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
        "```",
        "",
        f"It answered, when it was released: {example['answer']!r}",
        "",
    ]
    if figures:
        lines += ["## Measured", "", markdown(comparison(figures)), ""]
        lines += [
            "Accuracy is the share of held-out pairs whose preferred answer has the larger log-probability, "
            "without a reference; the bracket is its 95 % interval.",
            "",
        ]
    lines += ["## Data", ""]
    lines += ["| source | rows in | kept | dropped | licence | builder | revision |"]
    lines += ["| --- | ---: | ---: | --- | --- | --- | --- |"]
    for source, manifest in manifests.items():
        dropped = ", ".join(f"{code} {count}" for code, count in manifest["rows_dropped"].items()) or "none"
        lines.append(
            f"| {source} | {manifest['rows_in']} | {manifest['rows_kept']} | {dropped} | "
            f"{manifest['licence']} | {manifest['builder']} | {manifest.get('revision') or '-'} |"
        )
    lines.append("")
    lines += _screening(manifests)
    for stage, record in stages.items():
        lines += [f"### {stage.upper()}: {record['steps']} steps", ""]
        lines += [
            "| source | rows in | kept | dropped | trained | held out | passes per epoch | target tokens |",
            "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
        ]
        for source, counts in record["sources"].items():
            dropped = ", ".join(f"{code} {count}" for code, count in counts["rows_dropped"].items()) or "none"
            lines.append(
                f"| {source} | {counts['rows_in']} | {counts['rows_kept']} | {dropped} | "
                f"{counts['train_rows']} | {counts['dev_rows']} | {counts['weight']:g} | "
                f"{counts.get('target_tokens', '-')} |"  # a prompt has none
            )
        lines.append("")
    lines += ["## Licences and attribution", "", *_licences(terms, manifests, is_our_base=is_our_base)]
    lines += ["", "## Recipe", "", "```yaml", recipe_yaml.rstrip(), "```", ""]
    lines += ["[tuning]: https://pypi.org/project/tuning/", ""]
    return "\n".join(lines)


def _licence_for_hub(terms: Mapping[str, Any]) -> list[str]:
    """The front matter's licence: the declared one, else the strictest that the sources ask for.

    Nothing is granted in the owner's name: where none was declared and the sources ask nothing, it says so.
    """
    licence = terms["declared"] or (terms["strictest"] if terms["restrictions"] else None)
    if licence and licence["hub_id"] != "other":
        return [f"license: {licence['hub_id']}"]
    name = "terms-of-the-sources" if terms["restrictions"] else "not-declared"
    if licence:
        name = re.sub(r"[^a-z0-9.]+", "-", licence["id"].removeprefix("LicenseRef-").lower())
    link = [f"license_link: {licence['url']}"] if licence and licence["url"] else []
    return ["license: other", f"license_name: {name}", *link]


def _licences(
    terms: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]], *, is_our_base: bool
) -> list[str]:
    """What is declared, what every source asks, what does not go together, and whom to name."""
    declared, strictest = terms["declared"], terms["strictest"]
    if declared:
        lines = [f"Licence of this model: {_named(declared)}."]
        for source, words in terms["set_aside"].items():
            lines.append(f"It sets aside {', '.join(words)} of {source}, because: {terms['reason']}.")
    elif strictest and terms["restrictions"]:
        lines = [f"No licence was declared for this model; {strictest['id']} carries what its sources ask."]
    elif terms["restrictions"]:
        lines = ["No licence was declared for this model, and no one licence carries what its sources ask."]
    else:
        lines = ["No licence was declared for this model; its sources ask for attribution at most."]
    lines += [] if is_our_base else ["The licence of the base model holds besides."]
    lines.append("")
    lines += [f"- {word}: asked by {', '.join(sources)}" for word, sources in terms["restrictions"].items()]
    lines += [f"- not together: {conflict}" for conflict in terms["conflicts"]]
    if terms["restrictions"]:
        lines += [
            "",
            "Whether weights inherit the terms of the rows that they were trained on is not settled "
            "everywhere; this page states what the rows carry.",
            "",
        ]
    texts: dict[str, str] = {}
    for source, manifest in manifests.items():
        credit = manifest["attribution"] or "no attribution given"
        lines.append(f"- **{source}** ({manifest['licence']}): {credit}")
        lines += [f"  - {restriction}" for restriction in manifest["use_restrictions"]]
        if instead := manifest["licence_instead_of"]:
            lifts = f", which lifts {', '.join(instead['lifts'])}" if instead["lifts"] else ""
            known = f"instead of {instead['licence']}, as builder `{manifest['builder']}` knows it"
            lines.append(f"  - {known}{lifts}, because: {instead['reason']}")
        texts |= {licence["id"]: _named(licence) for licence in manifest["licences"] if licence["url"]}
    return [*lines, "", f"Texts: {'; '.join(texts.values())}."] if texts else lines


def _named(licence: Mapping[str, Any]) -> str:
    name = f"{licence['id']} ({licence['name']})" if licence["name"] != licence["id"] else licence["id"]
    return f"{name}, <{licence['url']}>" if licence["url"] else name


def _screening(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the rows were screened for and what stayed in spite of a finding, or that they were not."""
    screened = {
        name: manifest["screening"] for name, manifest in manifests.items() if "screening" in manifest
    }
    if not screened:
        return ["The rows were screened neither for duplicates nor for evaluation items.", ""]
    about = next(iter(screened.values()))
    policies = about["policies"]
    lines = [
        "### Screening",
        "",
        f"Duplicates: {policies['duplicate']}; near duplicates (Jaccard {about['similarity']:g}): "
        f"{policies['near_duplicate']}; rows that hold evaluation items: {policies['evaluation_prompt']}.",
        "",
    ]
    for each in about["against"]:
        lines.append(f"- compared with {each['file']}: {each['texts']} questions of {each['items']} items")
    if not about["against"]:
        lines.append("- compared with no evaluation set")
    lines += [
        "",
        "| source | rows in | kept | dropped | flagged and kept |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    for source, counts in screened.items():
        cells = [
            ", ".join(f"{code} {count}" for code, count in counts[key].items()) or "none"
            for key in ("rows_dropped", "rows_flagged")
        ]
        lines.append(f"| {source} | {counts['rows_in']} | {counts['rows_kept']} | {' | '.join(cells)} |")
    return [*lines, ""]
