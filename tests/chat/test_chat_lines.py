"""The fast way of tokenising equals the slow one, which is what `apply_chat_template` does."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.chat.conftest import tiny_unigram
from tuning.chat import ChatError, encode_many, load_template
from tuning.chat.encode import _tokenise_whole
from tuning.chat.lines import Lines, lines_of
from tuning.chat.rendering import Binding, as_turns, bind

TEXT = st.text(
    st.one_of(
        st.sampled_from("\n\n \t▁<>/s指示応答です###a、。\r"), st.characters(exclude_categories=("Cs",))
    ),
    max_size=30,
).filter(lambda text: "\x00" not in text)


def dialogue(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def assert_both_ways_agree(binding: Binding, dialogues: list[Any]) -> int:
    """How many of the dialogues the fast way took."""
    lines = lines_of(binding)
    assert lines is not None
    rendered = [part for row in dialogues for _, part in binding.renderings(as_turns(row))]
    fast = lines.encode(rendered)
    for result, slow in zip(fast, _tokenise_whole(binding, rendered), strict=True):
        if result is not None:
            assert result[0].tolist() == slow.input_ids.tolist()
            assert result[1].tolist() == slow.is_target.tolist()
    return sum(result is not None for result in fast)


@given(st.lists(TEXT, min_size=2, max_size=6))
def test_random_texts_give_the_same_ids_and_targets(texts: list[str]) -> None:
    texts = texts[: len(texts) // 2 * 2]
    for kind in ("v3", "v1"):
        for name in ("llm-jp-v1", "llm-jp-v3", "llm-jp-v3-system"):
            assert_both_ways_agree(bind(tiny_unigram(kind), load_template(name)), [dialogue(*texts)])


def test_real_dialogues_are_all_taken_by_the_fast_way(real: Any, conversations: Any) -> None:
    binding = bind(real, load_template("llm-jp-v3-system"))
    plain = [row for row in conversations if not any("<" in message["content"] for message in row)]
    assert assert_both_ways_agree(binding, plain) == len(plain)


def test_a_word_with_two_best_paths_is_cut_as_in_the_whole_text() -> None:
    # o|oo and oo|o have one score; rounding chooses, and depends on what stands before. Lines were once
    # encoded by themselves, which gave 1 of 5,000 real rows other ids than it is served with ("Oooo").
    plan = json.loads(tiny_unigram("v3").backend_tokenizer.to_str())
    plan["model"]["vocab"] += [["z", -7.3], ["o", -9.9], ["oo", -11.7]]
    tied = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(plan)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    binding = bind(tied, load_template("llm-jp-v3"))
    assert (binding.lines and binding.lines.stretches) is None  # -7.3 is no float32
    rows = [dialogue("z" * length, "ooo") for length in range(60)]
    assert assert_both_ways_agree(binding, rows) == 60
    cuts = Counter()
    for [sequence] in encode_many(rows, tied, load_template("llm-jp-v3")):
        cuts[tuple(tied.convert_ids_to_tokens(sequence.input_ids[sequence.is_target]))] += 1
    assert set(cuts) == {("o", "oo", "</s>"), ("oo", "o", "</s>")}


def test_an_answer_that_begins_with_a_control_token_is_taken(load_real: Any) -> None:
    binding = bind(load_real("llm-jp-v4"), load_template("llm-jp-v4"))
    assert assert_both_ways_agree(binding, [dialogue("い\nは", "\nです\n", "", " ")]) == 2


def test_a_text_that_spells_a_control_token_is_left_to_the_slow_way(v3: Any) -> None:
    binding = bind(v3, load_template("llm-jp-v3"))
    assert assert_both_ways_agree(binding, [dialogue("い", "</s>は"), dialogue("<0x0A>", "は")]) == 0
    assert assert_both_ways_agree(binding, [dialogue("<b>い", "は")]) == 1


def test_an_answer_that_does_not_start_a_line_is_left_to_the_slow_way(v1: Any) -> None:
    assert assert_both_ways_agree(bind(v1, load_template("llm-jp-v1.0")), [dialogue("い", "は")]) == 0


def test_a_tokenizer_with_pieces_across_lines_has_no_fast_way(v3: Any, byte_level: Any) -> None:
    assert lines_of(bind(byte_level, load_template("chatml"))) is None
    plan = json.loads(v3.backend_tokenizer.to_str())
    plan["model"]["vocab"].append(["。\n", -5.0])
    crossing = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(plan)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    assert lines_of(bind(crossing, load_template("llm-jp-v3"))) is None


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_difference_in_the_first_rows_switches_the_fast_way_off(is_checked: bool) -> None:
    tokenizer = tiny_unigram.__wrapped__("v3")
    template = load_template("llm-jp-v3")
    binding = bind(tokenizer, template)
    right = lines_of(binding)
    assert right is not None
    plan = json.loads(right._plain.to_str())
    plan["model"]["vocab"].append(["はは", -5.0])
    plain = Tokenizer.from_str(json.dumps(plan))
    binding.lines = wrong = Lines(binding, plain, tokenizer.convert_tokens_to_ids("<0x0A>"), None)
    wrong.unchecked = 10 if is_checked else 0
    [[sequence]] = encode_many([dialogue("い", "はは")], tokenizer, template)
    assert not isinstance(sequence, ChatError)
    [[served]] = [
        _tokenise_whole(binding, [part for _, part in binding.renderings(as_turns(dialogue("い", "はは")))])
    ]
    assert np.array_equal(sequence.input_ids, served.input_ids) is is_checked
    assert wrong.is_trusted is not is_checked
