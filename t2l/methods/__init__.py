"""The methods that LoRA is compared with, behind one interface. `build` makes the method of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2l.methods.interface import Attached, Method, MethodConfig, OptimizationConfig
from t2l.registry import component, component_of


def is_batched(config: Any) -> bool:
    """Whether the library's own trainer is chosen, as it is by None. Raises ValueError for a method that there is not."""
    return config is None or component_of("method", config).make.by_library


def build(config: Any) -> Method[Any]:
    """The method of a config. Raises ValueError for a kind that there is not, and for the library's own trainer."""
    if is_batched(config):
        raise ValueError("method=batched_lora is the library's own trainer: choose another method to attach to a base")
    made: Method[Any] = component_of("method", config).make(config)
    return made


def from_settings(name: str, settings: Mapping[str, Any]) -> Method[Any]:
    """The method that `Method.settings` described. Raises ValueError for a name or setting there is not."""
    kind: Any = component("method", name).config
    try:
        return build(kind(**{**settings, "optimization": OptimizationConfig(**settings["optimization"])}))
    except (TypeError, KeyError) as error:
        raise ValueError(f"settings of method {name!r} that this version does not have: {error}") from error


__all__ = ["Attached", "Method", "MethodConfig", "OptimizationConfig", "build", "from_settings", "is_batched"]
