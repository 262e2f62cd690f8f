"""Embeddings on disk, by the content of their text."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class EmbeddingCache:
    """Embeddings by sha256 of their text, one SQLite file per encoder identity."""

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(folder / f"{identity[:32]}.sqlite", timeout=60)
        self._database.execute("CREATE TABLE IF NOT EXISTS embedding (key BLOB PRIMARY KEY, value BLOB)")

    @staticmethod
    def _key(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    def get(self, text: str) -> np.ndarray | None:
        """The embedding of a text, float32 [d_embedding]; None where it is not there."""
        row = self._database.execute("SELECT value FROM embedding WHERE key = ?", (self._key(text),)).fetchone()
        return np.frombuffer(row[0], dtype=np.float32) if row else None

    def put(self, texts: Sequence[str], values: np.ndarray) -> None:
        """Keeps the embeddings [texts, d_embedding] of texts."""
        rows = [(self._key(t), v.astype(np.float32).tobytes()) for t, v in zip(texts, values, strict=True)]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?)", rows)
