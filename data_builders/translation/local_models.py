"""A model in a folder: an encoder-decoder (Marian, NLLB, mBART, M2M-100, T5, MADLAD) or a chat model.

This is the one place of `data_builders` that needs torch, and it imports it when a model is opened. Weights
are read from safetensors only and code of the folder is never run. Decoding is greedy; a text that failed a
check is decoded with beams (encoder-decoder) or under a stricter instruction (chat model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.lines import BuilderError
from data_builders.translation.translators import PROMPT_VERSION, Request, Translator, bare, instruction
from tuning.records import sha256_of_folder

VERSION = 1
"""Raised when the same folder would answer differently."""
UNKNOWN_WINDOW = 512
"""Tokens, for an encoder-decoder that states no limit."""
PROBE = "[[#1]] [[12]]"
BEAMS, NO_REPEAT = 4, 6

LANGUAGE_TOKENS = {
    "de": ("de", "de_DE", "deu_Latn"),
    "en": ("en", "en_XX", "eng_Latn"),
    "es": ("es", "es_XX", "spa_Latn"),
    "fr": ("fr", "fr_XX", "fra_Latn"),
    "ja": ("ja", "ja_XX", "jpn_Jpan"),
    "ko": ("ko", "ko_KR", "kor_Hang"),
    "pt": ("pt", "pt_XX", "por_Latn"),
    "ru": ("ru", "ru_RU", "rus_Cyrl"),
    "zh": ("zh", "zh_CN", "zho_Hans"),
}
"""How M2M-100, mBART and NLLB spell a language; only what the tokenizer at hand knows is used."""


def open_model(
    folder: str | Path, *, batch_size: int = 16, max_length: int | None = None, device: str | None = None
) -> Translator:
    """The translator in a folder; its configuration tells which kind it is.

    `max_length` (tokens) replaces the window that the model states. Raises `BuilderError` for a folder that
    holds no usable model.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise BuilderError(
            f"{folder}: no config.json; accepted: a folder of a transformers model", "bad_model"
        )
    if not any(path.glob("*.safetensors")):
        raise BuilderError(
            f"{folder}: no *.safetensors; pickled weights are not read, convert them", code="bad_model"
        )
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
        made: Any = Seq2SeqModel if config.is_encoder_decoder else ChatModel
        return made(path, config, batch_size=batch_size, max_length=max_length, device=device)
    except BuilderError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BuilderError(f"{folder}: no model could be opened: {line}", code="bad_model") from error


class _Model:
    """What both kinds share: a tokenizer, weights on a device, an identity."""

    workers = 1

    def __init__(
        self,
        folder: Path,
        config: Any,
        auto_class: Any,
        *,
        batch_size: int,
        max_length: int | None,
        device: str | None,
    ) -> None:
        import torch
        from transformers import AutoTokenizer

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        self.batch_size = batch_size
        self.config = config
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = auto_class.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        self.model.to(self.device).eval()
        self.window = max_length or self._stated_window()
        digest = sha256_of_folder(folder)
        self.name = f"{folder.name}@{digest[:12]}"
        self.identity: Mapping[str, Any] = {
            "kind": type(self).__name__,
            "model_sha256": digest,
            "dtype": str(dtype),
            "window": self.window,
            "version": VERSION,
        }
        self.notes: list[str] = []

    def _stated_window(self) -> int | None:
        stated = [self.tokenizer.model_max_length]
        stated += [
            getattr(self.config, name, None)
            for name in ("max_position_embeddings", "n_positions", "max_source_positions")
        ]
        return min(
            (limit for limit in stated if isinstance(limit, int) and 0 < limit < 1 << 30), default=None
        )

    def _generated(self, inputs: Any, limit: int, **options: Any) -> tuple[Any, list[bool]]:
        """New tokens of a batch, and for each whether the limit ended it."""
        import torch

        with torch.inference_mode():
            output = self.model.generate(
                **inputs.to(self.device), max_new_tokens=limit, do_sample=False, **options
            )
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ()) | {self.tokenizer.eos_token_id}
        new = output if self.config.is_encoder_decoder else output[:, inputs["input_ids"].shape[1] :]
        return new, [not ends & set(row) for row in new.tolist()]


