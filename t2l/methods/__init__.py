"""The methods that LoRA is compared with, behind one interface. `build` makes the method of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2l.methods.full import FullFineTuning, FullFineTuningConfig
from t2l.methods.hooked import BitFit, BitFitConfig, BottleneckAdapter, BottleneckAdapterConfig
from t2l.methods.interface import Attached, Method, MethodConfig, OptimizationConfig
from t2l.methods.low_rank import (
    AdaLora,
    AdaLoraConfig,
    Dora,
    DoraConfig,
    Lora,
    LoraMethodConfig,
    LoraPlus,
    LoraPlusConfig,
    LowRankConfig,
    QLora,
    QLoraConfig,
    RsLora,
    RsLoraConfig,
    Vera,
    VeraConfig,
)
from t2l.methods.scaling_and_prompts import (
    Ia3,
    Ia3Config,
    PrefixTuning,
    PrefixTuningConfig,
    PromptTuning,
    PromptTuningConfig,
)


@dataclass
class BatchedLoraConfig:
    """The library's own trainer: plain LoRA, many tasks in one pass, set by `lora.*` and `training.*`."""


METHODS: dict[type[MethodConfig], type[Method[Any]]] = {
    LoraMethodConfig: Lora,
    RsLoraConfig: RsLora,
    DoraConfig: Dora,
    LoraPlusConfig: LoraPlus,
    AdaLoraConfig: AdaLora,
    VeraConfig: Vera,
    QLoraConfig: QLora,
    Ia3Config: Ia3,
    PrefixTuningConfig: PrefixTuning,
    PromptTuningConfig: PromptTuning,
    BitFitConfig: BitFit,
    BottleneckAdapterConfig: BottleneckAdapter,
    FullFineTuningConfig: FullFineTuning,
}


def build(config: MethodConfig) -> Method[Any]:
    """The method of a config. Raises ValueError for a kind that there is not."""
    if type(config) not in METHODS:
        raise ValueError(f"method: there is none for the config {type(config).__name__}")
    return METHODS[type(config)](config)


def from_settings(name: str, settings: Mapping[str, Any]) -> Method[Any]:
    """The method that `Method.settings` described. Raises ValueError for a name or setting there is not."""
    for kind, method in METHODS.items():
        if method.name == name:
            try:
                return method(kind(**{**settings, "optimization": OptimizationConfig(**settings["optimization"])}))
            except (TypeError, KeyError) as error:
                raise ValueError(f"settings of method {name!r} that this version does not have: {error}") from error
    raise ValueError(f"unknown method {name!r}: choose from {', '.join(sorted(m.name for m in METHODS.values()))}")


__all__ = [
    "METHODS",
    "AdaLoraConfig",
    "Attached",
    "BatchedLoraConfig",
    "BitFitConfig",
    "BottleneckAdapterConfig",
    "DoraConfig",
    "FullFineTuningConfig",
    "Ia3Config",
    "LoraMethodConfig",
    "LoraPlusConfig",
    "LowRankConfig",
    "Method",
    "MethodConfig",
    "OptimizationConfig",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "QLoraConfig",
    "RsLoraConfig",
    "VeraConfig",
    "build",
    "from_settings",
]
