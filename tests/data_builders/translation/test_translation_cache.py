"""Answers survive what happens to processes: killed at any moment, or several at once."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_builders.asking.answers import Answer
from data_builders.asking.cache import Cache
from data_builders.translation.translators import Request
from tests.data_builders.translation.conftest import Server, built, command, dialogue

ROOT = Path(__file__).parents[3]
NUM_KILLS, CONCURRENCY = 20, 2


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def started(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def wait_until_asked(server: Server, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(server.asked) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """90 dialogues; every seventh fails its first check, so that it has a second request."""
    rows = [dialogue(f"Name sea number {number}.", "The `Baltic` it is.") for number in range(90)]
    return built(tmp_path, rows)


@pytest.fixture
def faulty(server: Server) -> Server:
    from tests.data_builders.translation.conftest import Reply, kana

    server.misbehave = lambda text, again, before: (
        Reply(content=kana(text).replace("[[1]]", "")) if "7." in text and not again else None
    )
    server.seconds = 0.02
    return server


def test_killed_at_twenty_moments_it_ends_with_the_same_bytes_and_asks_only_again_what_was_in_flight(
    faulty: Server, talks: Path, tmp_path: Path
) -> None:
    whole = started(command(talks, tmp_path / "whole", faulty, "--cache", str(tmp_path / "w.sqlite3")))
    assert whole.wait() == 0
    asked_once = Counter(faulty.asked)
    assert len(asked_once) == 90 + 1  # the texts that failed are all one text, by itself
    assert set(asked_once.values()) == {1}
    faulty.asked.clear()

    chance = random.Random(4)
    arguments = command(talks, tmp_path / "out", faulty, "--concurrency", str(CONCURRENCY))
    parts: list[list[str]] = []
    for _ in range(NUM_KILLS):
        before = len(faulty.asked)
        process = started(arguments)
        wait_until_asked(faulty, before + chance.randint(1, 6), process)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(2 * faulty.seconds)  # what the dead process had asked is asked by now
        parts.append(faulty.asked[before:])
        assert not (tmp_path / "out").exists()
    before = len(faulty.asked)
    last = started(arguments)
    assert last.wait() == 0, last.stderr
    parts.append(faulty.asked[before:])

    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert set(faulty.asked) == set(asked_once)
    assert sum(len(part) > 0 for part in parts) == NUM_KILLS + 1
    for at, part in enumerate(parts):
        later = {text for other in parts[at + 1 :] for text in other}
        assert len(set(part) & later) <= CONCURRENCY
        assert len(part) == len(set(part))
    assert not list(tmp_path.glob(".building-*"))


def test_two_processes_at_once_share_the_work_and_ask_nothing_twice(
    faulty: Server, talks: Path, tmp_path: Path
) -> None:
    cache = ["--cache", str(tmp_path / "shared.sqlite3"), "--concurrency", str(CONCURRENCY)]
    first = started(command(talks, tmp_path / "a", faulty, *cache))
    wait_until_asked(faulty, 1, first)
    second = started(command(talks, tmp_path / "b", faulty, *cache))
    said = [process.communicate()[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert set(Counter(faulty.asked).values()) == {1}
    shares = [int(re.findall(r"asked=(\d+)", text)[-1]) for text in said]
    assert sum(shares) == len(faulty.asked) == 91
    assert min(shares) > 0


def test_what_a_killed_process_was_asking_is_taken_over_by_one_that_waits_for_it(
    server: Server, tmp_path: Path
) -> None:
    folder = built(tmp_path, [dialogue("Name the sea.", "42")])
    cache = ["--cache", str(tmp_path / "shared.sqlite3")]
    server.seconds = 30
    first = started(command(folder, tmp_path / "a", server, *cache))
    wait_until_asked(server, 1, first)
    second = started(command(folder, tmp_path / "b", server, *cache))
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(4)
    assert len(server.asked) == 1
    server.seconds = 0
    first.kill()
    first.wait()
    assert second.wait(30) == 0
    assert len(server.asked) == 2
    assert sorted(files_of(tmp_path / "b")) == ["data.jsonl", "manifest.json"]


# ---- the file itself


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "c.sqlite3", {"model": "a"})
    yield cache
    cache.close()


SEA = Request("Name the sea.", "en", "ja")


def test_the_key_is_the_text_the_languages_the_way_and_the_translator(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other.sqlite3", {"model": "b"})
    same = Cache(tmp_path / "same.sqlite3", {"model": "a"})
    keys = {
        cache.key(SEA),
        cache.key(Request("Name the sea", "en", "ja")),
        cache.key(Request("Name the sea.", "de", "ja")),
        cache.key(Request("Name the sea.", "en", "ko")),
        cache.key(Request("Name the sea.", "en", "ja", again=True)),
        other.key(SEA),
    }
    assert len(keys) == 6
    assert same.key(SEA) == cache.key(SEA)
    other.close()
    same.close()


def test_a_claim_is_one_owners_until_it_is_answered_or_given_back(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "c.sqlite3", {"model": "a"})
    assert (cache.is_alone, other.is_alone) == (True, False)
    key = cache.key(SEA)
    assert cache.claim(key)
    assert not other.claim(key)
    assert other.is_claimed(key)
    cache.release([key])
    assert other.claim(key)
    other.store({key: Answer("海")})
    assert cache.answers([key]) == {key: Answer("海")}
    assert not cache.claim(key)
    other.close()


def test_only_final_answers_are_kept(cache: Cache) -> None:
    answers = {name: Answer("", name) for name in ("cut_off", "refused", "no_answer")}
    assert all(cache.claim(key) for key in answers)
    cache.store(answers)
    assert list(cache.answers(list(answers))) == ["cut_off"]
    assert cache.claim("refused")


def test_more_keys_than_one_statement_takes(cache: Cache) -> None:
    answers = {f"key{number}": Answer(str(number)) for number in range(1201)}
    cache.store(answers)
    assert cache.answers(list(answers)) == answers


def test_a_closed_cache_leaves_one_file_and_an_empty_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite3", {})
    cache.claim("key")
    cache.close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".c.sqlite3.owners", "c.sqlite3"]


def test_importing_the_translation_imports_no_torch() -> None:
    code = "import sys, data_builders.translate; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
