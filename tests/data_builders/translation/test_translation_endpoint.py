"""The endpoint against a real server that fails in every way a server does."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from data_builders import BuilderError
from data_builders.asking.answers import Answer
from data_builders.asking.server import completions_url
from data_builders.translation.endpoint import Endpoint
from data_builders.translation.translators import Request, TranslationStopped, bare
from tests.data_builders.translation.conftest import Reply, Server, kana

SEA = Request("Name the sea.", "en", "ja")


def endpoint(server: Server, **options: object) -> Endpoint:
    return Endpoint(server.url, "kana", **{"first_wait_seconds": 0.01} | options)  # type: ignore[arg-type]


def test_a_request_names_model_languages_and_text_and_samples_nothing(server: Server) -> None:
    assert endpoint(server, parameters={"max_tokens": 99}).translate([SEA]) == [Answer(kana("Name the sea."))]
    [body] = server.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("kana", 0, 99)
    [message] = body["messages"]
    assert message["role"] == "user"
    assert "from English to Japanese" in message["content"]
    assert server.asked == ["Name the sea."]
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(server: Server, status: int) -> None:
    server.misbehave = lambda text, again, before: Reply(status) if before < 2 else None
    assert endpoint(server).translate([SEA]) == [Answer(kana(SEA.text))]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"content": "na',
        b"",
        b"<html>bad gateway</html>",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": [1]}}]}',
        b"\xff\xfe",
    ],
    ids=["truncated", "empty", "html", "no choice", "no text", "no UTF-8"],
)
def test_an_answer_that_is_no_chat_completion_is_tried_again_then_given_up(
    server: Server, body: bytes
) -> None:
    server.misbehave = lambda text, again, before: Reply(body=body)
    assert endpoint(server, max_retries=2).translate([SEA]) == [Answer("", "no_answer")]
    assert len(server.asked) == 3


def test_an_answer_that_breaks_off_is_tried_again(server: Server) -> None:
    """The server promises more bytes than it sends."""
    whole = Server.reply(server, "/v1/chat/completions", {}, _body(SEA)).body
    assert whole is not None
    short = {"Content-Length": str(len(whole) + 5)}
    server.misbehave = lambda text, again, before: Reply(body=whole, headers=short) if before < 2 else None
    assert endpoint(server).translate([SEA]) == [Answer(kana(SEA.text))]


def test_a_server_that_does_not_answer_in_time_is_asked_again(server: Server) -> None:
    server.seconds = 0.5
    assert endpoint(server, timeout_seconds=0.1, max_retries=1).translate([SEA]) == [Answer("", "no_answer")]
    assert len(server.asked) == 2


def test_the_server_says_how_long_to_wait(server: Server) -> None:
    """`Retry-After: 0` overrides a first wait of an hour."""
    server.misbehave = lambda text, again, before: (
        Reply(429, headers={"Retry-After": "0"}) if not before else None
    )
    assert endpoint(server, first_wait_seconds=3600).translate([SEA]) == [Answer(kana(SEA.text))]


def test_a_refused_text_is_not_asked_again(server: Server) -> None:
    server.misbehave = lambda text, again, before: Reply(400, b'{"error": "content filter"}')
    assert endpoint(server).translate([SEA]) == [Answer("", "refused")]
    server.misbehave = lambda text, again, before: Reply(content="x", finish_reason="content_filter")
    assert endpoint(server).translate([SEA]) == [Answer("", "refused")]
    assert len(server.asked) == 2


def test_an_answer_at_the_length_limit_is_cut_off(server: Server) -> None:
    server.misbehave = lambda text, again, before: Reply(content="なま", finish_reason="length")
    assert endpoint(server).translate([SEA]) == [Answer("なま", "cut_off")]


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_no_text_can_help_stops_at_once(server: Server, status: int) -> None:
    """A redirect too: it would carry the key elsewhere."""
    server.misbehave = lambda text, again, before: Reply(status, headers={"Location": server.url})
    with pytest.raises(TranslationStopped, match=f"status {status}"):
        endpoint(server).translate([SEA])
    assert len(server.asked) == 1


def test_a_quota_that_does_not_come_back_stops(server: Server) -> None:
    server.misbehave = lambda text, again, before: Reply(429, b"slow down")
    with pytest.raises(TranslationStopped, match="slow down, 3 times; the same command goes on"):
        endpoint(server, max_retries=2).translate([SEA])


def test_no_server_stops() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TranslationStopped, match="no connection"):
        Endpoint(url, "kana", max_retries=1, first_wait_seconds=0.01).translate([SEA])


def test_eight_texts_in_a_row_without_an_answer_are_the_servers_fault(server: Server) -> None:
    server.misbehave = lambda text, again, before: Reply(400) if text != "ok" else None
    asked = endpoint(server)
    for _ in range(7):
        assert asked.translate([SEA]) == [Answer("", "refused")]
    asked.translate([Request("ok", "en", "ja")])  # counts anew
    for _ in range(7):
        asked.translate([SEA])
    with pytest.raises(TranslationStopped, match="8 texts in a row"):
        asked.translate([SEA])


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIAL_KEY", "secret-4711")
    asked = endpoint(server, key_variable="TRIAL_KEY", max_retries=0)
    asked.translate([SEA])
    assert server.headers[0]["Authorization"] == "Bearer secret-4711"
    server.misbehave = lambda text, again, before: Reply(401, b"wrong key: secret-4711")
    with pytest.raises(TranslationStopped) as stopped:
        asked.translate([SEA])
    server.misbehave = lambda text, again, before: Reply(400, b"wrong key: secret-4711")
    asked.translate([SEA])
    said = str(stopped.value) + json.dumps(dict(asked.identity)) + asked.name + "".join(capfd.readouterr())
    assert "wrong key: ***" in said
    assert "4711" not in said


def test_a_key_that_is_not_set_is_refused_without_showing_what_was_given(server: Server) -> None:
    with pytest.raises(BuilderError, match=r"\[no_key\]") as refused:
        endpoint(server, key_variable="sk-typed-the-key-itself")
    assert "sk-typed" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1/", "http://h:8000/v1/chat/completions"),
        ("https://h/api/v1/chat/completions?v=2", "https://h/api/v1/chat/completions?v=2"),
    ],
)
def test_the_address_of_chat_completions(given: str, address: str) -> None:
    assert completions_url(given) == address


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/v1", "https://me:password@h/v1", "http://"])
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(BuilderError, match=r"\[bad_endpoint\]") as refused:
        completions_url(url)
    assert "password@" not in str(refused.value)


def test_an_answer_loses_its_thoughts_and_the_tags_of_the_instruction() -> None:
    assert bare("<think>\nsea: 海\n</think>\n\n<text>\n海\n</text>") == "海"
    assert bare("海") == "海"


def test_several_threads_ask_at_once(server: Server, tmp_path: Path) -> None:
    server.seconds = 0.2
    asked = endpoint(server)
    threads = [threading.Thread(target=asked.translate, args=([SEA],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most_in_flight == 4


def _body(request: Request) -> dict[str, object]:
    return {"messages": [{"content": f"\n<text>\n{request.text}\n</text>"}]}
