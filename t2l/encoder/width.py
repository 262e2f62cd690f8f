"""How wide an encoder's embeddings are, from configs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2l.base_model.files import model_config
from t2l.encoder.last_token import BaseModelEncoderConfig, CausalLMEncoderConfig
from t2l.encoder.one_hot import OneHotConfig
from t2l.encoder.pretrained import resolve
from t2l.encoder.saved_config import AnyEncoderConfig, OwnEncoderConfig
from t2l.encoder.sentence import EncoderConfig
from t2l.files import read_json


def embedding_width(config: AnyEncoderConfig | OwnEncoderConfig | None, base_config: Any) -> int:
    """Width of the embeddings of a config's encoder; nothing is loaded.

    Args:
        base_config: the Hugging Face config of the run's base model.

    Raises ValueError where it cannot be told from what is at hand.
    """
    if isinstance(config, BaseModelEncoderConfig):
        return int(base_config.get_text_config().hidden_size)
    if isinstance(config, CausalLMEncoderConfig):
        model = config.model
        own = model_config(model.path, model.trust_remote_code, model.revision)
        return int(own.get_text_config().hidden_size)
    if isinstance(config, OneHotConfig):
        if config.tasks is None:
            raise ValueError("encoder=one_hot is as wide as there are training tasks: give d_embedding=NUMBER")
        return len(config.tasks)
    if isinstance(config, EncoderConfig):
        return _sentence_width(config)
    if config is None or isinstance(config, OwnEncoderConfig):
        raise ValueError("encoder is null: choose one, like encoder=minilm_layers")
    raise ValueError(f"encoder: there is none for the config {type(config).__name__}")


def _sentence_width(config: EncoderConfig) -> int:
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
    projections = sorted(found, key=lambda p: int(p.parent.name.partition("_")[0]))  # modules by number: 2 before 10
    return int(read_json(projections[-1])["out_features"]) if projections else hidden
