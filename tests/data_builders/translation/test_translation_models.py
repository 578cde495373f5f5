"""Local models end to end: a T5 that learns six translations here, and a chat model that learnt nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, normalizers, processors
from transformers import (
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from data_builders import BuilderError
from data_builders.asking.answers import Answer
from data_builders.translate import open_model, translate
from data_builders.translation.translators import Request
from tests.data_builders.translation.conftest import built, dialogue, rows_of
from tuning.cli import main
from tuning.model.tiny import tiny_llama, train_tokenizer

PAIRS = {
    "How are you?": "お元気ですか？",
    "I am well.": "元気です。",
    "Open [[1]] now.": "今[[1]]を開いてください。",
    "It is done.": "終わりました。",
}
TALKS = [("How are you?", "I am well."), ("Open [[1]] now.", "It is done.")]


def joined(texts: tuple[str, str]) -> str:
    return f"[[#1]]\n{texts[0]}\n\n[[#2]]\n{texts[1]}"


def tiny_t5(folder: Path, lessons: dict[str, str], *, has_line_break: bool = True, steps: int = 120) -> Path:
    """A T5 that has learnt the lessons by heart, and nothing else."""
    tokenizer = train_tokenizer([*lessons, *lessons.values()] * 3, 600)
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    if not has_line_break:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Replace(Regex(r"\s+"), " "), backend.normalizer]
        )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    inputs = tokenizer(list(lessons), padding=True, return_tensors="pt")
    labels = tokenizer(list(lessons.values()), padding=True, return_tensors="pt")["input_ids"]
    labels[labels == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    together = {joined(talk): joined((PAIRS[talk[0]], PAIRS[talk[1]])) for talk in TALKS}
    return tiny_t5(tmp_path_factory.mktemp("t5"), PAIRS | together)


def test_a_model_folder_translates_dialogues_by_the_command(
    t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`` `a.txt` `` goes through the model as `[[1]]`."""
    rows = [dialogue(*(text.replace("[[1]]", "`a.txt`") for text in talk)) for talk in TALKS]
    folder = built(tmp_path, rows)
    arguments = ["data", "translate", str(folder), "--to", "ja", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--model", str(t5), "--batch-size", "2"]) == 0
    translated = [[message["content"] for message in row["messages"]] for row in rows_of(tmp_path / "out")]
    assert translated == [
        ["お元気ですか？", "元気です。"],
        ["今`a.txt`を開いてください。", "終わりました。"],
    ]
    assert "texts_by_dialogue 4" in capsys.readouterr().out
    assert rows_of(tmp_path / "out")[0]["meta"]["translator"].startswith(f"{t5.name}@")
    assert main([*arguments, "--model", str(t5)]) == 0
    assert "asked=0 cached=2" in capsys.readouterr().err


def test_a_dialogue_beyond_the_window_is_translated_turn_by_turn(t5: Path, tmp_path: Path) -> None:
    """The window takes the longest turn and the 8 tokens that are kept free, and no token more."""
    tokenizer = AutoTokenizer.from_pretrained(t5)
    longest = max(len(tokenizer(text)["input_ids"]) for text in PAIRS)
    translator = open_model(t5, max_length=longest + 8)
    assert all(translator.fits(text) for text in PAIRS)
    assert not any(translator.fits(joined(talk)) for talk in TALKS)
    folder = built(tmp_path, [dialogue(*TALKS[0])])
    manifest = translate(folder, tmp_path / "out", translator, to="ja", progress=False)
    assert manifest["counts"] == {"texts_by_turn": 2}
    assert manifest["rows_kept"] == 1


def test_what_the_model_never_learnt_is_flagged_not_kept(t5: Path, tmp_path: Path) -> None:
    rows = [dialogue("How are you?", "I am well."), dialogue("Read `x` and ```y``` and `z`.", "I am well.")]
    manifest = translate(built(tmp_path, rows), tmp_path / "out", open_model(t5), to="ja", progress=False)
    assert (manifest["rows_in"], manifest["rows_kept"]) == (2, 1)
    assert list(manifest["rows_dropped"].values()) == [1]


def test_a_translation_that_meets_the_length_limit_is_cut_off(t5: Path) -> None:
    """A window of 2 tokens leaves room for 1, which is not yet the end."""
    translator = open_model(t5, max_length=2)
    [answer] = translator.translate([Request("How are you?", "en", "ja")])
    assert answer.fault == "cut_off"
    assert PAIRS["How are you?"].startswith(answer.text)


def test_batches_of_any_size_and_order_answer_alike(t5: Path) -> None:
    translator = open_model(t5)
    requests = [Request(text, "en", "ja", again) for text in PAIRS for again in (False, True)]
    expected = [Answer(PAIRS[request.text]) for request in requests]
    assert translator.translate(requests) == expected
    assert [translator.translate([request])[0] for request in requests] == expected


def test_a_tokenizer_without_line_break_gets_line_by_line_and_the_lines_stay(tmp_path: Path) -> None:
    """What it would lose: `a\\n\\n  b` is one line for it."""
    folder = tiny_t5(tmp_path / "t5", PAIRS, has_line_break=False)
    translator = open_model(folder)
    assert translator.keeps_lines is False
    assert any("line by line" in note for note in translator.notes)
    rows = [dialogue("How are you?", "I am well.\n\n  It is done.\n")]
    translate(built(tmp_path, rows), tmp_path / "out", translator, to="ja", progress=False)
    [row] = rows_of(tmp_path / "out")
    assert row["messages"][1]["content"] == "元気です。\n\n  終わりました。\n"


def test_a_model_of_many_languages_is_told_both(tmp_path: Path) -> None:
    """One text, four answers: only the language tokens before source and translation tell them apart."""
    lessons = {("en", "ja"): "1", ("en", "ko"): "2", ("fr", "ja"): "b", ("fr", "ko"): "c"}
    codes = {"en": "eng_Latn", "fr": "fra_Latn", "ja": "jpn_Jpan", "ko": "kor_Hang"}
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "c", "1", "2"]
    tokenizer = NllbTokenizer(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[])
    inputs, labels = [], []
    for (source, target), answer in lessons.items():
        tokens = ([codes[source], "▁", "a", "</s>"], [codes[target], "▁", answer, "</s>"])
        inputs.append(tokenizer.convert_tokens_to_ids(tokens[0]))
        labels.append(tokenizer.convert_tokens_to_ids(tokens[1]))
    torch.manual_seed(0)
    model = M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            dropout=0.0,
            attention_dropout=0.0,
            init_std=0.2,
            encoder_layerdrop=0.0,
            decoder_layerdrop=0.0,
            max_position_embeddings=64,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        model(input_ids=torch.tensor(inputs), labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    translator = open_model(tmp_path)
    requests = [Request("a", *languages) for languages in lessons]
    assert translator.translate(requests) == [Answer(answer) for answer in lessons.values()]
    with pytest.raises(BuilderError, match=r"no language token for en or tlh; known here: de, en, .*"):
        translator.check("en", "tlh")


def test_the_same_weights_elsewhere_are_the_same_translator_and_others_are_not(
    t5: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(t5, tmp_path / "copy")
    assert open_model(tmp_path / "copy").identity == open_model(t5).identity
    config = (tmp_path / "copy/config.json").read_text()
    (tmp_path / "copy/config.json").write_text(config.replace('"dropout_rate": 0.0', '"dropout_rate": 0.1'))
    assert open_model(tmp_path / "copy").identity != open_model(t5).identity


def test_pickled_weights_and_folders_without_a_model_are_refused(t5: Path, tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"no config\.json"):
        open_model(tmp_path)
    M2M100Config().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BuilderError, match="pickled weights are not read"):
        open_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BuilderError, match="no model could be opened"):
        open_model(tmp_path)


