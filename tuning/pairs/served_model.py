"""A model behind an OpenAI-compatible server, such as vLLM, sampled through it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.asking.server import Server
from tuning.chat import VERSION as CHAT_VERSION
from tuning.chat import encode_prompt, load_template
from tuning.model.loading import load_tokenizer
from tuning.pairs.prompts import Prompt, plain
from tuning.pairs.sampling import Sampling, Wanted

STOPPED = ("stop", "eos", "eos_token")


class ServedModel:
    """Samples the model `model` of the server at `url`.

    With a `tokenizer` (a folder with the model's tokenizer and template) the server gets token ids, those
    that the model was trained on, through `/v1/completions`, as vLLM takes them. Without one it gets messages
    through `/v1/chat/completions` and renders them by itself. Each answer has a seed of its own, which the
    server may heed. Raises `BuilderError` for a URL that is none and a key variable that is not set.
    """

    batch_size = 1

    def __init__(
        self,
        url: str,
        model: str,
        *,
        sampling: Sampling | None = None,
        tokenizer: str | None = None,
        template: str = "base",
        key_variable: str | None = None,
        concurrency: int = 32,
        timeout_seconds: float = 600.0,
        max_retries: int = 6,
        first_wait_seconds: float = 1.0,
    ) -> None:
        self.sampling, self.name, self.workers = sampling or Sampling(), model, concurrency
        self.tokenizer: Any = load_tokenizer(tokenizer) if tokenizer else None
        self.template = load_template(template, tokenizer=self.tokenizer) if tokenizer else None
        self.server = Server(
            url,
            model,
            name="pairs",
            is_chat=tokenizer is None,
            key_variable=key_variable,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            first_wait_seconds=first_wait_seconds,
        )
        self.identity: Mapping[str, Any] = {
            "kind": "endpoint",
            "endpoint": self.server.url.partition("?")[0],
            "model": model,
            "template": self.template.fingerprint if self.template else "the server's own",
            "sampling": self.sampling.as_dict(),
            "version": CHAT_VERSION,
        }

    def check(self) -> None:
        """Raises `BuilderError` if the server does not answer or does not serve the model."""
        self.server.check()

    def wanted(self, prompt: Prompt, number: int) -> Wanted:
        """The request for one answer; raises `ChatError` for a prompt that the template cannot carry."""
        limit = self.sampling.max_new_tokens
        if self.template is None:
            return Wanted(json.dumps(plain(prompt.messages), ensure_ascii=False), number, limit)
        ids = encode_prompt(prompt.messages, self.tokenizer, self.template)
        return Wanted(tuple(map(int, ids)), number, limit)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def ask(self, requests: Sequence[Wanted]) -> list[Answer]:
        """An answer each; `cut_off` where the server does not say that it stopped."""
        return [self._asked(request) for request in requests]

    def message(self, text: str) -> dict[str, str] | None:
        """The assistant's message in an answer."""
        return {"role": "assistant", "content": text.strip()}

    def _asked(self, request: Wanted) -> Answer:
        sampling = self.sampling
        given = (
            {"messages": json.loads(request.prompt)}
            if isinstance(request.prompt, str)
            else {"prompt": list(request.prompt)}
        )
        body = {
            **given,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": request.limit,
            "seed": request.seed(sampling.seed),
        }
        if sampling.top_k:  # not a field of OpenAI's own servers
            body["top_k"] = sampling.top_k
        found = self.server.completion(body)
        return Answer(found.text, found.fault or (None if found.reason in STOPPED else "cut_off"))
