"""The door for rows: what passes, what is refused, and with which code and field."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning.schema import (
    ROLES,
    Conversation,
    Message,
    PreferencePair,
    RowError,
    RowFault,
    check_dialogue,
    normalised,
    parse_row,
)

ASK = {"role": "user", "content": "日本で一番高い山は？"}
ANSWER = {"role": "assistant", "content": "富士山"}
CONVERSATION = {"id": "a-1", "source": "a", "messages": [ASK, ANSWER]}
PAIR = {
    "id": "p-1",
    "source": "p",
    "prompt": [ASK],
    "chosen": [ANSWER],
    "rejected": [{"role": "assistant", "content": "さあ"}],
}


def fault_of(row: Any) -> tuple[str, str]:
    with pytest.raises(RowFault) as caught:
        parse_row(row)
    return caught.value.where, caught.value.code


def test_a_conversation_is_read_and_written_alike() -> None:
    row = CONVERSATION | {
        "messages": [{"role": "system", "content": "s"}, ASK | {"input": "文脈"}, ANSWER | {"train": True}],
        "group": "g",
        "loss_weight": 2.0,
        "meta": {"language": "ja"},
    }
    parsed = parse_row(copy.deepcopy(row))
    assert isinstance(parsed, Conversation)
    assert parsed.as_dict() == row
    assert parsed.messages[1] == Message("user", ASK["content"], None, "文脈")


def test_a_pair_is_read_and_written_alike() -> None:
    parsed = parse_row(PAIR)
    assert isinstance(parsed, PreferencePair)
    assert parsed.as_dict() == PAIR


def test_only_assistant_turns_are_trained_on_and_they_may_decline() -> None:
    assert [Message(role, "x").is_trained for role in ROLES] == [False, False, True, False]
    assert not Message("assistant", "x", train=False).is_trained


def test_a_row_without_a_group_is_a_group_of_its_own() -> None:
    assert parse_row(CONVERSATION).group_key == "row:a-1"
    assert parse_row(CONVERSATION | {"group": "row:a-1"}).group_key == "group:row:a-1"
    assert parse_row(PAIR | {"group": "t"}).group_key == "group:t"


def test_weight_is_the_older_spelling_of_loss_weight() -> None:
    assert parse_row(CONVERSATION | {"weight": 3}).loss_weight == 3.0
    assert fault_of(CONVERSATION | {"weight": 1, "loss_weight": 1}) == ("weight", "bad_weight")


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 10**400])
def test_a_weight_is_finite_and_above_zero(weight: float) -> None:
    """10**400 is a valid JSON integer that no float can hold."""
    assert fault_of(CONVERSATION | {"weight": weight}) == ("weight", "bad_weight")


@pytest.mark.parametrize("value", [None, True, 3, "row", [CONVERSATION]])
def test_a_row_is_one_object(value: Any) -> None:
    assert fault_of(value) == ("row", "not_an_object")


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"id": None}, "id", "null_value"),
        ({"id": ""}, "id", "empty_content"),
        ({"source": 3}, "source", "wrong_type"),
        ({"group": ""}, "group", "empty_content"),
        ({"meta": []}, "meta", "wrong_type"),
        ({"weight": True}, "weight", "wrong_type"),
        ({"mesages": []}, "mesages", "unknown_field"),
        ({"prompt": [ASK]}, "prompt", "unknown_field"),
        ({"messages": None}, "messages", "null_value"),
        ({"messages": {}}, "messages", "wrong_type"),
        ({"messages": []}, "messages", "empty_messages"),
        ({"messages": [ASK, None]}, "messages[1]", "wrong_type"),
        ({"messages": [ASK | {"train": 1}, ANSWER]}, "messages[0].train", "wrong_type"),
        ({"messages": [ASK | {"input": 1}, ANSWER]}, "messages[0].input", "wrong_type"),
    ],
)
def test_a_fault_names_its_field(change: dict[str, Any], field: str, code: str) -> None:
    assert fault_of(CONVERSATION | change) == (field, code)


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"prompt": []}, "prompt", "empty_messages"),
        ({"chosen": None}, "chosen", "null_value"),
        ({"rejected": [ANSWER | {"content": "富士山 "}]}, "rejected", "identical_sides"),
        ({"chosen": [ASK]}, "chosen[0].role", "repeated_role"),
        ({"rejected": [ANSWER, ASK]}, "rejected[1].role", "last_not_assistant"),
        ({"prompt": [ANSWER]}, "prompt[0].role", "first_not_user"),
        ({"prompt": [ASK, ANSWER]}, "chosen[0].role", "repeated_role"),
        ({"rejected": [ANSWER | {"content": " "}]}, "rejected[0].content", "empty_answer"),
        ({"rejected": [ANSWER | {"content": "x", "train": False}]}, "rejected", "nothing_to_train"),
    ],
)
def test_a_fault_of_a_pair_names_the_side(change: dict[str, Any], field: str, code: str) -> None:
    assert fault_of(PAIR | change) == (field, code)


def test_missing_field_says_what_is_there() -> None:
    with pytest.raises(RowFault, match=r"source: missing; fields present: id, messages \[missing_field\]"):
        parse_row({"id": "a", "messages": [ASK, ANSWER]})


def test_an_empty_instruction_may_stand_over_an_input() -> None:
    parse_row(CONVERSATION | {"messages": [{"role": "user", "content": "", "input": "文脈"}, ANSWER]})


def test_sides_are_compared_after_unicode_normalisation() -> None:
    assert normalised([Message("user", "ＡＢ１ ")]) == normalised([Message("user", "AB1")])


def test_an_error_puts_the_place_before_the_fault() -> None:
    error = RowError(
        "data/a.jsonl", 12, RowFault("unknown_role", "messages[0].role", "saw 'bot'", "roles: user")
    )
    assert str(error) == "data/a.jsonl:12: messages[0].role: saw 'bot'; roles: user [unknown_role]"
    assert (error.file, error.line, error.where, error.code) == (
        "data/a.jsonl",
        12,
        "messages[0].role",
        "unknown_role",
    )


@given(st.lists(st.sampled_from(ROLES), max_size=6))
def test_accepted_role_orders_equal_a_regular_expression(roles: list[str]) -> None:
    """The independent answer: s? u (a t* u?)*, ending in a; after a tool speaks the user or the assistant."""
    import re

    letters = "".join(role[0] for role in roles)
    ordered = re.fullmatch(r"s?u(a(t+(?=[au]|$))?u?)*", letters) is not None
    expected = ordered and letters.endswith("a") and not re.search(r"uu|aa|s.*s", letters)
    try:
        check_dialogue([Message(role, "x") for role in roles], "messages")
        accepted = True
    except RowFault:
        accepted = False
    assert accepted == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(ROLES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "source", "messages", "role", "content", "prompt", "chosen", "rejected", "weight"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_nothing_but_a_fault_comes_out_of_the_door(value: Any) -> None:
    try:
        row = parse_row(value)
    except RowFault:
        return
    assert parse_row(json.loads(json.dumps(row.as_dict()))) == row


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def ranking(*texts: str, **more: Any) -> dict[str, Any]:
    prompt = [{"role": "user", "content": "q"}]
    return {"id": "r", "source": "s", "prompt": prompt, "ranked": [answer(text) for text in texts], **more}


def test_a_ranking_is_a_pair_of_the_best_and_the_worst_with_the_others_between() -> None:
    row = parse_row(ranking("best", "good", "fair", "worst", beta=0.3))
    assert isinstance(row, PreferencePair)
    assert [side[0].content for side in (row.chosen, *row.between, row.rejected)] == [
        *("best", "good", "fair", "worst"),
    ]
    assert row.beta == 0.3
    assert parse_row(row.as_dict()) == row
    two = parse_row(ranking("best", "worst"))
    assert isinstance(two, PreferencePair) and not two.between and "chosen" in two.as_dict()


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (ranking("only"), "wrong_type"),
        (ranking("a", "b", "a"), "identical_sides"),
        (ranking("a", "b", chosen=answer("c")), "unknown_field"),
        ({**ranking("a", "b"), "ranked": "a"}, "wrong_type"),
        (ranking("a", "b", beta=0), "bad_weight"),
        (ranking("a", "b", beta="x"), "wrong_type"),
    ],
)
def test_what_is_no_ranking(row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowFault) as fault:
        parse_row(row)
    assert fault.value.code == code


@pytest.mark.parametrize(
    ("meta", "margin"),
    [
        ({"margin": 0.5, "chosen_score": 9}, 0.5),
        ({"chosen_score": 3, "rejected_score": 1.5}, 1.5),
        ({"chosen_score": 3}, None),
        ({"margin": True}, None),
        ({"margin": float("nan")}, None),
        ({"chosen_score": float("inf"), "rejected_score": 1}, None),
        ({}, None),
    ],
)
def test_a_margin_is_read_from_the_scores(meta: dict[str, Any], margin: float | None) -> None:
    row = parse_row(ranking("a", "b", meta=meta))
    assert isinstance(row, PreferencePair) and row.margin == margin


def test_a_judged_conversation_says_true_or_false() -> None:
    messages = [{"role": "user", "content": "q"}, *answer("a")]
    row = parse_row({"id": "r", "source": "s", "messages": messages, "desirable": False})
    assert isinstance(row, Conversation) and row.desirable is False
    assert parse_row(row.as_dict()) == row
    with pytest.raises(RowFault, match="true or false"):
        parse_row({"id": "r", "source": "s", "messages": messages, "desirable": "yes"})
