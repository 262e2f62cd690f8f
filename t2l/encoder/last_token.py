"""Causal LMs as encoders, the run's own base model first of all: their hidden state at a description's last token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from t2l.base_model import BaseModel, BaseModelConfig, load_base_model
from t2l.base_model.files import model_config
from t2l.checks import at_least, one_of
from t2l.encoder.interface import Embedder, without_machine
from t2l.encoder.pretrained import changed, whole_path
from t2l.encoder.soundness import own_code_failed
from t2l.registry import register
from t2l.run.progress import Progress
from t2l.tasks import TokenizedExample, tokenize_prompts
from t2l.tasks.batches import batches_within, collate


@dataclass
class LastTokenConfig:
    """What is read of a causal LM, and of which text."""

    kind: str = ""
    """fixed"""
    layer: int = -1
    """hidden layer: 0 is the token embeddings, -1 the last, which is what the output embedding reads"""
    template: str = "raw"
    """raw: the text alone after the beginning-of-sequence token; chat: as a user turn, up to where the answer begins"""
    prompt: str = ""
    """text put before each description"""
    full_stop: bool = True
    """whether a description that ends in a letter gets a full stop, so that last tokens are alike (as in the reference
    implementation)"""
    max_length: int | None = None
    """longest text in tokens, template included; longer ones are refused. None means the model's positions"""
    batch_size: int = 32
    """descriptions per forward pass"""
    cache: str = "~/.cache/t2l/embeddings"
    """folder of the embedding cache; empty for none"""

    def __post_init__(self) -> None:
        one_of(self, [type(self).kind], "kind", under="encoder")
        one_of(self, ("raw", "chat"), "template", under="encoder")
        at_least(self, 1, "batch_size", "max_length", under="encoder")


@dataclass
class BaseModelEncoderConfig(LastTokenConfig):
    """The run's own base model, as it is loaded (Charakorn et al. 2025)."""

    kind: str = "base_model"


@dataclass
class CausalLMEncoderConfig(LastTokenConfig):
    """A causal LM of the encoder's own."""

    kind: str = "causal_lm"
    model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """which, and how it is loaded"""


