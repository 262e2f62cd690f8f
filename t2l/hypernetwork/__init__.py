"""Hypernetworks: description embedding to adapter, one file per architecture. `build` makes one from its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from t2l.hypernetwork.interface import Hypernetwork
from t2l.hypernetwork.residual import ResidualConfig
from t2l.hypernetwork.text_to_lora import TextToLoraConfig
from t2l.lora import LoraSpec
from t2l.registry import component, component_of


def build(config: Any, spec: LoraSpec, d_embedding: int, seed: int) -> Hypernetwork:
    """A fresh hypernetwork; the same seed gives the same initial weights. Raises ValueError for another kind of config."""
    architecture, generator = component_of("hypernetwork", config).make, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Hypernetwork = architecture(config, spec, d_embedding, generator)
    return made


def config_to_json(config: Any) -> dict[str, Any]:
    """The config as a JSON-able dict, with the name of its architecture."""
    return {"architecture": component_of("hypernetwork", config).name, **asdict(config)}


def config_from_json(data: Mapping[str, Any]) -> Any:
    """The config that `config_to_json` described. Raises ValueError for an architecture that this version does not have."""
    kind: Any = component("hypernetwork", data["architecture"]).config
    has_name = "architecture" in (f.name for f in fields(kind))
    return kind(**{k: v for k, v in data.items() if has_name or k != "architecture"})


__all__ = ["Hypernetwork", "ResidualConfig", "TextToLoraConfig", "build", "config_from_json", "config_to_json"]
