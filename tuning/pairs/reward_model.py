"""A reward model in a folder: a sequence classifier with one output, in its own chat template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.lines import BuilderError
from tuning.pairs.local_model import require_model
from tuning.pairs.prompts import Prompt, plain
from tuning.pairs.scorers import Candidate, Steps
from tuning.records import sha256_of_folder

VERSION = 1
"""Raised when the same folder would score differently."""


@dataclass(frozen=True)
class Dialogues:
    """The answers to one prompt, each as a rendered dialogue. They are one batch, so that a score does not
    depend on what else is scored."""

    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        """What the schedule sorts by length."""
        return max(self.texts, key=len)


class RewardModel:
    """Scores with the classifier in `folder`; its weights are read when the first score is asked for.

    Raises `BuilderError` for a folder without a model, without a chat template, or with several outputs.
    """

    workers = batch_size = 1

    def __init__(self, folder: Path, *, device: str | None = None) -> None:
        import torch
        from transformers import AutoConfig, AutoTokenizer

        require_model(folder)
        self.folder = folder
        try:
            config = AutoConfig.from_pretrained(folder)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise BuilderError(f"{folder}: {str(error).splitlines()[0]}", code="bad_model") from None
        if config.num_labels != 1:
            raise BuilderError(
                f"{folder}: {config.num_labels} outputs; accepted: a reward model, which has one", "bad_model"
            )
        if not self.tokenizer.chat_template:
            raise BuilderError(f"{folder}: carries no chat template", code="bad_model")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        self.window = getattr(config, "max_position_embeddings", None)
        self._model: Any = None
        self.name = f"reward:{folder.name}"
        self.counts: Counter[str] = Counter()

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """All that a score depends on besides the dialogue; reads every file of the folder once."""
        return {
            "kind": "reward",
            "model": self.folder.name,
            "model_sha256": sha256_of_folder(self.folder),
            "dtype": str(self.dtype),
            "version": VERSION,
        }

    def check(self) -> None:
        """All that can be known without weights was checked when this was made."""

    def open(self) -> None:
        from transformers import AutoModelForSequenceClassification

        if self._model is None:
            self._model, loading = AutoModelForSequenceClassification.from_pretrained(
                self.folder, dtype=self.dtype, use_safetensors=True, output_loading_info=True
            )
            if missing := sorted(loading["missing_keys"]):
                raise BuilderError(
                    f"{self.folder}: no weights for {missing[0]}; accepted: a trained reward model",
                    "bad_model",
                )
            self._model.to(self.device).eval()

    def close(self) -> None:
        self._model = None

    def steps(self, prompt: Prompt, answers: Sequence[Candidate]) -> Steps:
        if not answers:
            return []
        asked = plain(prompt.messages)
        texts = tuple(
            str(
                self.tokenizer.apply_chat_template(
                    [*asked, {"role": "assistant", "content": answer.content}], tokenize=False
                )
            )
            for answer in answers
        )
        [found] = yield [Dialogues(texts)]
        return [None if score is None else float(score) for score in json.loads(found.text)]

    def ask(self, requests: Sequence[Dialogues]) -> list[Answer]:
        return [Answer(json.dumps(self._scores(request.texts))) for request in requests]

    def _scores(self, texts: Sequence[str]) -> list[float | None]:
        """A score each; None for a dialogue beyond the model's window."""
        import torch

        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        scores: list[float | None] = [None] * len(rows)
        fitting = [at for at, row in enumerate(rows) if row and len(row) <= (self.window or len(row))]
        for batch in self._batches(fitting):
            longest = max(len(rows[at]) for at in batch)
            pad = self._pad or 0
            ids = torch.tensor([rows[at] + [pad] * (longest - len(rows[at])) for at in batch])
            mask = torch.tensor([[1] * len(rows[at]) + [0] * (longest - len(rows[at])) for at in batch])
            self._model.config.get_text_config().pad_token_id = self._pad
            self._model.config.pad_token_id = self._pad
            with torch.inference_mode():
                logits = self._model(ids.to(self.device), attention_mask=mask.to(self.device)).logits
            for at, score in zip(batch, logits[:, 0].float().tolist(), strict=True):
                scores[at] = round(score, 6)
        return scores

    @property
    def _pad(self) -> int | None:
        """A token that only pads: the classifier takes the last other one as the end of a row."""
        pad = self.tokenizer.pad_token_id
        return None if pad == self.tokenizer.eos_token_id else pad

    def _batches(self, rows: list[int]) -> list[list[int]]:
        """All at once, or one by one for a tokenizer without a padding token of its own."""
        if self._pad is None:
            return [[row] for row in rows]
        return [rows] if rows else []
