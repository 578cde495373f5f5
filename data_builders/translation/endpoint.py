"""A chat model behind an OpenAI-compatible server as a translator: one text a request, several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.asking.server import Server
from data_builders.translation.translators import PROMPT_VERSION, Request, bare, instruction


class Endpoint:
    """Translates through `/v1/chat/completions` of the server at `url`.

    `parameters` are further fields of the request's body, such as temperature. `max_characters` limits a
    request's text: far longer ones are summarised rather than translated. Raises `BuilderError` for a URL
    that is none, and for a key variable that is not set.
    """

    batch_size = 1
    keeps_lines = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        concurrency: int = 8,
        timeout_seconds: float = 300.0,
        max_retries: int = 6,
        first_wait_seconds: float = 1.0,
        max_characters: int = 8000,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.server = Server(
            url,
            model,
            name="translate",
            key_variable=key_variable,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            first_wait_seconds=first_wait_seconds,
        )
        self.workers, self.max_characters = concurrency, max_characters
        self.parameters = {"temperature": 0, **(parameters or {})}
        self.notes: list[str] = []
        self.name = model
        self.identity = {
            "kind": "endpoint",
            "endpoint": self.server.url.partition("?")[0],
            "model": model,
            "parameters": self.parameters,
            "prompt_version": PROMPT_VERSION,
        }

    def check(self, source: str, target: str) -> None:
        """A chat model is asked for any pair of languages."""

    def fits(self, text: str) -> bool:
        return len(text) <= self.max_characters

    def translate(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._translated(request) for request in requests]

    def _translated(self, request: Request) -> Answer:
        messages = [{"role": "user", "content": instruction(request)}]
        found = self.server.completion({"messages": messages, **self.parameters})
        return Answer(bare(found.text), found.fault or ("cut_off" if found.reason == "length" else None))
