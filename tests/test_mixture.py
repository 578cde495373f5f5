"""What is held out, what is trained on and in which order, and when encoding is done again."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from data_builders import build
from tests.conftest import WORDS, chat_row, write_lines
from tuning.chat import Template, encode, encode_pair, load_template
from tuning.config import load_recipe
from tuning.forest import Sequence
from tuning.mixture import Mixture, MixtureError, built_rows, mix, with_strangers
from tuning.model.tiny import train_tokenizer
from tuning.schema import Conversation, Row, parse_row
from tuning.shares import Share, split
from tuning.stage import shares
from tuning.train.steps import Division, Example, Order, Schedule

TEMPLATE = load_template("llm-jp-v3")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    made = train_tokenizer([" ".join(WORDS), "\n\n### 指示:\n\n\n### 応答:\n", *WORDS] * 5, vocab_size=400)
    TEMPLATE.install(made)
    return made


def conversations(count: int, group_size: int = 1) -> list[Row]:
    """Rows 0, 1, 2 ... in groups of neighbours."""
    return [
        parse_row(
            {"id": f"r{n}", "source": "s", "group": f"g{n // group_size}", **chat_row(f"Say {n}.", f"{n}!")}
        )
        for n in range(count)
    ]


def held_out(rows: list[Row], share: Share, seed: int = 1, source: str = "s") -> list[str]:
    return [row.id for row in split(rows, share, seed, source).dev]


def dataset(folder: Path, rows: list[dict[str, Any]], source: str = "chats") -> Path:
    write_lines(folder / f"{source}.jsonl", rows)
    build("files", [folder / f"{source}.jsonl"], folder / source, source=source)
    return folder / source


def mixed(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    share: Share | None = None,
    more: tuple[Path, Share] | None = None,
    **options: Any,
) -> Mixture:
    """The mixture of one built dataset, or of two."""
    settings: dict[str, Any] = {
        "max_length": 200,
        "too_long": "drop",
        "seed": 1,
        "template": TEMPLATE,
        **options,
    }
    template = settings.pop("template")
    sources = {"chats": (folder, share or Share())} | ({"more": more} if more else {})
    return mix(
        {name: where for name, (where, _) in sources.items()},
        {name: part for name, (_, part) in sources.items()},
        tokenizer,
        template,
        cache=folder.parent / "cache",
        **{"preference": False, "stage": "sft", **settings},
    )


# What is held out


def test_a_tenth_of_the_rows_is_held_out_at_most() -> None:
    assert len(held_out(conversations(30), Share(dev_rows=100))) == 3
    assert len(held_out(conversations(30), Share(dev_rows=2))) == 2
    assert held_out(conversations(9), Share(dev_rows=100)) == []


def test_a_mix_entry_that_names_the_number_is_taken_at_its_word() -> None:
    assert len(held_out(conversations(30), Share(dev_rows=20, dev_rows_are_exact=True))) == 20
    assert held_out(conversations(30), Share(dev_rows=0, dev_rows_are_exact=True)) == []


def test_a_mix_entry_may_hold_out_its_source_whole_if_another_is_trained_on(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = Share(dev_rows=4, dev_rows_are_exact=True)
    one = dataset(tmp_path, [chat_row(f"Say {word}.", word) for word in WORDS[:4]])
    other = dataset(tmp_path, [chat_row(f"Spell {word}.", word) for word in WORDS[:6]], "more")
    both = mixed(one, tokenizer, whole, more=(other, Share()))
    assert {name: len(examples) for name, examples in both.dev.items()} == {"chats": 4}
    assert {name: counts["train_rows"] for name, counts in both.sources.items()} == {"chats": 0, "more": 6}
    assert {example.source for _, example in both.order.epoch(0)} == {"more"}
    assert both.rows_per_epoch == 6
    with pytest.raises(MixtureError, match="every row of chats is held out; nothing is left to train on"):
        mixed(one, tokenizer, whole)


def test_a_source_whose_training_rows_are_all_dropped_is_refused_though_its_dev_rows_are_not(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Guards against a source that is mixed in, and of which only what is held out fits."""
    short, long = chat_row("Say sea.", "sea"), chat_row("Say it all.", " ".join(WORDS * 20))
    share = Share(dev_rows=1, dev_rows_are_exact=True)
    for rows in ([short, long], [long, short]):
        folder = dataset(tmp_path, rows)
        [dev] = split(built_rows(folder, preference=False, stage="sft"), share, 1, "chats").dev
        if dev.id == f"chats-0000{rows.index(short) + 1}":
            break
        shutil.rmtree(folder)
    with pytest.raises(MixtureError, match=r"no row of chats is left to train on \(too_long 1\)"):
        mixed(folder, tokenizer, share)


