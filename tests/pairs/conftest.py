"""A tiny chat model, prompts for it, and a real HTTP server that answers and judges like an OpenAI-compatible
one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data_builders import build
from tuning.chat import load_template
from tuning.model.tiny import train_tokenizer

WORDS = ["sea", "river", "town", "rice", "paper", "lamp", "bell", "song", "海", "川", "町", "米"]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that ends about one token in twenty: some answers stop, some are cut off."""
    folder = tmp_path_factory.mktemp("pairs-model")
    tokenizer = train_tokenizer(
        [" ".join(WORDS), "\n\n### 指示:\n\n\n### 応答:\n", *WORDS] * 5, vocab_size=340
    )
    load_template("llm-jp-v3").install(tokenizer)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, **size, **special)
    )
    with torch.no_grad():
        # One channel is the same in every state, sqrt(32) after the norm: bytes and control tokens get a
        # logit of -5.7 from it, the end token 0.8 above the some forty words.
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[:260, 0] = -1.0
        model.lm_head.weight[2, 0] = 0.14
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts_file(folder: Path, count: int = 6) -> Path:
    """A JSONL of so many different questions."""
    rows = [{"prompt": f"Tell me of the {WORDS[at % 12]} {at}."} for at in range(count)]
    path = folder / "asked.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def built_rows(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    """A built dataset of these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    build("files", raw, folder / "built", **{"licence": "CC-BY-4.0", "source": "talks"} | options)
    return folder / "built"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


Reply = tuple[str, str]
"""Text and finish reason."""


class Model:
    """An HTTP server on a free port: `reply` is a pure function of a request's body; `bodies` lists them all.

    It answers `/v1/models`, `/v1/chat/completions` and `/v1/completions`.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], Reply | int]) -> None:
        self.reply, self.bodies, self.paths = reply, list[dict[str, Any]](), list[str]()
        self.keys: list[str | None] = []
        self.seconds, self.served = 0.0, ["mine", "judge"]
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(200, {"data": [{"id": name} for name in owner.served]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.bodies.append(body)
                    owner.paths.append(self.path)
                    owner.keys.append(self.headers.get("Authorization"))
                if owner.seconds:
                    threading.Event().wait(owner.seconds)
                reply = owner.reply(body)
                if isinstance(reply, int):
                    self.send(reply, {"error": "no"})
                    return
                said = {"message": {"content": reply[0]}} if "messages" in body else {"text": reply[0]}
                self.send(200, {"choices": [said | {"finish_reason": reply[1]}]})

            def send(self, status: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def numbered(body: dict[str, Any]) -> Reply:
    """An answer that is as long as the last digit of its seed says; seeds that end in 9 are cut off."""
    digit = body["seed"] % 10
    return "word " * (digit + 1), "length" if digit == 9 else "stop"


def judged(body: dict[str, Any]) -> Reply:
    """A judge who counts words: one point each, at most 10."""
    answer = body["messages"][0]["content"].partition("<answer>\n")[2].partition("\n</answer>")[0]
    return json.dumps({"reason": "counted", "score": min(10, len(answer.split()))}), "stop"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[dict[str, Any]], Reply | int]], Model]]:
    """Starts servers that are closed when the test ends."""
    models: list[Model] = []

    def start(reply: Callable[[dict[str, Any]], Reply | int]) -> Model:
        models.append(Model(reply))
        return models[-1]

    yield start
    for model in models:
        model.close()