def test_a_chat_model_is_asked_in_words_and_what_it_babbles_is_dropped(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["Name the sea.", "海は広い。"] * 9, 600)
    tokenizer.chat_template = (
        "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    model: Any = tiny_llama(tokenizer, hidden_size=16, layers=1, heads=2, key_value_heads=1, seed=0)
    model.save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    translator = open_model(tmp_path / "chat", batch_size=2)
    assert translator.keeps_lines
    assert translator.fits("Name the sea.")
    assert not translator.fits("Name the sea. " * 1000)
    rows = [dialogue("Name the sea.", "The Baltic."), dialogue("Where is it?", "42")]
    folder = built(tmp_path, rows)
    manifest = translate(folder, tmp_path / "out", translator, to="ja", progress=False)
    assert (manifest["rows_in"], manifest["rows_kept"]) == (2, 0)
    assert sum(manifest["rows_dropped"].values()) == 2
    again = open_model(tmp_path / "chat", batch_size=1)
    requests = [Request("Name the sea.", "en", "ja"), Request("Where is it?", "en", "ja")]
    assert [again.translate([item])[0].text[:20] for item in requests] == [
        answer.text[:20] for answer in translator.translate(requests)
    ]


def test_a_chat_model_without_a_template_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["Name the sea."] * 9, 600)
    tiny_llama(tokenizer, hidden_size=16, layers=1, heads=2, key_value_heads=1, seed=0).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BuilderError, match="carries no chat template"):
        open_model(tmp_path)
