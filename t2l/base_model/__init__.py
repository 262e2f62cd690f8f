"""The frozen base model: any causal LM, its tokenizer, its target modules, and logits where there are labels."""

from __future__ import annotations

from t2l.base_model.forward import checkpointing, label_logits
from t2l.base_model.geometry import LoraConfig, lora_spec, lora_spec_from_config, meta_model
from t2l.base_model.loading import (
    BaseModel,
    BaseModelConfig,
    Quantization,
    freeze,
    hash_parameters,
    load_base_model,
    verify_frozen,
)

__all__ = [
    "BaseModel", "BaseModelConfig", "LoraConfig", "Quantization", "checkpointing", "freeze", "hash_parameters",
    "label_logits", "load_base_model", "lora_spec", "lora_spec_from_config", "meta_model", "verify_frozen",
]  # fmt: skip
