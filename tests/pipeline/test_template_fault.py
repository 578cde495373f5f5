"""A template that cannot be trained on is told by `check`, with the line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import WORDS
from tuning.chat import load_template
from tuning.config import load_recipe
from tuning.model.tiny import train_tokenizer
from tuning.pipeline.checks import check

RECIPE = """\
name: t
base: {base}
template: {template}
data:
  own: {{builder: files, input: [rows.jsonl]}}
sft:
  mix: {{own: {{}}}}
  learning_rate: 1.0e-4
"""


def problems(folder: Path, template: str, base: str = "tiny") -> list[str]:
    (folder / "rows.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    recipe = folder / "r.yaml"
    recipe.write_text(RECIPE.format(template=template, base=base), encoding="utf-8")
    return [str(problem).partition("r.yaml:")[2] for problem in check(load_recipe(str(recipe)))]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] ", "TemplateSyntaxError: unexpected end of template"),
        ("{% for m in messages %}{{ m | nosuch }}{% endfor %}", "No filter named 'nosuch'"),
        ("{{ messages[0].__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{% for i in range(10 ** 10) %}x{% endfor %}", "OverflowError: Range too big"),
        ("{{ raise_exception('not for you') }}", "TemplateError: not for you"),
        ("{{ bos_token }}", "template 'own' writes the text of messages[0] (role user) 0 times"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "holds no control token of this tokenizer"),
    ],
)
def test_a_users_template_that_does_not_render_is_told_before_anything_is_built(
    source: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "own.jinja").write_text(source, encoding="utf-8")
    [told] = problems(tmp_path, "own.jinja")
    assert told.startswith("3: template: ")
    assert reason in told


def test_a_users_template_may_begin_with_a_byte_order_mark_and_has_to_be_utf_8(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    (tmp_path / "own.jinja").write_text(source, encoding="utf-8-sig")
    assert problems(tmp_path, "own.jinja") == []
    assert load_template(tmp_path / "own.jinja").source == source
    (tmp_path / "own.jinja").write_text(f"{source}応答", encoding="cp932")
    [told] = problems(tmp_path, "own.jinja")
    assert "own.jinja': byte 58 is not UTF-8; save it as UTF-8" in told


def test_a_template_that_does_not_suit_the_checkpoints_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    train_tokenizer([" ".join(WORDS)] * 5, vocab_size=300).save_pretrained(tmp_path / "base")
    for name, text in (("config.json", "{}"), ("model.safetensors", "")):
        (tmp_path / "base" / name).write_text(text, encoding="utf-8")
    [told] = problems(tmp_path, "llm-jp-v4", "base")
    assert told.startswith("3: template: template 'llm-jp-v4' ends an assistant turn with '<|return|>'")
    assert problems(tmp_path, "llm-jp-v3", "base") == []
