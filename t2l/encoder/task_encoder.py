"""TaskEncoder: descriptions to embeddings, each text once, with an on-disk cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, BaseModelConfig
from t2l.encoder.cache import EmbeddingCache
from t2l.encoder.interface import Embedder
from t2l.encoder.saved_config import OwnEncoder, OwnEncoderConfig
from t2l.encoder.soundness import check_embeddings, made_by
from t2l.registry import Component, component_of
from t2l.tasks import Task

PROBE = "The ferry to the island leaves twice a day outside the summer months."
"""what a single description is compared with, to see that the encoder tells texts apart"""


def kind_of(config: Any) -> Component:
    """Which encoder a config is of; None means a checkpoint's own. Raises ValueError if there is none."""
    return component_of("encoder", OwnEncoderConfig() if config is None else config)


def is_own(config: Any) -> bool:
    """Whether a config asks for a checkpoint's own encoder."""
    return kind_of(config).make is OwnEncoder


def check(config: Any) -> None:
    """Raises ValueError if a config names no encoder, or one that is not there; loads nothing."""
    kind_of(config).make.check(config)


def embedding_width(config: Any, base_config: Any) -> int:
    """Width of the embeddings of a config's encoder; nothing is loaded.

    Args:
        base_config: the Hugging Face config of the run's base model.

    Raises ValueError if it cannot be told from what is at hand.
    """
    return int(kind_of(config).make.width(config, base_config))


def _device_of(config: Any, base: BaseModel | None) -> str:
    """Where a config's encoder computes: as it says itself, as its own model says, or where the run's base is."""
    said = getattr(config, "device", None) or getattr(getattr(config, "model", None), "device", None)
    return str(said or ("auto" if base is None else base.device))


class TaskEncoder:
    """Embeds descriptions with a frozen encoder.

    `identity` fingerprints everything that changes an embedding; checkpoints record it and refuse another
    encoder. A sentence encoder is loaded on the first description that the cache does not hold.
    """

    def __init__(
        self,
        config: Any,
        base: BaseModel | None = None,
        base_config: BaseModelConfig | None = None,
        tasks: Sequence[Task] = (),
    ) -> None:
        """Raises ValueError for an encoder that is not there.

        Args:
            base: the run's base model, which `encoder=base_model` reads.
            base_config: what it was, or would be, loaded by.
            tasks: the training tasks, which `encoder=one_hot` tells apart.
        """
        check(config)
        self._kind = kind_of(config)
        self._embedder: Embedder = self._kind.make(config, base=base, base_config=base_config, tasks=tasks)
        self.identity = self._embedder.identity
        folder = self._embedder.cache
        self._cache = EmbeddingCache(Path(folder), self.identity, made_by(_device_of(config, base))) if folder else None

    @property
    def reads_any_text(self) -> bool:
        """Whether every text has an embedding; false if only known tasks' texts do."""
        return self._embedder.reads_any_text

    def to_json(self) -> dict[str, Any]:
        """The config that makes this encoder again, without what depends on the machine."""
        return {"kind": self._kind.name, **self._embedder.record}

    def encode(self, descriptions: Sequence[str], progress: bool = False) -> Float[Tensor, "batch d_embedding"]:
        """Embeddings, float32 on the CPU, in the order given.

        Raises ValueError for an empty description or an empty list, for a text that the encoder does not know or
        cannot read, and for embeddings that cannot be right (`soundness.check_embeddings`), which are not kept.
        """
        if not descriptions:
            raise ValueError("no descriptions to encode")
        for i, text in enumerate(descriptions):
            if not text.strip():
                raise ValueError(f"description {i} is empty: write at least a word about the task")
        distinct = list(dict.fromkeys(descriptions))
        known = {t: v for t in distinct if self._cache and (v := self._cache.get(t)) is not None}
        new = [t for t in distinct if t not in known]
        if new:
            values = self._embedded(new, known, progress)
            if self._cache:
                self._cache.put(new, values)
            known.update(zip(new, values, strict=True))
        return torch.from_numpy(np.stack([known[t] for t in descriptions]))

    def _embedded(self, new: Sequence[str], known: Mapping[str, np.ndarray], progress: bool) -> np.ndarray:
        """Embeddings [new, d_embedding] of new texts, checked beside those of texts that are known."""
        values = np.asarray(self._embedder.embed(new, progress), dtype=np.float32)
        if len(new) == 1 and not known and self.reads_any_text and new[0] != PROBE:
            # One text alone does not show that an encoder embeds everything alike.
            probe = np.asarray(self._embedder.embed([PROBE], False), dtype=np.float32)
            check_embeddings(self._embedder, [*new, PROBE], np.concatenate([values, probe]))
        else:
            check_embeddings(self._embedder, [*new, *known], np.stack([*values, *known.values()]))
        return values

    def encode_groups(
        self, groups: Sequence[Sequence[str]], progress: bool = False
    ) -> list[Float[Tensor, "group d_embedding"]]:
        """Embeddings of groups of descriptions (those of one task, say), encoded together. Raises as `encode`."""
        flat = self.encode([text for group in groups for text in group], progress)
        return list(flat.split([len(group) for group in groups]))
