"""The Text-to-LoRA architectures L, M and S (Charakorn et al. 2025, arXiv:2506.06105).

All share one trunk: the embedded description, layer and module are concatenated, mixed, and passed
through residual MLP blocks. They differ in what one head emits at a time: A and B together (L), A or B
(M), or one rank of A or B (S). Heads start at zero weight with a fresh LoRA as bias (Bias-HyperInit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from t2l.checks import in_range
from t2l.hypernetwork.interface import Hypernetwork, fresh_a_, whole_heads
from t2l.lora import AdapterKind, LoraSpec, LoraWeights
from t2l.registry import component_of, register


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
        component_of("hypernetwork", self)  # raises ValueError for another architecture
        if self.latent < 4 or self.latent % 4:
            raise ValueError(f"hypernetwork.latent must be a positive multiple of 4, not {self.latent}")
        in_range(self, "[0, 1)", "dropout", under="hypernetwork")


class _Trunk(nn.Module):
    """Everything before the heads; `marks` are added before the second residual block (M and S)."""

    def __init__(self, spec: LoraSpec, d_embedding: int, latent: int, dropout: float) -> None:
        super().__init__()
        hidden = 4 * latent
        self.description = nn.Sequential(nn.Linear(d_embedding, latent // 2), nn.LayerNorm(latent // 2))
        self.layer = nn.Sequential(nn.Embedding(len(spec.layers), latent // 4), nn.LayerNorm(latent // 4))
        self.module = nn.Sequential(nn.Embedding(len(spec.groups), latent // 4), nn.LayerNorm(latent // 4))
        self.mixer = nn.Sequential(
            nn.Linear(latent, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, latent), nn.SiLU(),
            nn.Dropout(dropout),
        )  # fmt: skip
        self.first, self.second = self._block(latent, hidden, dropout), self._block(latent, hidden, dropout)
        self.last = nn.Sequential(
            nn.LayerNorm(latent), nn.Linear(latent, hidden), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.SiLU(),
        )  # fmt: skip
        self.width = hidden

    @staticmethod
    def _block(latent: int, hidden: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(latent), nn.Linear(latent, hidden), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(hidden, latent), nn.SiLU(), nn.Dropout(dropout),
        )  # fmt: skip

    def forward(self, embeddings: Tensor, layers: Tensor, groups: Tensor, marks: Tensor | None) -> Tensor:
        """[batch, positions, width], or with marks [n, latent]: [batch, n, positions, width].

        Args:
            layers: of each target position, its layer by number.
            groups: likewise, its group of modules.
        """
        positions = torch.cat([self.layer(layers), self.module(groups)], dim=-1)
        description = self.description(embeddings)[:, None].expand(-1, len(positions), -1)
        x = torch.cat([description, positions.expand(len(embeddings), -1, -1)], dim=-1)
        x = self.mixer(x)
        x = x + self.first(x)
        if marks is not None:
            x = x[:, None] + marks[None, :, None]
        x = x + self.second(x)
        return self.last(x)


class _PaperHypernetwork(Hypernetwork):
    """The trunk that L, M and S share."""

    def __init__(self, config: TextToLoraConfig, spec: LoraSpec, d_embedding: int) -> None:
        super().__init__(spec, d_embedding)
        self.trunk = _Trunk(spec, d_embedding, config.latent, config.dropout)

    def _features(self, embeddings: Tensor, marks: Tensor | None = None) -> Tensor:
        return self.trunk(embeddings, self.slot_layer, self.slot_group, marks)


@register("hypernetwork", "l", TextToLoraConfig)
class TextToLoraL(_PaperHypernetwork):
    """Architecture L: one head per module emits A and B together, or the one vector of (IA)3."""

    smaller = "s"
    kinds = tuple(AdapterKind)

    def __init__(self, config: TextToLoraConfig, spec: LoraSpec, d_embedding: int, generator: torch.Generator) -> None:
        super().__init__(config, spec, d_embedding)
        self.heads = whole_heads(spec, self.trunk.width, generator)

    def emit(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters in normalised units."""
        return self.emit_whole(self.heads, self._features(embeddings))