def test_groups_are_held_out_whole() -> None:
    rows = conversations(60, group_size=3)
    parts = split(rows, Share(dev_rows=100), 1, "s")
    assert len(parts.dev) == 6  # a tenth of 60, which is two groups of three
    assert not {row.group_key for row in parts.dev} & {row.group_key for row in parts.train}
    assert sorted(row.id for row in parts.dev + parts.train) == sorted(row.id for row in rows)


def test_the_only_group_is_trained_on() -> None:
    assert held_out(conversations(20, group_size=20), Share(dev_rows=100)) == []
    assert held_out(conversations(20, group_size=20), Share(dev_rows=19, dev_rows_are_exact=True)) == []


def test_what_is_held_out_depends_on_rows_seed_and_name_alone() -> None:
    rows, share = conversations(200), Share(dev_rows=20)
    chosen = held_out(rows, share)
    assert held_out(rows, share) == chosen
    assert held_out(rows, Share(weight=4, dev_rows=20)) == chosen  # before weighting
    assert held_out(rows, share, seed=2) != chosen
    assert held_out(rows, share, source="t") != chosen


def test_training_and_evaluation_hold_out_the_same_rows_whatever_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = dataset(tmp_path, [chat_row(f"Say {one} {two}.", two) for one in WORDS for two in WORDS[:3]])
    other = train_tokenizer([" ".join(WORDS[:9])] * 9, vocab_size=330)
    TEMPLATE.install(other)
    share = Share(dev_rows=5)
    plain = [
        row.id for row in split(built_rows(folder, preference=False, stage="sft"), share, 1, "chats").dev
    ]
    for one in (tokenizer, other):
        mixture = mixed(folder, one, share)
        assert [example.id for example in mixture.dev["chats"]] == plain
        assert not set(plain) & {example.id for _, example in mixture.order.epoch(0)}
    assert len(plain) == 5


def test_shares_follow_the_mix_entry_before_the_stage(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe)
    assert recipe.sft is not None
    assert shares(recipe.sft) == {"chats": Share(1.0, 2), "taught": Share(2.0, 0, dev_rows_are_exact=True)}


# Weights and order


def order_of(count: int, weight: float, seed: int = 1, group_size: int = 1) -> Order:
    rows = [Example(f"r{n}", "s", f"g{n // group_size}", ()) for n in range(count)]
    groups = [rows[start : start + group_size] for start in range(0, count, group_size)]
    return Order({"s": groups}, {"s": weight}, seed)


def ids(order: Order, epoch: int = 0) -> list[str]:
    return [example.id for _, example in order.epoch(epoch)]


def test_weight_four_is_four_differently_shuffled_passes_an_epoch() -> None:
    order = order_of(12, 4)
    passes: dict[object, list[str]] = {}
    for (_, _, number, _), example in order.epoch(0):
        passes.setdefault(number, []).append(example.id)
    assert order.rows_per_epoch == 48
    assert len(passes) == 4
    assert all(sorted(rows) == sorted(f"r{n}" for n in range(12)) for rows in passes.values())
    assert len({tuple(rows) for rows in passes.values()}) == 4


def test_weight_a_half_is_the_same_seeded_half_in_every_epoch() -> None:
    order = order_of(12, 0.5)
    assert sorted(ids(order, 0)) == sorted(ids(order, 1))
    assert len(set(ids(order))) == 6
    assert ids(order, 0) != ids(order, 1)
    assert set(ids(order)) != set(ids(order_of(12, 0.5, seed=2)))
    assert Counter(Counter(ids(order_of(12, 1.5))).values()) == {1: 6, 2: 6}


def test_order_is_another_in_each_epoch_and_for_each_seed_and_the_same_again() -> None:
    order = order_of(20, 1)
    assert ids(order) == ids(order_of(20, 1))
    assert sorted(ids(order)) == sorted(ids(order, 1))
    assert len({tuple(ids(order)), tuple(ids(order, 1)), tuple(ids(order_of(20, 1, seed=2)))}) == 3


