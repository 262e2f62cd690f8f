"""A plainer hypernetwork: one learned embedding per target position, a pre-norm residual MLP, one head per module.

L, M and S compose a target position (a module of a layer) from an embedding of each; here every position has
an embedding of its own; there is no dropout, and residual branches are not squashed by an activation.
Heads read features of norm one: an Adam step then moves every generated value by about the learning
rate times the root of the width, not by the learning rate times the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.checks import at_least, one_of
from t2l.hypernetwork.interface import Hypernetwork, whole_heads
from t2l.lora import AdapterKind, LoraSpec, LoraWeights
from t2l.registry import register


@dataclass
class ResidualConfig:
    """The plainer residual hypernetwork."""

    architecture: str = "residual"
    """fixed"""
    width: int = 256
    """width of the residual stream: projected description and position's embedding side by side"""
    description_width: int = 128
    """width of the projected description"""
    blocks: int = 2
    """residual MLP blocks"""
    expansion: int = 2
    """hidden width of a block, as a multiple of width"""

    def __post_init__(self) -> None:
        one_of(self, ("residual",), "architecture", under="hypernetwork")
        if not 0 < self.description_width < self.width:
            raise ValueError(
                f"hypernetwork.description_width must be in 1 to width - 1 = {self.width - 1}, not {self.description_width}"
            )
        at_least(self, 0, "blocks", under="hypernetwork")
        at_least(self, 1, "expansion", under="hypernetwork")


@register("hypernetwork", "residual", ResidualConfig)
class ResidualHypernetwork(Hypernetwork):
    """Projected description and target position's embedding, concatenated, through pre-norm residual MLP blocks."""

    smaller = "s"
    kinds = tuple(AdapterKind)

    def __init__(self, config: ResidualConfig, spec: LoraSpec, d_embedding: int, generator: torch.Generator) -> None:
        super().__init__(spec, d_embedding)
        width, hidden = config.width, config.expansion * config.width
        self.description = nn.Linear(d_embedding, config.description_width)
        self.slot = nn.Embedding(self.positions, width - config.description_width)
        """of target positions; checkpoints have it under this name"""
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = whole_heads(spec, width, generator)

    def emit(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters in normalised units."""
        description = self.description(embeddings)[:, None].expand(-1, self.positions, -1)
        x = torch.cat([description, self.slot.weight.expand(len(embeddings), -1, -1)], dim=-1)
        for block in self.blocks:
            x = x + block(x)
        return self.emit_whole(self.heads, self.norm(x) / math.sqrt(x.shape[-1]))
