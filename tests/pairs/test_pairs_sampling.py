"""Answers are samples of the model's distribution, and each depends on its prompt and number alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from data_builders import BuilderError
from tests.pairs.conftest import Model, numbered, prompts_file
from tests.pairs.test_pairs_scorers import Serve, prompt_of
from tuning.chat import encode_prompt, load_template
from tuning.model.loading import load_tokenizer
from tuning.pairs import LocalModel, Sampling, ServedModel
from tuning.pairs.engines import ContinuousEngine, PlainEngine
from tuning.pairs.local_model import HARMONY, PromptTooLong
from tuning.pairs.prompts import open_prompts
from tuning.pairs.sampling import Wanted, gumbel, noise_key, perturbed


def test_the_largest_perturbed_score_is_a_sample_of_the_softmax() -> None:
    """Of 40,000 draws each share is within 4 standard errors (at most 0.01) of its probability."""
    scores = torch.tensor([[2.0, 1.0, 0.0, -3.0, 9.0]])
    keys = torch.tensor([noise_key(seed, 5) for seed in range(40_000)])
    drawn = perturbed(scores.repeat(len(keys), 1), keys, Sampling(temperature=2.0), 4).argmax(-1)
    shares = torch.bincount(drawn, minlength=5) / len(keys)
    expected = torch.tensor([1.0, 0.5, 0.0, -1.5]).softmax(-1)
    assert shares[4] == 0  # a row of padded embeddings, which no token has
    assert torch.allclose(shares[:4], expected, atol=0.01)


def test_top_k_and_top_p_leave_the_tokens_that_they_name() -> None:
    """Probabilities 0.5, 0.3, 0.15, 0.05: top_p 0.7 needs the first two, 0.8 the same, 0.81 the third too."""
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(2_000, 1)
    keys = torch.arange(2_000)

    def drawn(**settings: Any) -> set[int]:
        return set(perturbed(scores.clone(), keys, Sampling(**settings), 4).argmax(-1).tolist())

    assert drawn(top_k=3) == {0, 1, 2}
    assert drawn(top_p=0.7) == {0, 1}
    assert drawn(top_p=0.81) == {0, 1, 2}
    assert drawn(top_p=0.4) == {0}


def test_the_noise_of_a_row_knows_nothing_of_the_others() -> None:
    assert torch.equal(gumbel(torch.tensor([3, 7]), 50)[1], gumbel(torch.tensor([7]), 50)[0])
    noise = gumbel(torch.arange(400), 500)
    # The Gumbel distribution: mean 0.5772, variance pi^2 / 6 = 1.6449; 200,000 draws
    assert abs(noise.mean().item() - 0.5772) < 0.02
    assert abs(noise.var().item() - 1.6449) < 0.05


@pytest.fixture(scope="module")
def requests(model_folder: Path) -> list[Wanted]:
    sampler = LocalModel(model_folder, sampling=Sampling(max_new_tokens=24))
    prompts = [prompt_of("the sea"), prompt_of("a river"), prompt_of("the town", "rice", "and paper")]
    return [sampler.wanted(prompt, number) for prompt in prompts for number in range(3)]


def test_both_engines_give_the_same_answers_in_any_order(model_folder: Path, requests: list[Wanted]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = load_tokenizer(str(model_folder))
    settings = (model, len(tokenizer), (2,), Sampling(max_new_tokens=24))
    plain = PlainEngine(*settings)
    expected = plain.ids(requests)
    assert plain.ids(requests[::-1])[::-1] == expected
    assert [plain.ids([request])[0] for request in requests] == expected
    continuous = ContinuousEngine(*settings)
    try:
        assert continuous.ids(requests) == expected
        assert continuous.ids(requests[4::-1])[::-1] == expected[:5]
    finally:
        continuous.close()
    assert len({tuple(ids) for ids in expected}) == 9
    assert any(2 in ids[:-1] or ids[-1] == 2 for ids in expected)
    assert any(ids[-1] != 2 for ids in expected)
    assert all(2 not in ids[:-1] for ids in expected)


def test_another_seed_or_prompt_gives_other_answers(model_folder: Path, requests: list[Wanted]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    first = PlainEngine(model, 340, (2,), Sampling(seed=0)).ids(requests[:1])
    assert PlainEngine(model, 340, (2,), Sampling(seed=1)).ids(requests[:1]) != first
    assert requests[0].seed(0) != requests[1].seed(0) != requests[3].seed(0)


def test_the_prompt_is_what_training_encodes(model_folder: Path) -> None:
    prompt = prompt_of("the town", "rice", "</s> and paper")
    tokenizer = load_tokenizer(str(model_folder))
    expected = encode_prompt(prompt.messages, tokenizer, load_template("base", tokenizer=tokenizer))
    assert LocalModel(model_folder).wanted(prompt, 0).prompt == tuple(expected.tolist())


def test_an_answer_says_whether_it_stopped(model_folder: Path, requests: list[Wanted]) -> None:
    sampler = LocalModel(model_folder, sampling=Sampling(max_new_tokens=24))
    sampler.open()
    answers = sampler.ask(requests)
    found = PlainEngine(sampler._opened.model, 340, (2,), sampler.sampling).ids(requests)  # type: ignore[union-attr]
    assert [answer.fault for answer in answers] == [None if ids[-1] == 2 else "cut_off" for ids in found]
    assert Counter(answer.fault for answer in answers).keys() == {None, "cut_off"}
    assert not any("</s>" in answer.text for answer in answers)


def test_a_prompt_that_fills_the_window_is_refused_and_a_longer_answer_ends_there(model_folder: Path) -> None:
    """The model takes 96 tokens."""
    sampler = LocalModel(model_folder, sampling=Sampling(max_new_tokens=90))
    short = sampler.wanted(prompt_of("the sea"), 0)
    assert short.limit == 96 - len(short.prompt) < 90
    with pytest.raises(PromptTooLong):
        sampler.wanted(prompt_of("sea " * 100), 0)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_a_sampling_that_means_nothing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BuilderError, match="accepted"):
        Sampling(**settings)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="no such folder"):
        LocalModel(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BuilderError, match="pickled weights are not read"):
        LocalModel(tmp_path)


def test_a_harmony_answer_is_taken_apart_into_channels() -> None:
    found = HARMONY.match(
        "<|channel|>analysis<|message|>1+1=2<|end|><|start|>assistant<|channel|>final<|message|>2"
    )
    assert found is not None
    assert (found["thinking"], found["content"]) == ("1+1=2", "2")
    assert HARMONY.match("<|channel|>analysis<|message|>1+1") is None


def test_a_server_gets_messages_or_the_ids_of_training_and_a_seed_for_each_answer(
    serve: Serve, model_folder: Path
) -> None:
    server: Model = serve(numbered)
    sampling = Sampling(temperature=0.7, top_k=5, max_new_tokens=33)
    prompt = prompt_of("the sea")
    chat = ServedModel(server.url, "mine", sampling=sampling)
    chat.ask([chat.wanted(prompt, 0), chat.wanted(prompt, 1)])
    ids = ServedModel(server.url, "mine", sampling=sampling, tokenizer=str(model_folder))
    ids.ask([ids.wanted(prompt, 0)])
    assert server.paths == ["/v1/chat/completions"] * 2 + ["/v1/completions"]
    first, second, third = server.bodies
    assert first["messages"] == [{"role": "user", "content": "the sea"}]
    assert third["prompt"] == list(LocalModel(model_folder).wanted(prompt, 0).prompt)
    assert first["seed"] != second["seed"]
    for body in server.bodies:
        assert {name: body[name] for name in ("model", "temperature", "top_p", "top_k", "max_tokens")} == {
            **{"model": "mine", "temperature": 0.7, "top_p": 1.0, "top_k": 5, "max_tokens": 33},
        }


def test_an_answer_of_a_server_is_unfinished_unless_it_says_stop(serve: Serve) -> None:
    reasons = iter(["stop", "length", "abort"])
    server = serve(lambda body: ("x", next(reasons)))
    sampler = ServedModel(server.url, "mine")
    answers = sampler.ask([sampler.wanted(prompt_of("?"), number) for number in range(3)])
    assert [answer.fault for answer in answers] == [None, "cut_off", "cut_off"]


def test_prompts_are_read_from_any_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},'
        ' {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}\n'
        '{"prompt": "e", "id": "own"}\n'
        '{"prompt": [{"role": "user", "content": "f"}], "chosen": [], "rejected": [], "source": "hh"}\n'
    )
    found = [prompt for _, prompt in open_prompts(path)]
    assert [[message.content for message in one.messages] for one in found] == [["a", "b", "c"], ["e"], ["f"]]
    assert [(one.id, one.source) for one in found] == [
        *(("rows-00001", "rows"), ("own", "rows"), ("rows-00003", "hh")),
    ]
    assert len(list(open_prompts(prompts_file(tmp_path), first=2))) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": [{"role": "assistant", "content": "x"}]}', "last_not_user"),
        (
            '{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
            "last_not_user",
        ),
        ('{"prompt": " "}', "empty_content"),
        ('{"question": "x"}', "unknown_field"),
        ('{"id": "1"}', "null_value"),
        ("[1]", "not_an_object"),
        ('{"prompt": "x"', "invalid_json"),
    ],
)
def test_a_row_that_asks_nothing_is_named(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "fine"}}\n{row}\n')
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*\[{said}\]"):
        open_prompts(tmp_path / "rows.jsonl")
