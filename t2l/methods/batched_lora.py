"""The library's own trainer among the methods: plain LoRA, many tasks in one pass (`library/training.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from t2l.methods.interface import Method
from t2l.registry import register


@dataclass
class BatchedLoraConfig:
    """The library's own trainer: plain LoRA, many tasks in one pass, set by `lora.*` and `training.*`."""


@register("method", "batched_lora", BatchedLoraConfig)
class BatchedLora(Method[Any]):
    """Stands for the library's own trainer; there is nothing to attach."""

    by_library = True
