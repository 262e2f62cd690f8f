"""What turns texts into embeddings behind a TaskEncoder."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

NOT_KEPT = ("device", "cache", "batch_size", "shard")
"""what a machine decides"""


def without_machine(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values that a checkpoint keeps, those of its model included."""
    kept = {k: v for k, v in data.items() if k not in NOT_KEPT}
    return {**kept, "model": without_machine(kept["model"])} if kept.get("model") else kept


class Embedder(Protocol):
    """One kind of encoder; `TaskEncoder` checks texts, embeds each once and keeps the cache."""

    @property
    def identity(self) -> str:
        """Fingerprint of everything that changes an embedding, 64 hexadecimal digits."""
        ...

    @property
    def reads_any_text(self) -> bool:
        """Whether every text has an embedding, not only those of known tasks."""
        ...

    @property
    def cache(self) -> str:
        """Folder of the embedding cache; empty for none."""
        ...

    @property
    def record(self) -> dict[str, Any]:
        """The config that makes this encoder again, JSON-able and without what a machine decides."""
        ...

    @property
    def name(self) -> str:
        """What errors call the encoder."""
        ...

    def embed(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts d_embedding"]:
        """Embeddings of distinct texts, in their order. Raises ValueError for a text that has none."""
        ...

    def reads(self, text: str) -> Hashable:
        """What the encoder reads of a text (token ids): texts of which it reads the same get one embedding."""
        ...


def first_line(error: Exception) -> str:
    """An error of someone else's code as one line: its class and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
