"""Answers kept by content in one SQLite file, so that a text is asked for once, whatever happens to the run.

The key is the hash of the request and of the identity of the model that is asked. An answer is committed as
soon as it is there: a process killed at any moment loses only what was in flight. Several processes on one
machine may share the file: each claims a request before it asks, and a claim lasts as long as its owner holds
a lock that the system releases when the owner dies.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from data_builders.asking.answers import Answer
from data_builders.lines import BuilderError
from tuning.records import fingerprint

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, fault TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
"""
BUSY_SECONDS = 60
VARIABLES = 500  # SQLite takes so many in one statement, on every build


class Cache:
    """The answers in `path` of the model with this identity. One thread uses it."""

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), fingerprint(dict(identity))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._owners = self.path.with_name(f".{self.path.name}.owners")
        self._owners.mkdir(exist_ok=True)
        self.is_alone = not any(self._is_alive(file.name) for file in self._owners.iterdir())
        """Whether no other process used the file when this one opened it."""
        self.owner, self._lock = self._locked_file()
        try:
            self._database = self._opened()
        except sqlite3.Error as error:
            os.close(self._lock)
            (self._owners / self.owner).unlink(missing_ok=True)
            raise BuilderError(
                f"{self.path}: cannot be used as a cache of answers: {error}; "
                "accepted: a file that this command wrote on a local disk, or a name for a new one",
                code="bad_cache",
            ) from None

    def key(self, request: Any) -> str:
        """The content address of the answer to a request, which is a dataclass of plain values."""
        return fingerprint([VERSION, self.identity, *astuple(request)])

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Those of the keys that are answered."""
        found = {}
        for at in range(0, len(keys), VARIABLES):
            part = keys[at : at + VARIABLES]
            marks = ",".join("?" * len(part))
            rows = self._database.execute(
                f"SELECT key, text, fault FROM answers WHERE key IN ({marks})", part
            )
            found.update({key: Answer(text, fault) for key, text, fault in rows})
        return found

    def claim(self, key: str) -> bool:
        """Takes a request for this process; False if it is answered or another living process has it."""
        done = self._database.execute(
            "INSERT INTO claims SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM answers WHERE key = ?) "
            "ON CONFLICT DO NOTHING",
            (key, self.owner, key),
        )
        return done.rowcount == 1

    def store(self, answers: Mapping[str, Answer]) -> None:
        """Keeps the answers that are final and gives the claims back, at once or not at all."""
        final = [(key, answer.text, answer.fault) for key, answer in answers.items() if answer.is_final]
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", final)
        self._database.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in answers])
        self._database.execute("COMMIT")

    def release(self, keys: Iterable[str]) -> None:
        """Gives claims back without an answer."""
        self._database.executemany(
            "DELETE FROM claims WHERE key = ? AND owner = ?", [(key, self.owner) for key in keys]
        )

    def is_claimed(self, key: str) -> bool:
        """Whether a living process has claimed the key; a dead one's claims are given back."""
        row = self._database.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        if row is None:
            return False
        if row[0] == self.owner or self._is_alive(row[0]):
            return True
        self._database.execute("DELETE FROM claims WHERE owner = ?", (row[0],))
        return False

    def close(self) -> None:
        """Gives back what this process still claims."""
        self._database.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
        self._database.close()
        (self._owners / self.owner).unlink(missing_ok=True)
        os.close(self._lock)

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                # Two processes that start together may both try this; SQLite does not make one wait here.
                database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        # A killed process loses nothing; a power cut may lose the last answers, but not the file.
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(SCHEMA)
        return database

    def _locked_file(self) -> tuple[str, int]:
        while True:
            owner = uuid.uuid4().hex
            handle = os.open(self._owners / owner, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if (self._owners / owner).exists():  # else another process has just cleared it away as dead
                return owner, handle
            os.close(handle)

    def _is_alive(self, owner: str) -> bool:
        """Whether a process holds this lock; the file of a dead one is cleared away."""
        try:
            handle = os.open(self._owners / owner, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            (self._owners / owner).unlink(missing_ok=True)
            return False
        finally:
            os.close(handle)
