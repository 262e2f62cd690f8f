"""Encoder configs as a checkpoint keeps them, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from t2l.base_model import BaseModelConfig, Quantization
from t2l.checks import at_least, one_of
from t2l.encoder.interface import NOT_KEPT, Embedder, without_machine
from t2l.registry import component, register


@dataclass
class OwnEncoderConfig:
    """The encoder that a checkpoint was trained with, on this machine; for verbs that are given a checkpoint."""

    kind: str = "own"
    """fixed"""
    batch_size: int = 32
    """descriptions per forward pass"""
    device: str = "auto"
    """`auto` (cuda if there is one), cpu, cuda..."""
    cache: str = "~/.cache/t2l/embeddings"
    """folder of the embedding cache; empty for none"""
    trust_remote_code: bool = False
    """whether code that comes with the encoder may run"""

    def __post_init__(self) -> None:
        one_of(self, ["own"], "kind", under="encoder")
        at_least(self, 1, "batch_size", under="encoder")


@register("encoder", "own", OwnEncoderConfig)
class OwnEncoder(Embedder):
    """Stands for a checkpoint's own encoder, until its config is read from there; it embeds nothing itself."""

    @classmethod
    def check(cls, config: OwnEncoderConfig) -> None:
        """Raises ValueError: there is a checkpoint only when its config was read."""
        raise ValueError(
            "encoder: here is no checkpoint whose own encoder it could be; choose one, like encoder=minilm_layers"
        )

    @classmethod
    def width(cls, config: OwnEncoderConfig, base_config: Any) -> int:
        """Raises ValueError, likewise."""
        raise ValueError("encoder is null: choose one, like encoder=minilm_layers")


def config_from_json(data: Mapping[str, Any], here: OwnEncoderConfig | None = None) -> Any:
    """The config that a checkpoint kept, with what depends on this machine.

    Raises ValueError for a kind or key that this version does not have, and for an encoder that needs code of its own
    which `here` does not allow to run; that a checkpoint asks for it is not enough.
    """
    values = without_machine(data)
    kind: Any = component("encoder", values.pop("kind", "")).config
    model = values.get("model") or {}
    needs_code = values.get("trust_remote_code") or model.get("trust_remote_code")
    if needs_code and not (here is not None and here.trust_remote_code):
        raise ValueError(
            f"the checkpoint's encoder ({values.get('path') or model.get('path')}) runs Python code of its own: read it, "
            "then pass encoder.trust_remote_code=true"
        )
    machine = {k: v for k, v in asdict(here or OwnEncoderConfig()).items() if k in NOT_KEPT}
    try:
        if model:
            model["quantization"] = Quantization(model.get("quantization", "none"))
            values["model"] = BaseModelConfig(**_known(BaseModelConfig, machine), **model)
        return kind(**_known(kind, machine), **values)
    except TypeError as error:
        raise ValueError(f"the encoder's config has a key that this version does not have ({error})") from None


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}


def in_words(data: Mapping[str, Any]) -> str:
    """A kept config for an error, on one line; names of tasks are left out."""
    values = {k: v for k, v in without_machine(data).items() if k not in ("kind", "tasks")}
    return f"encoder={data['kind']}" + (f" with {json.dumps(values)}" if values else "")
