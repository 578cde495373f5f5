"""A real HTTP server that answers like an OpenAI-compatible one and writes every consonant as a kana."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_builders import build

CONSONANTS = "bcdfghjklmnpqrstvwxyz"
KANA = "ばかだふがはじかるまなぱくらさたぶわやよざ"
CIPHER = str.maketrans(
    dict(zip(CONSONANTS + CONSONANTS.upper(), KANA * 2, strict=True)) | dict.fromkeys("aeiouAEIOU")
)


def kana(text: str) -> str:
    """The server's translation: `Name the sea.` -> `なま たは さ.`; tokens and markers stay."""
    return text.translate(CIPHER)


@dataclass
class Reply:
    """What the server sends instead of a translation."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: str | None = None
    finish_reason: str = "stop"


Misbehaviour = Callable[[str, bool, int], Reply | None]
"""(text, whether it is asked again more strictly, how often it was asked before) -> what to send, or None."""


class Server:
    """Answers on a free port of this machine; `asked` lists every text of a request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.misbehave: Misbehaviour = lambda text, again, before: None
        self.in_flight = self.most_in_flight = 0
        self.seconds = 0.0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = owner.reply(self.path, dict(self.headers), body)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed
                    self.end_headers()
                    self.wfile.write(reply.body or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def reply(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        prompt = body["messages"][0]["content"]
        text = re.search(r"\n<text>\n(.*)\n</text>\Z", prompt, re.DOTALL)[1]  # type: ignore[index]
        again = "completely and literally" in prompt
        with self.lock:
            before = self.asked.count(text)
            self.asked.append(text)
            self.headers.append(headers)
            self.bodies.append(body)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.seconds:
            threading.Event().wait(self.seconds)
        with self.lock:
            self.in_flight -= 1
        assert path == "/v1/chat/completions"
        reply = self.misbehave(text, again, before) or Reply(content=kana(text))
        if reply.body is None and reply.content is not None:
            choice = {"message": {"role": "assistant", "content": reply.content}}
            reply.body = json.dumps({"choices": [choice | {"finish_reason": reply.finish_reason}]}).encode()
        reply.headers.setdefault("Content-Length", str(len(reply.body or b"")))
        return reply

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def dialogue(*texts: str, **more: Any) -> dict[str, Any]:
    """A conversation whose texts are the user's and the assistant's by turns."""
    return {"messages": [say(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)], **more}


def built(folder: Path, rows: list[dict[str, Any]], language: str | None = "en", **options: Any) -> Path:
    """A built dataset of these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {"licence": "CC-BY-4.0", "source": "talks"} | options
    build("files", raw, folder / "built", language=language, **options)
    return folder / "built"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]


def command(built_folder: Path, output: Path, server: Server, *more: str) -> list[str]:
    """The command line of a translation through the server."""
    return [
        *(sys.executable, "-m", "tuning", "data", "translate", str(built_folder), "--to", "ja"),
        *("--output", str(output), "--endpoint", server.url, "--endpoint-model", "kana", *more),
    ]
