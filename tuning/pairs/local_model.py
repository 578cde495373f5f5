"""A chat model in a folder, sampled here."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from data_builders.asking.answers import Answer
from data_builders.lines import BuilderError
from tuning.chat import VERSION as CHAT_VERSION
from tuning.chat import encode_prompt, load_template
from tuning.model.loading import load_model, load_tokenizer
from tuning.pairs.engines import ContinuousEngine, PlainEngine
from tuning.pairs.prompts import Prompt
from tuning.pairs.sampling import Sampling, Wanted, ends_of
from tuning.records import sha256_of_folder

VERSION = 1
"""Raised when the same folder and seed would answer differently."""
ENGINES = ("auto", "continuous", "plain")
HARMONY = re.compile(
    r"\A(?:<\|channel\|>analysis<\|message\|>(?P<thinking>.*?)<\|end\|><\|start\|>assistant)?"
    r"<\|channel\|>final<\|message\|>(?P<content>.*?)(?:<\|return\|>|<\|end\|>)?\Z",
    re.DOTALL,
)


class PromptTooLong(ValueError):
    """No token would be left for an answer."""

    code = "too_long"


class LocalModel:
    """Samples from the model in `folder`; its weights are read when the first answer is asked for.

    `engine` is `continuous`, `plain`, or `auto`: continuous batching on a GPU, `generate` on a CPU and for a
    model that continuous batching refuses. `template` replaces the folder's own. Raises `BuilderError` for a
    folder that holds no usable model, `ChatError` for one without a template.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        sampling: Sampling | None = None,
        template: str = "base",
        engine: str = "auto",
        in_flight: int = 128,
        batch_size: int = 16,
        device: str | None = None,
    ) -> None:
        self.folder, self.sampling = Path(folder), sampling or Sampling()
        require_model(self.folder)
        if engine not in ENGINES:
            raise BuilderError(f"engine: saw {engine!r}; accepted: {', '.join(ENGINES)}")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        self.tokenizer: Any = load_tokenizer(str(self.folder))
        self.template = load_template(template, tokenizer=self.tokenizer)
        self.template.check(self.tokenizer)
        self.window = _window(self.folder)
        self.engine = engine
        if engine == "auto":
            self.engine = "continuous" if self.device.startswith("cuda") else "plain"
        self._is_free = engine == "auto"
        self.is_harmony = "<|channel|>" in self.template.source
        self.workers, self.batch_size = (in_flight, 1) if self.engine == "continuous" else (1, batch_size)
        self._plain_batch = batch_size
        self._opened: PlainEngine | ContinuousEngine | None = None

    @cached_property
    def name(self) -> str:
        """The folder's name with the beginning of its hash."""
        return f"{self.folder.name}@{self.identity['model_sha256'][:12]}"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """All that an answer depends on besides prompt and number; reads every file of the folder once."""
        return {
            "kind": "local",
            "model_sha256": sha256_of_folder(self.folder),
            "template": self.template.fingerprint,
            "dtype": str(self.dtype),
            "sampling": self.sampling.as_dict(),
            "version": [VERSION, CHAT_VERSION],
        }

    def check(self) -> None:
        """All that can be known without weights was checked when this was made."""

    def wanted(self, prompt: Prompt, number: int) -> Wanted:
        """The request for one answer; raises `ChatError` or `PromptTooLong` for a prompt that has none."""
        ids = tuple(map(int, encode_prompt(prompt.messages, self.tokenizer, self.template)))
        room = self.sampling.max_new_tokens
        if self.window is not None:
            room = min(room, self.window - len(ids))
        if room < 1:
            raise PromptTooLong(f"{prompt.id}: {len(ids)} tokens, the model takes {self.window}")
        return Wanted(ids, number, room)

    def ask(self, requests: Sequence[Wanted]) -> list[Answer]:
        """An answer each; `cut_off` where no end token came."""
        assert self._opened is not None
        return [self._answer(ids) for ids in self._opened.ids(requests)]

    def open(self) -> None:
        """Reads the weights, once."""
        if self._opened is not None:
            return
        model: Any = load_model(str(self.folder), dtype=self.dtype, for_training=False)
        model.to(self.device).eval()
        self.ends = ends_of(self.tokenizer, self.template, model)
        settings = (model, len(self.tokenizer), self.ends, self.sampling)
        if self.engine == "continuous":
            try:
                self._opened = ContinuousEngine(*settings)
                return
            except Exception as error:
                if not self._is_free:
                    raise
                print(f"pairs: no continuous batching for this model: {error}", file=sys.stderr, flush=True)
                self.workers, self.batch_size = 1, self._plain_batch
        self._opened = PlainEngine(*settings)

    def close(self) -> None:
        """Stops the engine and lets the weights go."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def message(self, text: str) -> dict[str, str] | None:
        """The assistant's message in an answer; None for a Harmony answer without a final channel."""
        if not self.is_harmony:
            return {"role": "assistant", "content": text.strip()}
        found = HARMONY.match(text)
        if found is None:
            return None
        message = {"role": "assistant", "content": found["content"].strip()}
        return message | ({"thinking": found["thinking"]} if (found["thinking"] or "").strip() else {})

    def _answer(self, ids: list[int]) -> Answer:
        stopped = bool(ids) and ids[-1] in self.ends
        text = self.tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=not self.is_harmony)
        return Answer(str(text), None if stopped else "cut_off")


def require_model(folder: Path) -> None:
    """Raises `BuilderError` unless the folder holds a model's configuration and safetensors."""
    if not (folder / "config.json").is_file():
        missing = "no config.json" if folder.is_dir() else "no such folder"
        raise BuilderError(f"{folder}: {missing}; accepted: a folder of a transformers model", "bad_model")
    if not any(folder.glob("*.safetensors")):
        raise BuilderError(
            f"{folder}: no *.safetensors; pickled weights are not read, convert them", code="bad_model"
        )


def _window(folder: Path) -> int | None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config()
    return getattr(config, "max_position_embeddings", None)
