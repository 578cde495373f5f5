"""An OpenAI-compatible server: vLLM, llama.cpp, a company's gateway, OpenAI.

429, 5xx, broken connections, time-outs and answers that are no JSON are tried again, waiting longer each
time or as long as the server says. The key is read from the environment variable that is named, sent to that
server alone (redirects are not followed) and shown nowhere.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_builders.asking.answers import AskingStopped
from data_builders.lines import BuilderError

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
ABOUT_THE_TEXT = {400, 413, 422}
"""Statuses with which a server refuses one text: too long, filtered."""
REACH_SECONDS = 10.0
"""How long a server may take to say that it is there."""
LONGEST_WAIT_SECONDS = 120.0
LARGEST_ANSWER_BYTES = 64 << 20
FAILURES_IN_A_ROW = 8
"""After so many texts without one answer between them it is the server, not the texts."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Passing(Exception):
    """A failure that may pass; `wait` is what the server asked for, in seconds."""

    def __init__(self, message: str, wait: float | None = None, *, is_ours: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.is_ours = is_ours
        """It says nothing about the text: no connection, or too many requests."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote and why it ended (`stop`, `length`); nothing if there is a `fault`."""

    text: str
    reason: str | None = None
    fault: str | None = None


class Server:
    """One model of the server at `url`, asked for chat completions or plain ones; `name` starts its lines.

    Raises `BuilderError` for a URL that is none, and for a key variable that is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        name: str,
        is_chat: bool = True,
        key_variable: str | None = None,
        timeout_seconds: float = 300.0,
        max_retries: int = 6,
        first_wait_seconds: float = 1.0,
    ) -> None:
        self.url, self.model, self.name, self.is_chat = completions_url(url, is_chat), model, name, is_chat
        self.timeout_seconds, self.max_retries = timeout_seconds, max_retries
        self.first_wait_seconds = first_wait_seconds
        self._key = _key(key_variable)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self._failed_in_a_row = 0

    def check(self) -> None:
        """Raises `BuilderError` if nobody answers at the address, or who answers does not know key or model.

        The list of models is asked for; a server that keeps none passes.
        """
        where = urllib.parse.urlsplit(self.url)
        path = where.path.removesuffix("/completions").removesuffix("/chat") + "/models"
        address = urllib.parse.urlunsplit((where.scheme, where.netloc, path, where.query, ""))
        call = urllib.request.Request(address, headers=self._headers())
        try:
            with self._opener.open(call, timeout=min(REACH_SECONDS, self.timeout_seconds)) as response:
                listed = json.loads(self._read(response))["data"]
                models = [str(model["id"]) for model in listed]
        except urllib.error.HTTPError as error:
            with error:
                said = self._shown(error.read(2000))
            if error.code in (401, 403):
                raise BuilderError(f"{address}: status {error.code}: {said}", code="bad_key") from None
            return
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise BuilderError(
                f"{self.url}: cannot be reached ({reason}); accepted: the address of a running server",
                code="no_server",
            ) from None
        except (_Passing, ValueError, KeyError, TypeError):
            return
        if models and self.model not in models:
            raise BuilderError(
                f"{self.url}: does not serve {self.model}; it serves: {', '.join(models[:10])}",
                code="unknown_model",
            )

    def completion(self, body: Mapping[str, Any]) -> Completion:
        """The model's answer to a request's body, which is given the model's name.

        Raises `AskingStopped` when the server, not the text, is at fault.
        """
        body = {"model": self.model, **body}
        for attempt in range(self.max_retries + 1):
            try:
                found = self._completion(self._posted(body))
                break
            except _Passing as failure:
                if attempt == self.max_retries:
                    if failure.is_ours:
                        raise AskingStopped(
                            f"{self.url}: {failure}, {attempt + 1} times; the same command goes on from here"
                        ) from None
                    found = Completion("", None, "no_answer")
                    self._count(found, str(failure))
                    return found
                time.sleep(self._wait_seconds(attempt, failure.wait))
            except _Refused as refusal:
                found = Completion("", None, "refused")
                self._count(found, str(refusal))
                return found
        self._count(found, "")
        return found

    def _posted(self, body: Mapping[str, Any]) -> bytes:
        """The body of the server's answer; raises for every status but 200."""
        data = json.dumps(body, ensure_ascii=False).encode()
        call = urllib.request.Request(self.url, data, self._headers(), method="POST")
        try:
            with self._opener.open(call, timeout=self.timeout_seconds) as response:
                return self._read(response)
        except urllib.error.HTTPError as error:
            with error:
                said = self._shown(error.read(2000))
            message = f"status {error.code}: {said}"
            if error.code in PASSING:
                wait = _retry_after(error.headers.get("Retry-After"))
                raise _Passing(message, wait, is_ours=error.code == 429) from None
            if error.code in ABOUT_THE_TEXT:
                raise _Refused(message) from None
            raise AskingStopped(f"{self.url}: {message}") from None
        except urllib.error.URLError as error:
            is_silent = isinstance(error.reason, TimeoutError)
            raise _Passing(f"no connection: {error.reason}", is_ours=not is_silent) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"the connection broke: {type(error).__name__}: {error}") from None

    def _read(self, response: Any) -> bytes:
        """The whole body; a server that trickles is cut off too."""
        deadline, pieces, size = time.monotonic() + self.timeout_seconds, [], 0
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if time.monotonic() > deadline:
                raise TimeoutError("the answer did not end in time")
            if size > LARGEST_ANSWER_BYTES:
                raise _Passing(f"an answer of more than {LARGEST_ANSWER_BYTES} bytes")
        wanted = response.headers.get("Content-Length")
        if wanted is not None and wanted.isdecimal() and size < int(wanted):
            raise _Passing(f"an answer of {size} bytes instead of {wanted}")
        return b"".join(pieces)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return {**headers, "Authorization": f"Bearer {self._key}"} if self._key else headers

    def _completion(self, body: bytes) -> Completion:
        try:
            choice = json.loads(body)["choices"][0]
            content = choice["message"]["content"] if self.is_chat else choice["text"]
            reason = choice.get("finish_reason")
            if content is not None:
                str(content).encode()
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Passing(f"no completion: {self._shown(body)}") from None
        if reason == "content_filter":
            raise _Refused("finish_reason content_filter")
        if content is not None and not isinstance(content, str):
            raise _Passing(f"content is not text: {self._shown(body)}")
        return Completion(content or "", reason if isinstance(reason, str) else None)

    def _count(self, found: Completion, message: str) -> None:
        """Stops when nothing but failures come back; says the first of them."""
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if found.fault else 0
            num_failed = self._failed_in_a_row
        if num_failed == 1:
            print(
                f"{self.name}: a text has no answer ({found.fault}): {message}", file=sys.stderr, flush=True
            )
        if num_failed >= FAILURES_IN_A_ROW:
            raise AskingStopped(f"{self.url}: {num_failed} texts in a row without an answer; {message}")

    def _wait_seconds(self, attempt: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, LONGEST_WAIT_SECONDS)
        return min(self.first_wait_seconds * 2**attempt, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)

    def _shown(self, body: bytes) -> str:
        """The beginning of what the server said, on one line and without the key."""
        text = " ".join(body.decode("utf-8", "replace").split())
        return (text.replace(self._key, "***") if self._key else text)[:300]


class _Refused(Exception):
    """The server will not answer this text."""


def completions_url(url: str, is_chat: bool = True) -> str:
    """The address of (chat) completions for a server's base URL, `/v1` or the whole address."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BuilderError(f"endpoint: saw {url!r}; accepted: http://host:port/v1", code="bad_endpoint")
    if parts.username or parts.password:
        raise BuilderError(
            "endpoint: the URL holds a user name or password; accepted: a key in an environment variable, "
            "named by --key-variable",
            code="bad_endpoint",
        )
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    whole = path != parts.path.rstrip("/")
    path += "" if whole or path.endswith("/v1") else "/v1"
    path += "/chat/completions" if is_chat else "/completions"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        # What was given is not shown: it may be the key itself.
        raise BuilderError(
            "key variable: no environment variable of the given name is set; accepted: the name of one that "
            "holds the key, such as OPENAI_API_KEY",
            code="no_key",
        )
    if not key.isascii() or not key.isprintable():
        raise BuilderError(f"{variable}: holds characters that no HTTP header can carry", code="bad_key")
    return key


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
