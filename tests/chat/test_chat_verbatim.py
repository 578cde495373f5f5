"""A template is taken for one that only writes texts down only if it is one."""

from __future__ import annotations

import pytest

from tuning.chat import load_template
from tuning.chat.templates import template_names
from tuning.chat.verbatim import writes_texts_only

LOOKS_INTO_TEXTS = {"llm-jp-v4"}


@pytest.mark.parametrize("name", [name for name in template_names() if name != "base"])
def test_shipped_templates(name: str) -> None:
    assert writes_texts_only(load_template(name).source) is (name not in LOOKS_INTO_TEXTS)


@pytest.mark.parametrize(
    "body",
    [
        "{{ message['content'] }}",
        "{{ message.content ~ '</s>' }}",
        "{{ '<' + message.role + '>' + message['content'] if message.role == 'user' else message.content }}",
        "{% if loop.first and not message['input'] %}{{ message.content }}{% endif %}",
        "{% if message.input is defined %}{{ message.input }}{% endif %}{{ messages[0].content }}",
        "{% set end = eos_token %}{{ messages[loop.index0].content + end }}",
        "{% if messages[1:] | length > 3 %}{% continue %}{% endif %}{{ message['content'] }}",
    ],
)
def test_templates_that_only_write(body: str) -> None:
    assert writes_texts_only(f"{{% for message in messages %}}{body}{{% endfor %}}")


@pytest.mark.parametrize(
    "body",
    [
        "{{ message['content'] | trim }}",
        "{{ message['content'].strip() }}",
        "{{ message['content'][:10] }}",
        "{{ message['content'] * 2 }}",
        "{{ message['content'] % () }}",
        "{{ '%s' | format(message.content) }}",
        "{% if 'x' in message['content'] %}x{% endif %}",
        "{% if message['content'] %}x{% endif %}",
        "{% if message['content'] == 'x' or loop.first %}x{% endif %}",
        "{{ message['input'] or message['content'] }}",
        "{{ message['input'] | default('') }}",
        "{{ message['content'] if message['content'] else 'x' }}",
        "{% set text = message['content'] %}{{ text | upper }}",
        "{% set other = message %}{{ other.content | upper }}",
        "{% set ns = namespace(text=message.content) %}{{ ns.text | upper }}",
        "{% set ns = namespace() %}{% set ns.text = message.content %}{{ ns.text | upper }}",
        "{{ message }}",
        "{{ message | tojson }}",
        "{{ message.items() }}",
        "{{ message['con' + 'tent'] }}",
        "{{ message.content.format(1) }}",
        "{{ loop.previtem['content'] | upper }}",
        "{% if loop.changed(message.content) %}x{% endif %}",
        "{{ messages | map(attribute='content') | join }}",
        "{% for character in message['content'] %}{{ character }}{% endfor %}",
        "{% for a, b in message.items() %}{{ b }}{% endfor %}",
        "{% macro write(m) %}{{ m.content | upper }}{% endmacro %}{{ write(message) }}",
        "{% filter upper %}{{ message.content }}{% endfilter %}",
        "{% set text %}{{ message.content }}{% endset %}{{ text | upper }}",
        "{% with text = message.content %}{{ text | upper }}{% endwith %}",
        "{{ lipsum() }}{{ message.content }}",
        "{{ strftime_now('%d') }}{{ message.content }}",
        "{{ [message.content] | first }}",
        "{{ (message.content, 1)[0] | upper }}",
        "{{ -message.content }}",
        "{{ message['content'",
    ],
)
def test_templates_that_look_into_a_text(body: str) -> None:
    assert not writes_texts_only(f"{{% for message in messages %}}{body}{{% endfor %}}")


def test_a_filter_in_the_loop_head_may_not_look() -> None:
    assert not writes_texts_only("{% for m in messages if 'x' in m.content %}{{ m.content }}{% endfor %}")
    assert not writes_texts_only("{% for m in messages | reverse %}{{ m.content }}{% endfor %}")
    assert writes_texts_only("{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}")