def test_rows_of_a_group_stay_together() -> None:
    seen = ids(order_of(12, 2, group_size=3))
    for start in range(0, 24, 3):
        first = int(seen[start][1:])
        assert seen[start : start + 3] == [f"r{first}", f"r{first + 1}", f"r{first + 2}"]


def steps_of(schedule: Schedule, start: int = 0) -> list[list[str]]:
    return [
        sorted(example.id for part in step.micro_batches for example in part.examples)
        for step in schedule.steps(Division(100_000), start)
    ]


def test_a_step_is_the_next_batch_of_the_order_and_only_the_last_may_be_short(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    mixture = mixed(dataset(tmp_path, [chat_row(f"Say {one}.", one) for one in WORDS[:10]]), tokenizer)
    # 1.5 epochs of 10 rows in batches of 4: 4 + 4 + 4 + 3 rows; the third step reaches into the second epoch.
    schedule = Schedule(mixture.order, 4, 15, is_preference=False)
    rows = ids(mixture.order, 0) + ids(mixture.order, 1)
    assert schedule.num_steps == 4
    assert steps_of(schedule) == [sorted(rows[start : start + 4]) for start in (0, 4, 8)] + [
        sorted(rows[12:15])
    ]
    assert steps_of(schedule, start=2) == steps_of(schedule)[2:]
    assert [step.epoch for step in schedule.steps(Division(100_000))] == [0.4, 0.8, 1.2, 1.5]
    assert steps_of(Schedule(mixture.order, 4, 8, is_preference=False)) == steps_of(schedule)[:2]


def test_a_weight_too_small_to_take_a_row_is_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Guards against a source that is mixed in and never seen, and an epoch of no rows."""
    folder = dataset(tmp_path, [chat_row(f"Say {one}.", one) for one in WORDS[:4]])
    with pytest.raises(MixtureError, match=r"weight 0.1 of the 4 groups of chats takes none"):
        mixed(folder, tokenizer, Share(weight=0.1))


# Counts


def test_rows_that_do_not_reach_training_are_counted_with_their_reason(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [chat_row(f"Say {one}.", one) for one in WORDS[:10]]
    rows[3] = chat_row("Say it all.", " ".join(WORDS * 20))
    rows[6] = {
        "messages": [
            *rows[6]["messages"],
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": "Seven."},
        ]
    }
    rows[8] = chat_row("What is </s>?", "The end.")
    counts = mixed(dataset(tmp_path, rows), tokenizer).sources["chats"]
    assert counts["rows_in"] == 10
    assert counts["rows_kept"] == 8
    assert counts["rows_dropped"] == {"too_long": 1, "message_lost": 1}  # llm-jp-v3 has no place for a tool
    assert counts["train_rows"] + counts["dev_rows"] == 8
    assert counts["notes"] == {"literal_special_token": 1}


def test_a_row_over_the_limit_is_dropped_or_an_error_and_never_cut(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = dataset(tmp_path, [chat_row("Say it.", "sea"), chat_row("Say it.", " ".join(["sea"] * 30))])
    lengths = sorted(
        len(example.sequences[0].input_ids) for _, example in mixed(folder, tokenizer).order.epoch(0)
    )
    exact = mixed(folder, tokenizer, max_length=lengths[1])
    assert exact.sources["chats"]["rows_dropped"] == {}
    short = mixed(folder, tokenizer, max_length=lengths[1] - 1)
    assert short.sources["chats"]["rows_dropped"] == {"too_long": 1}
    assert [len(example.sequences[0].input_ids) for _, example in short.order.epoch(0)] == lengths[:1]
    with pytest.raises(
        MixtureError, match=f"row chats-00002 has {lengths[1]} tokens, max_length is {lengths[1] - 1}"
    ):
        mixed(folder, tokenizer, max_length=lengths[1] - 1, too_long="error")


def test_a_source_of_which_nothing_is_left_says_why(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = dataset(tmp_path, [chat_row("Say it.", "sea")])
    with pytest.raises(MixtureError, match=r"no row of chats is left to train on \(too_long 1\)"):
        mixed(folder, tokenizer, max_length=4)
    rows = [{**chat_row("Say it.", "sea"), "meta": {"category": name}} for name in ("open", "closed")]
    folder = dataset(tmp_path, rows, "more")
    told = r"left to train on \(other_category 2; its categories are closed, open\)"
    with pytest.raises(MixtureError, match=told):
        mixed(folder, tokenizer, Share(categories=("opne",)))


def test_pairs_in_sft_and_conversations_in_dpo_are_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [chat_row("Say it.", "sea")])
    with pytest.raises(MixtureError, match="row chats-00001 is a conversation; dpo mixes pairs"):
        built_rows(folder, preference=True, stage="dpo")
    assert all(isinstance(row, Conversation) for row in built_rows(folder, preference=False, stage="sft"))


# The encoded cache


def shards(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "cache").glob("*/ends.npy")}


def test_encoding_is_kept_for_other_weights_seeds_and_limits_and_gives_the_same_ids(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [chat_row(f"Say {one}.", f"{one} 海𠮷") for one in WORDS[:10]]
    rows[3] = {
        "messages": [
            *rows[3]["messages"],
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": "Seven."},
        ]
    }
    folder = dataset(tmp_path, rows)
    fresh = mixed(folder, tokenizer)
    first = shards(tmp_path)
    assert len(first) == 1
    kept = mixed(folder, tokenizer)
    for (_, one), (_, two) in zip(fresh.order.epoch(0), kept.order.epoch(0), strict=True):
        for sequence, other in zip(one.sequences, two.sequences, strict=True):
            assert np.array_equal(sequence.input_ids, other.input_ids)
            assert np.array_equal(sequence.is_target, other.is_target)
            assert (sequence.input_ids.dtype, sequence.is_target.dtype) == (
                other.input_ids.dtype,
                other.is_target.dtype,
            )
    assert kept.sources == fresh.sources
    mixed(folder, tokenizer, Share(weight=3, dev_rows=1), seed=9, max_length=100)
    assert shards(tmp_path) == first


def test_encoding_is_done_again_for_another_template_tokenizer_or_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [chat_row(f"Say {one}.", one) for one in WORDS[:10]]
    folder = dataset(tmp_path, rows)
    mixed(folder, tokenizer)
    other = load_template("llm-jp-v3-system")
    mixed(folder, tokenizer, template=other)
    assert len(shards(tmp_path)) == 2
    larger = train_tokenizer([" ".join(WORDS)] * 9, vocab_size=360)
    TEMPLATE.install(larger)
    mixed(folder, larger)
    assert len(shards(tmp_path)) == 3
    shutil.rmtree(folder)
    dataset(tmp_path, [*rows[:9], chat_row("Say song.", "song")])
    mixed(folder, tokenizer)
    assert len(shards(tmp_path)) == 4


# One row, several sequences


LAST_RETURNS = Template(
    "last-returns",
    "{#- tuning: one sequence per answer -#}{% for m in messages %}{{ m['role'] + ':\n' + m['content'] }}"
    "{{ '</s>' if m['role'] == 'assistant' and loop.last else '<s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}",
)


def test_a_dialogue_under_a_template_of_one_answer_is_one_row_that_computes_its_beginning_once(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    first, second = chat_row("Say sea.", "sea")["messages"], chat_row("Say song.", "song")["messages"]
    folder = dataset(tmp_path, [{"messages": first + second} for _ in range(4)])
    mixture = mixed(folder, tokenizer, template=LAST_RETURNS)
    assert mixture.sources["chats"]["rows_kept"] == 4
    [_, example] = mixture.order.epoch(0)[0]
    short, long = example.sequences
    assert example.num_targets == int(short.is_target.sum() + long.is_target.sum())
    step = next(Schedule(mixture.order, 2, 4, is_preference=False).steps(Division(1000)))
    # Two rows of two sequences; a row's sequences part at the end of the first answer.
    assert step.num_rows == 2
    assert step.num_unshared_tokens == 2 * (len(short.input_ids) + len(long.input_ids))
    assert step.num_tokens == 2 * (len(long.input_ids) + 1)
    assert step.num_targets == 2 * example.num_targets


@pytest.mark.parametrize("turns", [2, 3])
def test_every_answer_of_a_judged_dialogue_has_its_judgement(
    turns: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Several sequences of one row are a ranking's best to worst elsewhere; here all are as good as the row,
    and weigh as much together as a row of one."""
    rows = [
        {
            "id": word,
            "messages": [part for _ in range(turns) for part in chat_row(f"Say {word}.", word)["messages"]],
            "desirable": number % 2 == 0,
        }
        for number, word in enumerate(WORDS[:4])
    ]
    folder = dataset(tmp_path, rows)
    mixture = mixed(folder, tokenizer, template=LAST_RETURNS, preference=True, stage="dpo", takes_single=True)
    assert mixture.sources["chats"]["rows_kept"] == 4
    assert mixture.sources["chats"]["notes"] == {"answers_judged_apart": 4 * turns}
    examples = [example for _, example in mixture.order.epoch(0)]
    assert len({example.id for example in examples}) == len(examples) == 4 * turns
    for example in examples:
        assert len(example.answers) == 1
        assert example.weight == pytest.approx(1 / turns)
        assert example.desirable == (WORDS.index(example.id.partition("/")[0]) % 2 == 0)


def test_a_stranger_answers_another_prompt_or_there_is_none() -> None:
    """Prompts a a b b c: the nearest answer before it to another prompt is, for a, c's (round the end); for b
    the second a's; for c the second b's."""

    def example(name: str, prompt: int, answer: int) -> Example:
        ids = np.array([1, prompt, answer, 2], dtype=np.int32)
        return Example(name, "s", name, (Sequence(ids, np.array([0, 0, 1, 1], dtype=np.bool_)),))

    asked = [example(str(10 + at), prompt, 10 + at) for at, prompt in enumerate([5, 5, 6, 6, 7])]
    strangers = [made.sequences[-1].input_ids.tolist() for made in with_strangers(asked, 100)]
    assert strangers == [[1, 5, 14, 2], [1, 5, 14, 2], [1, 6, 11, 2], [1, 6, 11, 2], [1, 7, 13, 2]]
    assert with_strangers(asked[:2], 100) == asked[:2]
    assert with_strangers([], 100) == []


def test_a_published_tokenisation_is_kept_apart_from_the_templates(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    first, second = chat_row("Say sea.", "sea")["messages"], chat_row("Say song.", "song")["messages"]
    folder = dataset(tmp_path, [{"messages": first + second} for _ in range(3)])
    lengths = [
        {
            len(example.sequences[0].input_ids)
            for _, example in mixed(folder, tokenizer, **options).order.epoch(0)
        }
        for options in ({}, {"legacy": "llm-jp-ft2026"}, {"legacy": "llm-jp-instruct3"})
    ]
    plain, with_space, without = (length.pop() for length in lengths)
    assert with_space == without + 1  # the ▁ before the second question
    assert with_space > plain  # the fixed sentence, which llm-jp-v3 writes only for a system message


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def test_a_long_dialogue_loses_its_last_exchanges_and_a_pair_its_first(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dialogue = turns("the sea", "is wide", "the river", "runs", "a town", "past")
    folder = dataset(tmp_path, [{"messages": dialogue}, {"messages": turns("a", "sea " * 80)}])
    [whole] = encode(dialogue, tokenizer, TEMPLATE)
    [two] = encode(dialogue[:4], tokenizer, TEMPLATE)
    made = mixed(folder, tokenizer, max_length=len(whole) - 1, too_long="cut")
    [example] = [row for _, row in made.order.epoch(0)]
    assert example.sequences[0].input_ids.tolist() == two.input_ids.tolist()
    counts = made.sources["chats"]
    assert counts["notes"] == {"rows_cut": 1, "turns_left_out": 2}
    assert counts["rows_dropped"] == {"too_long": 1}  # a single exchange is not cut

    prompt = turns("the sea", "is wide", "the river")
    row = {"prompt": prompt, "chosen": turns("", "runs")[1:], "rejected": turns("", "is past a town")[1:]}
    pairs = dataset(tmp_path, [row], source="pairs")
    sides = encode_pair(prompt[2:], row["chosen"], row["rejected"], tokenizer, TEMPLATE)
    longest = max(len(side) for side in sides)
    made = mix(
        {"pairs": pairs},
        {"pairs": Share()},
        tokenizer,
        TEMPLATE,
        preference=True,
        stage="dpo",
        max_length=longest,
        too_long="cut",
        seed=1,
        cache=tmp_path / "cache",
    )
    [example] = [found for _, found in made.order.epoch(0)]
    assert [part.input_ids.tolist() for part in example.sequences] == [
        side.input_ids.tolist() for side in sides
    ]