class Seq2SeqModel(_Model):
    """An encoder-decoder that was trained to translate."""

    def __init__(self, folder: Path, config: Any, **options: Any) -> None:
        from transformers import AutoModelForSeq2SeqLM

        super().__init__(folder, config, AutoModelForSeq2SeqLM, **options)
        self.window = self.window or UNKNOWN_WINDOW
        self.vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        self.keeps_lines = "\n" in self._round_trip("a\nb")
        if "".join(self._round_trip(PROBE).split()) != "".join(PROBE.split()):
            self.notes.append(
                "this model's tokenizer cannot carry tokens such as [[1]]: texts with code will be flagged "
                "code_changed, and dialogues translated turn by turn"
            )
        if not self.keeps_lines:
            self.notes.append("this model's tokenizer has no line break: texts are translated line by line")

    def check(self, source: str, target: str) -> None:
        if self._is_multilingual and None in (self._token(source), self._token(target)):
            raise BuilderError(
                f"{self.name}: its tokenizer has no language token for {source} or {target}; "
                f"known here: {', '.join(code for code in LANGUAGE_TOKENS if self._token(code)) or 'none'}",
                code="unknown_language",
            )

    @property
    def _is_multilingual(self) -> bool:
        return hasattr(self.tokenizer, "src_lang")

    def _token(self, language: str) -> str | None:
        """The vocabulary's entry for a language."""
        names = (language, *LANGUAGE_TOKENS.get(language, ()))
        return next(
            (form for name in names for form in (f"__{name}__", name) if self._is_special(form)), None
        )

    def _is_special(self, form: str) -> bool:
        return form in self.vocabulary and form in self.tokenizer.all_special_tokens

    def fits(self, text: str) -> bool:
        # A few tokens are left for prefix and language; the translation has the same window.
        return len(self.tokenizer(text)["input_ids"]) + 8 <= (self.window or UNKNOWN_WINDOW)

    def translate(self, requests: Sequence[Request]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        kinds = dict.fromkeys((item.source, item.target, item.again) for item in requests)
        for source, target, again in kinds:
            at = [
                index
                for index, item in enumerate(requests)
                if (item.source, item.target, item.again) == (source, target, again)
            ]
            found = self._translated([requests[index].text for index in at], source, target, again)
            answers.update(zip(at, found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _translated(self, texts: list[str], source: str, target: str, again: bool) -> list[Answer]:
        options: dict[str, Any] = {"num_beams": 1}
        if again:
            options = {"num_beams": BEAMS, "no_repeat_ngram_size": NO_REPEAT}
        if self._is_multilingual:
            token = str(self._token(target))
            self.tokenizer.src_lang = str(self._token(source)).strip("_")
            options["forced_bos_token_id"] = self.vocabulary[token]
        prefix = self._prefix(source, target)
        inputs = self.tokenizer([prefix + text for text in texts], padding=True, return_tensors="pt")
        window = self.window or UNKNOWN_WINDOW
        limit = min(window - 1, 3 * inputs["input_ids"].shape[1] + 32)
        new, is_cut = self._generated(inputs, limit, **options)
        decoded = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            Answer(text.strip(), "cut_off" if cut else None)
            for text, cut in zip(decoded, is_cut, strict=True)
        ]

    def _prefix(self, source: str, target: str) -> str:
        """MADLAD's `<2ja> `, or what the configuration of a T5 states for this pair."""
        if f"<2{target}>" in self.vocabulary:
            return f"<2{target}> "
        tasks = getattr(self.config, "task_specific_params", None) or {}
        return str((tasks.get(f"translation_{source}_to_{target}") or {}).get("prefix", ""))

    def _round_trip(self, text: str) -> str:
        return str(self.tokenizer.decode(self.tokenizer(text)["input_ids"], skip_special_tokens=True))


class ChatModel(_Model):
    """A causal model with a chat template, asked in words."""

    keeps_lines = True

    def __init__(self, folder: Path, config: Any, **options: Any) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(folder, config, AutoModelForCausalLM, **options)
        if not self.tokenizer.chat_template:
            raise BuilderError(f"{folder}: carries no chat template", code="bad_model")
        self.identity = {**self.identity, "prompt_version": PROMPT_VERSION}
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def check(self, source: str, target: str) -> None:
        """A chat model is asked for any pair of languages."""

    def fits(self, text: str) -> bool:
        num_tokens = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        instruction_tokens = 256
        return self.window is None or instruction_tokens + num_tokens + self._limit(num_tokens) <= self.window

    def translate(self, requests: Sequence[Request]) -> list[Answer]:
        prompts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": instruction(request)}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for request in requests
        ]
        inputs = self.tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        longest = max(
            len(self.tokenizer(request.text, add_special_tokens=False)["input_ids"]) for request in requests
        )
        new, is_cut = self._generated(inputs, self._limit(longest), pad_token_id=self.tokenizer.pad_token_id)
        decoded = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            Answer(bare(text), "cut_off" if cut else None) for text, cut in zip(decoded, is_cut, strict=True)
        ]

    @staticmethod
    def _limit(num_tokens: int) -> int:
        """New tokens that a translation of so many tokens may take."""
        return 3 * num_tokens + 64
