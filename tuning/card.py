"""The model card: what the model was made of, by which recipe, under which terms, and how it measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.evaluate.table import comparison, markdown


def model_card(
    *,
    name: str,
    base: str,
    licence: str | None,
    languages: list[str],
    use: str,
    manifests: Mapping[str, Mapping[str, Any]],
    stages: Mapping[str, Mapping[str, Any]],
    recipe_yaml: str,
    figures: Mapping[str, Mapping[str, Any]],
    template: str,
    example: Mapping[str, str],
) -> str:
    """README.md of a released model. Every count comes from the manifests and records given."""
    base, is_here = (Path(base).name, True) if os.path.isabs(base) else (base, base == "tiny")
    template = Path(template).name
    restricted = [source for source, manifest in manifests.items() if manifest["use_restrictions"]]
    terms = sorted({str(manifest["licence"]) for manifest in manifests.values()})
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if not is_here:  # a folder of ours is nothing that a hub could link to
        front += [f"base_model: {base}", "base_model_relation: finetune"]
    front += ["language:", *(f"- {language}" for language in languages)] if languages else []
    other = ["license: other", "license_name: see-licences-of-the-sources"]
    front += [f"license: {licence}"] if licence else other
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
                f"{counts['target_tokens']} |"
            )
        lines.append("")
    lines += ["## Licences and attribution", ""]
    if not licence:
        lines += [f"No licence was declared for this model; its sources carry: {', '.join(terms)}.", ""]
    for source, manifest in manifests.items():
        lines.append(f"- **{source}** ({manifest['licence']}): {manifest['attribution']}")
        lines += [f"  - {restriction}" for restriction in manifest["use_restrictions"]]
    if restricted:
        lines += ["", f"Sources with terms of their own, which bind this model too: {', '.join(restricted)}."]
    lines += ["", "## Recipe", "", "```yaml", recipe_yaml.rstrip(), "```", ""]
    lines += ["[tuning]: https://pypi.org/project/tuning/", ""]
    return "\n".join(lines)
