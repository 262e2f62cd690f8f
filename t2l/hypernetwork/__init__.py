"""Hypernetworks: description embedding to adapter, one file per architecture. `build` makes one from its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from t2l.hypernetwork.interface import Hypernetwork
from t2l.hypernetwork.residual import ResidualConfig
from t2l.hypernetwork.text_to_lora import TextToLoraConfig
from t2l.lora import AdapterKind, LoraSpec
from t2l.registry import component, component_of, components


def build(config: Any, spec: LoraSpec, d_embedding: int, seed: int) -> Hypernetwork:
    """A fresh hypernetwork; the same seed gives the same initial weights.

    Raises ValueError for another kind of config, or an architecture that does not emit the spec's kind of adapter.
    """
    check_emits(config, spec.kind)
    architecture, generator = component_of("hypernetwork", config).make, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Hypernetwork = architecture(config, spec, d_embedding, generator)
    return made


def check_emits(config: Any, kind: AdapterKind) -> None:
    """Raises ValueError unless an architecture emits adapters of a kind."""
    chosen = component_of("hypernetwork", config)
    if kind not in chosen.make.kinds:
        able = [name for name, c in components("hypernetwork").items() if kind in c.make.kinds]
        raise ValueError(
            f"hypernetwork={chosen.name} emits no adapters of lora.kind={kind}, whose modules have a single vector each: "
            f"choose from {', '.join(able)}"
        )


def config_to_json(config: Any) -> dict[str, Any]:
    """The config as a JSON-able dict, with the name of its architecture."""
    return {"architecture": component_of("hypernetwork", config).name, **asdict(config)}


def config_from_json(data: Mapping[str, Any]) -> Any:
    """The config that `config_to_json` described. Raises ValueError for an architecture that this version does not have."""
    kind: Any = component("hypernetwork", data["architecture"]).config
    has_name = "architecture" in (f.name for f in fields(kind))
    return kind(**{k: v for k, v in data.items() if has_name or k != "architecture"})


__all__ = [
    "Hypernetwork", "ResidualConfig", "TextToLoraConfig", "build", "check_emits", "config_from_json", "config_to_json",
]  # fmt: skip