class LastTokenEmbedder(Embedder):
    """Last-token states of a causal LM."""

    def __init__(
        self, config: Any, base: BaseModel | None = None, base_config: BaseModelConfig | None = None, **_: Any
    ) -> None:
        """Loads the model, unless it is the run's base model.

        Raises ValueError if there is no model, or not the layer or template asked for.
        """
        super().__init__(config)
        own: BaseModelConfig | None = None if self.needs_base else config.model
        if own is None and base is None and base_config is None:
            raise ValueError("encoder=base_model is the base model of a run, and here is none: use encoder=causal_lm")
        is_shared = base is not None and (own is None or _is_same(own, base_config))
        self._loaded_by = own or base_config or BaseModelConfig(path=base.name if base is not None else "")
        self._base = base if base is not None and is_shared else _load(self._loaded_by, is_own=own is not None)
        text_config = self._base.model.config.get_text_config()
        self._layer = _index(config.layer, text_config.num_hidden_layers)
        positions = getattr(text_config, "max_position_embeddings", None)
        self._longest = config.max_length if config.max_length is not None else positions
        if config.template == "chat" and getattr(self._base.tokenizer, "chat_template", None) is None:
            raise ValueError(f"encoder.template=chat: {self._base.name} has no chat template; use encoder.template=raw")

    @property
    def identity(self) -> str:
        """Of the weights and how they are stored, the layer, and what is put around a text."""
        model, config = self._base.model, self.config
        bits = [b for b in ("4bit", "8bit") if getattr(model, f"is_loaded_in_{b}", False)]
        settings = {
            "storage": [str(model.dtype), *bits],
            "layer": self._layer,
            "template": str(self._base.tokenizer.chat_template) if config.template == "chat" else "raw",
            "prompt": config.prompt,
            "full_stop": config.full_stop,
        }
        return changed(f"last_token:{self._base.fingerprint}", json.dumps(settings, sort_keys=True))

    @property
    def name(self) -> str:
        """The model, and which of its layers."""
        return f"the encoder (hidden layer {self._layer} of {self._base.name}, at the last token)"

    @property
    def record(self) -> dict[str, Any]:
        """As a causal LM of the encoder's own, a folder by its whole path."""
        model = asdict(replace(self._loaded_by, path=whole_path(self._loaded_by.path)))
        return without_machine({**asdict(self.config), "kind": "causal_lm", "model": model})

    def embed(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts d_hidden"]:
        """States of texts. Raises ValueError for a text that is longer than the model reads."""
        ids = self._tokenized(texts)
        found: dict[int, np.ndarray] = {}
        with Progress("describing tasks with the base model", len(ids), "description", shown=progress) as shown:
            for rows in batches_within([len(row) for row in ids], self.config.batch_size, None):
                try:
                    states = self._states([ids[i] for i in rows])
                except Exception as error:
                    if not self._loaded_by.trust_remote_code or isinstance(error, torch.OutOfMemoryError):
                        raise
                    raise ValueError(
                        own_code_failed(f"the encoder {self._loaded_by.path} does not run", error)
                    ) from error
                found.update(zip(rows, states, strict=True))
                shown.advance(len(rows))
        return np.stack([found[i] for i in range(len(ids))])

    def reads(self, text: str) -> tuple[int, ...]:
        """Token ids of a text with what is put around it."""
        return self._tokenized([text])[0]

    def _tokenized(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        stop = "." if self.config.full_stop else ""
        stripped = [text.strip() for text in texts]
        contents = [self.config.prompt + text + (stop if text[-1].isalpha() else "") for text in stripped]
        tokenizer = self._base.tokenizer
        if self.config.template == "chat":
            ids = tokenize_prompts(tokenizer, contents)
        else:
            begun = [f"{tokenizer.bos_token or ''}{content}" for content in contents]
            ids = [tuple(row) for row in tokenizer(begun, add_special_tokens=False)["input_ids"]]
        for text, row in zip(stripped, ids, strict=True):
            if self._longest is not None and len(row) > self._longest:
                raise ValueError(
                    f"the description {text[:60]!r}... is {len(row)} tokens long; the encoder reads at most "
                    f"{self._longest} (encoder.max_length, or the model's positions): shorten it"
                )
        return ids

    @torch.no_grad()
    def _states(self, ids: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "rows d_hidden"]:
        """Padded on the right, where a causal model's earlier states cannot see it."""
        base = self._base
        batch = collate([TokenizedExample(row, ()) for row in ids], base.tokenizer.pad_token_id, base.device)
        padded, mask = batch.input_ids, batch.attention_mask

        def first_position(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0][:, :1], *args[1:])  # logits are not wanted, and would be the largest tensor

        handle = base.model.get_output_embeddings().register_forward_pre_hook(first_position)
        try:
            out = base.model(input_ids=padded, attention_mask=mask, output_hidden_states=True, use_cache=False)
        finally:
            handle.remove()
        rows = torch.arange(len(ids), device=base.device)
        return out.hidden_states[self._layer][rows, mask.sum(dim=1) - 1].float().cpu().numpy()


@register("encoder", "base_model", BaseModelEncoderConfig)
class BaseModelEmbedder(LastTokenEmbedder):
    """Last-token states of the run's own base model."""

    needs_base = True

    @classmethod
    def width(cls, config: BaseModelEncoderConfig, base_config: Any) -> int:
        """That of the base's hidden states."""
        return int(base_config.get_text_config().hidden_size)


@register("encoder", "causal_lm", CausalLMEncoderConfig)
class CausalLMEmbedder(LastTokenEmbedder):
    """Last-token states of a causal LM of the encoder's own."""

    @classmethod
    def width(cls, config: CausalLMEncoderConfig, base_config: Any) -> int:
        """That of the model's hidden states."""
        model = config.model
        own = model_config(model.path, model.trust_remote_code, model.revision)
        return int(own.get_text_config().hidden_size)


def _load(config: BaseModelConfig, is_own: bool) -> BaseModel:
    try:
        return load_base_model(config)
    except ValueError as error:
        raise ValueError(str(error).replace("base_model.", "encoder.model.") if is_own else str(error)) from error
    except Exception as error:
        if not config.trust_remote_code or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(own_code_failed(f"the encoder {config.path} does not run", error)) from error


def _is_same(one: BaseModelConfig, other: BaseModelConfig | None) -> bool:
    return other is not None and without_machine(asdict(one)) == without_machine(asdict(other))


def _index(layer: int, layers: int) -> int:
    """A hidden layer counted from 0, the token embeddings."""
    if not -layers - 1 <= layer <= layers:
        raise ValueError(f"encoder.layer={layer}: the model has hidden layers 0 (the token embeddings) to {layers}")
    return layer % (layers + 1)
