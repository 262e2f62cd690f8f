"""Hypernetworks: description embedding to adapter. `build` makes one from its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from t2l.hypernetwork.interface import Hypernetwork
from t2l.hypernetwork.residual import ResidualHypernetwork
from t2l.hypernetwork.text_to_lora import TextToLoraL, TextToLoraM, TextToLoraS
from t2l.lora import LoraSpec

PAPER_ARCHITECTURES: dict[str, Callable[..., Hypernetwork]] = {"l": TextToLoraL, "m": TextToLoraM, "s": TextToLoraS}


@dataclass
class TextToLoraConfig:
    """Architecture L, M or S of the paper."""

    architecture: str = "l"
    """l: A and B together; m: A or B; s: one rank of A or B at a time"""
    latent: int = 128
    """width of the trunk's residual stream"""
    dropout: float = 0.05
    """dropout probability inside the trunk"""

    def __post_init__(self) -> None:
        if self.architecture not in PAPER_ARCHITECTURES:
            raise ValueError(f"hypernetwork.architecture must be one of l, m, s here, not {self.architecture!r}")
        if self.latent < 4 or self.latent % 4:
            raise ValueError(f"hypernetwork.latent must be a positive multiple of 4, not {self.latent}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"hypernetwork.dropout must be in [0, 1), not {self.dropout}")


@dataclass
class ResidualConfig:
    """The plainer residual hypernetwork."""

    architecture: str = "residual"
    """fixed"""
    width: int = 256
    """width of the residual stream: projected description and slot embedding side by side"""
    description_width: int = 128
    """width of the projected description"""
    blocks: int = 2
    """residual MLP blocks"""
    expansion: int = 2
    """hidden width of a block, as a multiple of width"""

    def __post_init__(self) -> None:
        if self.architecture != "residual":
            raise ValueError(f"hypernetwork.architecture must be 'residual' here, not {self.architecture!r}")
        if not 0 < self.description_width < self.width:
            raise ValueError(
                f"hypernetwork.description_width must be in 1 to width - 1 = {self.width - 1}, not {self.description_width}"
            )
        if self.blocks < 0 or self.expansion < 1:
            raise ValueError("hypernetwork: blocks must be 0 or more, expansion at least 1")


HypernetworkConfig = TextToLoraConfig | ResidualConfig


def build(config: HypernetworkConfig, spec: LoraSpec, d_embedding: int, seed: int) -> Hypernetwork:
    """A fresh hypernetwork; the same seed gives the same initial weights. Raises ValueError for another kind of config."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if type(config) is ResidualConfig:
            return ResidualHypernetwork(
                spec, d_embedding, generator, config.width, config.description_width, config.blocks, config.expansion
            )
        if type(config) is not TextToLoraConfig:
            raise ValueError(f"hypernetwork: there is none for the config {type(config).__name__}")
        architecture = PAPER_ARCHITECTURES[config.architecture]
        return architecture(spec, d_embedding, generator, config.latent, config.dropout)


def config_to_json(config: HypernetworkConfig) -> dict[str, Any]:
    """The config as a JSON-able dict."""
    return asdict(config)


def config_from_json(data: Mapping[str, Any]) -> HypernetworkConfig:
    """The config that `config_to_json` described. Raises ValueError for an architecture that this version does not have."""
    kinds = {"residual": ResidualConfig, **dict.fromkeys(PAPER_ARCHITECTURES, TextToLoraConfig)}
    if data["architecture"] not in kinds:
        raise ValueError(f"unknown hypernetwork {data['architecture']!r}: this version has {', '.join(kinds)}")
    return kinds[data["architecture"]](**data)


__all__ = [
    "Hypernetwork",
    "HypernetworkConfig",
    "ResidualConfig",
    "TextToLoraConfig",
    "build",
    "config_from_json",
    "config_to_json",
]
