"""A plainer hypernetwork: one learned embedding per slot, a pre-norm residual MLP, one head per module.

Where L, M and S compose a slot from a layer and a module embedding, every (module, layer) pair here has
an embedding of its own; there is no dropout, and residual branches are not squashed by an activation.
Heads read features of norm one: an Adam step then moves every generated value by about the learning
rate times the root of the width, not by the learning rate times the width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.hypernetwork.interface import Hypernetwork, fresh_a_
from t2l.lora import LoraSpec, LoraWeights


class ResidualHypernetwork(Hypernetwork):
    """Projected description and slot embedding, concatenated, through pre-norm residual MLP blocks."""

    def __init__(
        self,
        spec: LoraSpec,
        d_embedding: int,
        generator: torch.Generator,
        width: int = 256,
        description_width: int = 128,
        blocks: int = 2,
        expansion: int = 2,
    ) -> None:
        super().__init__(spec, d_embedding)
        self.description = nn.Linear(d_embedding, description_width)
        self.slot = nn.Embedding(self.slots, width - description_width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width)
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList()
        for g in spec.groups:
            head = nn.Linear(width, spec.rank * (g.d_in + g.d_out))
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            fresh_a_(head.bias[: spec.rank * g.d_in], g.d_in, generator)
            self.heads.append(head)

    def emit(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters in normalised units."""
        description = self.description(embeddings)[:, None].expand(-1, self.slots, -1)
        x = torch.cat([description, self.slot.weight.expand(len(embeddings), -1, -1)], dim=-1)
        for block in self.blocks:
            x = x + block(x)
        features, rank = self.split_slots(self.norm(x) / math.sqrt(x.shape[-1])), self.spec.rank
        A, B = {}, {}
        for head, g in zip(self.heads, self.spec.groups, strict=True):
            a, b = head(features[g.name]).split([rank * g.d_in, rank * g.d_out], dim=-1)
            A[g.name] = a.unflatten(-1, (rank, g.d_in))
            B[g.name] = b.unflatten(-1, (g.d_out, rank))
        return LoraWeights(A, B)
