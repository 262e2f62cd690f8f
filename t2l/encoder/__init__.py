"""Encoders: descriptions to embeddings. A sentence encoder, a causal LM's last-token state, or the one-hot control."""

from __future__ import annotations

from t2l.encoder.last_token import BaseModelEncoderConfig, CausalLMEncoderConfig
from t2l.encoder.one_hot import OneHotConfig
from t2l.encoder.saved_config import OwnEncoderConfig, config_from_json
from t2l.encoder.sentence import EncoderConfig
from t2l.encoder.task_encoder import TaskEncoder, check, embedding_width, is_own, kind_of

__all__ = [
    "BaseModelEncoderConfig",
    "CausalLMEncoderConfig",
    "EncoderConfig",
    "OneHotConfig",
    "OwnEncoderConfig",
    "TaskEncoder",
    "check",
    "config_from_json",
    "embedding_width",
    "is_own",
    "kind_of",
]
