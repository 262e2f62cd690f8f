"""Embeddings on disk, by the content of their text.

A cache makes a run faster and never ends one: a damaged file is set aside, and if nothing can be read or written, texts
are embedded anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)
FORMAT = 2
"""raised when what is kept under a key changes its meaning; 1 held long texts that had been cut"""
CHECKSUM = 8
"""bytes of sha256 that come before each value"""


class EmbeddingCache:
    """Embeddings by sha256 of their text; one SQLite file per encoder identity and way of computing (`soundness.made_by`)."""

    def __init__(self, folder: Path, identity: str, made_by: Mapping[str, str]) -> None:
        """Opens the file, or makes it.

        Args:
            folder: may begin with `~`.
            made_by: versions of the libraries that compute embeddings, and what else changes them without changing the
                encoder.
        """
        key = json.dumps([FORMAT, identity, dict(sorted(made_by.items()))])
        self._path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.sqlite"
        self._database: sqlite3.Connection | None = None
        with self._forgiving():
            self._path = self._path.expanduser()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open()

    def get(self, text: str) -> np.ndarray | None:
        """The embedding of a text, float32 [d_embedding]; None if it is not there, or not as it was written."""
        row = None
        with self._forgiving():
            if self._database is not None:
                query = "SELECT value FROM embedding WHERE key = ?"
                row = self._database.execute(query, (_key(text),)).fetchone()
        return _unpacked(row[0]) if row else None

    def put(self, texts: Sequence[str], values: np.ndarray) -> None:
        """Keeps the embeddings [texts, d_embedding] of texts."""
        rows = [(_key(t), _packed(v)) for t, v in zip(texts, values, strict=True)]
        with self._forgiving():
            if self._database is not None:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS embedding (key BLOB PRIMARY KEY, value BLOB)")
        except sqlite3.Error:
            database.close()
            raise
        return database

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, sqlite3.OperationalError) as error:  # no home, read-only, full, locked
            self._give_up(error)
        except sqlite3.DatabaseError as error:  # no database, or a damaged one
            self._set_aside(error)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _give_up(self, error: Exception) -> None:
        self._close()
        log.warning(
            "the embedding cache %s cannot be used (%s): going on without it; encoder.cache=DIR puts it elsewhere",
            self._path, error,
        )  # fmt: skip

    def _set_aside(self, error: Exception) -> None:
        """Renames a damaged file, and begins a new one."""
        self._close()
        damaged = self._path.with_suffix(".damaged")
        try:
            for ending in ("", "-journal", "-wal", "-shm"):  # a journal would be played into the new file
                part = self._path.with_name(self._path.name + ending)
                if part.exists():
                    part.replace(damaged.with_name(damaged.name + ending))
            self._database = self._open()
        except (OSError, sqlite3.Error) as second:
            self._give_up(second)
            return
        log.warning(
            "the embedding cache %s was damaged (%s): begun anew; the old file is %s", self._path, error, damaged
        )


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _packed(value: np.ndarray) -> bytes:
    content = value.astype(np.float32).tobytes()
    return hashlib.sha256(content).digest()[:CHECKSUM] + content


def _unpacked(blob: object) -> np.ndarray | None:
    """The embedding in a blob; None if it is not as it was written, or holds numbers that are not finite."""
    if not isinstance(blob, bytes) or hashlib.sha256(blob[CHECKSUM:]).digest()[:CHECKSUM] != blob[:CHECKSUM]:
        return None
    value = np.frombuffer(blob[CHECKSUM:], dtype=np.float32)
    return value if value.size and bool(np.isfinite(value).all()) else None