class _SharedHead(_PaperHypernetwork):
    """What M and S share: one head per module for both A and B, told apart by an added embedding.

    The head's weight is shared between the sides; each side has a bias of its own, because a fresh
    LoRA's A is random and its B is zero.
    """

    one_rank_at_a_time: ClassVar[bool]

    def __init__(self, config: TextToLoraConfig, spec: LoraSpec, d_embedding: int, generator: torch.Generator) -> None:
        super().__init__(config, spec, d_embedding)
        self.heads = nn.ModuleList()
        self.side = nn.Sequential(nn.Embedding(2, config.latent), nn.LayerNorm(config.latent))
        ranks = 1 if self.one_rank_at_a_time else spec.rank
        self.bias_a, self.bias_b = nn.ParameterList(), nn.ParameterList()
        for g in spec.groups:
            head = nn.Linear(self.trunk.width, ranks * max(g.d_in, g.d_out), bias=False)
            nn.init.zeros_(head.weight)
            self.heads.append(head)
            self.bias_a.append(nn.Parameter(torch.empty(spec.rank, g.d_in)))
            self.bias_b.append(nn.Parameter(torch.zeros(spec.rank, g.d_out)))
            fresh_a_(self.bias_a[-1], g.d_in, generator)

    def _emit_sides(self, features: Sequence[Tensor]) -> LoraWeights:
        """Adapters from the features of A and those of B, [batch, positions, ...] each."""
        one_side = _one_rank if self.one_rank_at_a_time else _all_ranks
        of_a, of_b = (self.split_positions(side) for side in features)
        A, B = {}, {}
        for i, (head, g) in enumerate(zip(self.heads, self.spec.groups, strict=True)):
            weight = head.get_parameter("weight")
            A[g.name] = one_side(weight, of_a[g.name], self.bias_a[i])
            B[g.name] = one_side(weight, of_b[g.name], self.bias_b[i]).transpose(-1, -2)
        return LoraWeights(A, B)


def _all_ranks(weight: Tensor, features: Tensor, bias: Tensor) -> Tensor:
    """Every rank of one side, [batch, layers, rank, width]; rows of the head beyond its width are not computed."""
    rank, width = bias.shape
    mine = weight.unflatten(0, (rank, -1))[:, :width].flatten(0, 1)
    return F.linear(features, mine, bias.flatten()).unflatten(-1, (rank, width))


def _one_rank(weight: Tensor, features: Tensor, bias: Tensor) -> Tensor:
    """One side from features of one rank each, [batch, layers, rank, width]; likewise."""
    return F.linear(features, weight[: bias.shape[1]]) + bias


@register("hypernetwork", "m", TextToLoraConfig)
class TextToLoraM(_SharedHead):
    """Architecture M: one head per module emits A or B, chosen by a learned embedding."""

    smaller = "s"
    one_rank_at_a_time = False

    def emit(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters in normalised units."""
        marks = self.side(torch.arange(2, device=embeddings.device))
        return self._emit_sides(self._features(embeddings, marks).unbind(1))


@register("hypernetwork", "s", TextToLoraConfig)
class TextToLoraS(_SharedHead):
    """Architecture S: one head per module emits one rank of A or of B at a time."""

    one_rank_at_a_time = True

    def __init__(self, config: TextToLoraConfig, spec: LoraSpec, d_embedding: int, generator: torch.Generator) -> None:
        super().__init__(config, spec, d_embedding, generator)
        self.rank_position = nn.Sequential(nn.Embedding(spec.rank, config.latent), nn.LayerNorm(config.latent))

    def emit(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters in normalised units."""
        device, rank = embeddings.device, self.spec.rank
        sides, ranks = self.side(torch.arange(2, device=device)), self.rank_position(torch.arange(rank, device=device))
        marks = (sides[:, None] + ranks[None]).flatten(0, 1)
        features = self._features(embeddings, marks).unflatten(1, (2, rank))
        return self._emit_sides(features.transpose(2, 3).unbind(1))  # [batch, positions, ranks, width]
