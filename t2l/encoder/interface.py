"""What turns texts into embeddings behind a TaskEncoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from t2l.registry import component_of

NOT_KEPT = ("device", "cache", "batch_size", "shard")
"""settings that depend on the machine, and change no embedding"""


def without_machine(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values that a checkpoint keeps, those of its model included."""
    kept = {k: v for k, v in data.items() if k not in NOT_KEPT}
    return {**kept, "model": without_machine(kept["model"])} if kept.get("model") else kept


class Embedder(ABC):
    """One kind of encoder; `TaskEncoder` checks texts, embeds each once and keeps the cache."""

    reads_any_text: ClassVar[bool] = True
    """whether every text has an embedding, not only those of known tasks"""
    can_be_whitened: ClassVar[bool] = True
    """whether descriptions of one task differ in their embeddings"""
    needs_base: ClassVar[bool] = False
    """whether it is the run's base model, which one process then needs as a whole"""

    def __init__(self, config: Any, **_: Any) -> None:
        """Keeps the config. Raises ValueError if the encoder cannot be had.

        `TaskEncoder` also passes what it was given itself, by keyword: `base`, `base_config` and `tasks`. A subclass
        names those it needs.
        """
        self.config = config

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises ValueError if what a config names is not there; loads nothing."""
        return None

    @classmethod
    @abstractmethod
    def width(cls, config: Any, base_config: Any) -> int:
        """Width of a config's embeddings; loads nothing.

        Args:
            base_config: the Hugging Face config of the run's base model.

        Raises ValueError if it cannot be told from what is at hand.
        """

    @property
    @abstractmethod
    def identity(self) -> str:
        """Fingerprint of everything that changes an embedding, 64 hexadecimal digits."""

    @property
    def cache(self) -> str:
        """Folder of the embedding cache; empty for none."""
        return getattr(self.config, "cache", "")

    @property
    def record(self) -> dict[str, Any]:
        """The config that makes this encoder again, JSON-able and without what depends on the machine."""
        return without_machine(asdict(self.config))

    @property
    def name(self) -> str:
        """What errors call the encoder."""
        return f"encoder={component_of('encoder', self.config).name}"

    @abstractmethod
    def embed(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts d_embedding"]:
        """Embeddings of distinct texts, in their order. Raises ValueError for a text that has none."""

    def reads(self, text: str) -> Hashable:
        """What the encoder reads of a text (token ids): texts of which it reads the same get one embedding."""
        return text


def first_line(error: Exception) -> str:
    """An error of someone else's code as one line: its class and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
