"""What every hypernetwork is: embeddings in, `LoraWeights` of a fixed spec out, at raw scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2l.lora import AdapterKind, LoraSpec, LoraWeights
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, as_source


class Hypernetwork(nn.Module):
    """Maps description embeddings to one adapter each.

    A *target position* is one (module group, layer) pair; positions run through the groups in the spec's order and
    through the layers within a group. Subclasses are made of (config, spec, d_embedding, generator) and emit, per group,
    A [batch, layers, rank, d_in] and B [batch, layers, d_out, rank] in normalised units, or of (IA)3 the deltas as B
    (`LoraSpec.shapes`); `forward` returns them at raw scale, using statistics that live in this module's buffers (mean 0
    and standard deviation 1 until set).
    """

    kinds: ClassVar[tuple[AdapterKind, ...]] = (AdapterKind.lora,)
    """the kinds of adapters that it can emit; `whole_heads` and `emit_whole` can do all"""

    smaller: ClassVar[str | None] = None
    """an architecture that takes less memory, which `t2l plan` proposes"""

    def __init__(self, spec: LoraSpec, d_embedding: int) -> None:
        super().__init__()
        self.spec, self.d_embedding = spec, d_embedding
        layer_rank = {layer: i for i, layer in enumerate(spec.layers)}
        layer_of = [layer_rank[layer] for g in spec.groups for layer in g.layers]
        group_of = [i for i, g in enumerate(spec.groups) for _ in g.layers]
        # Fingerprints of hypernetworks hash these names (`hash_parameters`), and kept answers and reports hold fingerprints.
        self.register_buffer("slot_layer", torch.tensor(layer_of), persistent=False)
        self.register_buffer("slot_group", torch.tensor(group_of), persistent=False)
        self.register_buffer("has_statistics", torch.zeros((), dtype=torch.bool))
        self.register_buffer("description_mean", torch.zeros(d_embedding))
        self.register_buffer("description_map", torch.eye(d_embedding))
        for i, name in enumerate(spec.group_names):
            for side, shapes in spec.shapes.items():
                if name in shapes:
                    self.register_buffer(f"mean_{side}_{i}", torch.zeros(shapes[name]))
                    self.register_buffer(f"std_{side}_{i}", torch.ones(shapes[name]))

    slot_layer: Int[Tensor, " positions"]
    slot_group: Int[Tensor, " positions"]
    has_statistics: Bool[Tensor, ""]
    description_mean: Float[Tensor, " d_embedding"]
    description_map: Float[Tensor, "d_embedding d_embedding"]

    @property
    def positions(self) -> int:
        """Number of target positions."""
        return len(self.slot_layer)

    @abstractmethod
    def emit(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters in normalised units."""

    def forward(self, descriptions: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters at raw scale, one per description as `describe` makes them: A [batch, layers, rank, d_in] of each group
        of modules, B [batch, layers, d_out, rank]; of (IA)3 no A, and as B the deltas [batch, layers, width].

        Raises ValueError for descriptions of another width.
        """
        self._check_width(descriptions)
        weights = self.emit(descriptions)
        if not self.has_statistics:
            return weights
        return self._map_with_statistics(weights, lambda value, mean, std: value * std + mean)

    def generate(self, embeddings: Float[Tensor, "batch d_embedding"]) -> LoraWeights:
        """Adapters at raw scale, one per embedding as the encoder makes them."""
        return cast(LoraWeights, self(self.describe(embeddings)))

    def describe(self, embeddings: Float[Tensor, "batch d_embedding"]) -> Float[Tensor, "batch d_embedding"]:
        """Embeddings as the hypernetwork reads them: brought to L2 norm sqrt(d_embedding), as in the reference
        implementation, and whitened if `set_description_statistics` was called.

        Raises ValueError for embeddings of another width.
        """
        self._check_width(embeddings)
        return (self._scaled(embeddings) - self.description_mean) @ self.description_map

    def _check_width(self, embeddings: Tensor) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.d_embedding:
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}, this hypernetwork wants (batch, {self.d_embedding})"
            )

    def _scaled(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings, dim=-1) * math.sqrt(self.d_embedding)

    @torch.no_grad()
    def set_description_statistics(
        self, descriptions: Sequence[Float[Tensor, "descriptions d_embedding"]], shrinkage: float
    ) -> None:
        """Whitens descriptions by how much they vary within a task (Hatch et al. 2006, WCCN).

        Directions in which descriptions of one task differ (its phrasing) shrink to unit variance;
        directions that tell tasks apart stand out. The map is the inverse square root of the
        within-task covariance S, shrunk to (1 - shrinkage) S + shrinkage tr(S)/d I.

        Args:
            descriptions: per training task, the embeddings of its training descriptions.
            shrinkage: in (0, 1].
        """
        groups = [self._scaled(group) for group in descriptions]
        within = torch.cat([group - group.mean(dim=0) for group in groups])
        covariance = within.T @ within / len(within)
        identity = torch.eye(self.d_embedding, device=covariance.device)
        covariance = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / self.d_embedding * identity
        values, vectors = torch.linalg.eigh(covariance.double())
        self.description_map.copy_(vectors @ torch.diag(values.clamp_min(1e-12).rsqrt()) @ vectors.T)
        self.description_mean.copy_(torch.cat(groups).mean(dim=0))

    def _statistics(self, side: str, index: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"mean_{side}_{index}"), getattr(self, f"std_{side}_{index}")

    def _map_with_statistics(
        self, weights: LoraWeights, function: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> LoraWeights:
        """Applies function(values, mean, std) to A and B of every group."""
        A, B = (
            {
                name: function(tensors[name], *self._statistics(side, i))
                for i, name in enumerate(self.spec.group_names)
                if name in tensors
            }
            for side, tensors in (("A", weights.A), ("B", weights.B))
        )
        return LoraWeights(A, B)

    def normalise(self, weights: LoraWeights) -> LoraWeights:
        """Raw-scale adapters in this hypernetwork's normalised units (the inverse of what forward does)."""
        return self._map_with_statistics(weights, lambda value, mean, std: (value - mean) / std)

    @torch.no_grad()
    def set_statistics(
        self, library: LoraWeights | AdapterSource, floor: float = 1e-4, memory: int = ADAPTER_MEMORY
    ) -> None:
        """Takes mean and standard deviation per element from trained adapters.

        Standard deviations below `floor` times the group's largest become that floor, so that an
        element that never varies does not blow up.

        Args:
            memory: bytes of adapters that are looked at together. More of them are gone through twice, for means and
                then for deviations from them, in float64.
        """
        source = as_source(library)
        groups = source.groups(memory)
        self.has_statistics.fill_(True)
        if len(groups) == 1:
            weights = source.take(groups[0])
            weights.check(self.spec)
            for (mean, std), tensor in zip(self._every_statistic(), weights.tensors(), strict=True):
                mean.copy_(tensor.mean(dim=0))
                std.copy_(_floored(tensor.std(dim=0, correction=0), floor))
            return
        means = [torch.zeros_like(mean, dtype=torch.float64) for mean, _ in self._every_statistic()]
        squares = [torch.zeros_like(mean) for mean in means]
        for group in groups:
            self._add_up(source, group, means, None)
        for total in means:
            total /= source.count
        for group in groups:
            self._add_up(source, group, squares, means)
        for (mean, std), exact, square in zip(self._every_statistic(), means, squares, strict=True):
            mean.copy_(exact)
            std.copy_(_floored((square / source.count).sqrt(), floor))

    def _every_statistic(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of every group, A before B, as `LoraWeights.tensors` has them."""
        shapes = self.spec.shapes
        return [
            self._statistics(s, i) for s in "AB" for i, name in enumerate(self.spec.group_names) if name in shapes[s]
        ]

    def _add_up(
        self, source: AdapterSource, group: Sequence[int], totals: Sequence[Tensor], means: Sequence[Tensor] | None
    ) -> None:
        """Adds a group's values to running sums or, with `means`, the squares of their deviations."""
        weights = source.take(group)
        weights.check(self.spec)
        for k, tensor in enumerate(weights.tensors()):
            for adapter in tensor:
                value = adapter.to(totals[k])
                totals[k] += value if means is None else (value - means[k]).square_()

    def split_positions(self, features: Float[Tensor, "batch positions ..."]) -> dict[str, Tensor]:
        """Per group, the features of its layers: [batch, layers, ...]."""
        pieces = features.split([len(g.layers) for g in self.spec.groups], dim=1)
        return dict(zip(self.spec.group_names, pieces, strict=True))

    def emit_whole(self, heads: nn.ModuleList, features: Float[Tensor, "batch positions width"]) -> LoraWeights:
        """Adapters in normalised units, from `whole_heads`."""
        by_group, rank = self.split_positions(features), self.spec.rank
        if self.spec.kind is AdapterKind.ia3:
            return LoraWeights(
                {}, {g.name: head(by_group[g.name]) for head, g in zip(heads, self.spec.groups, strict=True)}
            )
        A, B = {}, {}
        for head, g in zip(heads, self.spec.groups, strict=True):
            a, b = head(by_group[g.name]).split([rank * g.d_in, rank * g.d_out], dim=-1)
            A[g.name] = a.unflatten(-1, (rank, g.d_in))
            B[g.name] = b.unflatten(-1, (g.d_out, rank))
        return LoraWeights(A, B)


def _floored(spread: Tensor, floor: float) -> Tensor:
    return spread.clamp_min(max(floor * float(spread.max()), 1e-8))


def whole_heads(spec: LoraSpec, width: int, generator: torch.Generator) -> nn.ModuleList:
    """One head per group that emits A and B of a target position together: zero weight, and a fresh LoRA as bias.

    A head of (IA)3 emits the deltas, which are zero at first.
    """
    heads = nn.ModuleList()
    for g in spec.groups:
        is_lora = spec.kind is AdapterKind.lora
        head = nn.Linear(width, spec.rank * (g.d_in + g.d_out) if is_lora else g.scaled)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        if is_lora:
            fresh_a_(head.bias[: spec.rank * g.d_in], g.d_in, generator)
        heads.append(head)
    return heads


def fresh_a_(bias: Tensor, d_in: int, generator: torch.Generator) -> None:
    """Bias-HyperInit (Beck et al. 2023): fills a bias with a fresh LoRA's A, uniform in +-1/sqrt(d_in)."""
    with torch.no_grad():
        values = torch.rand(bias.shape, generator=generator, device=generator.device)
        bias.copy_((2 * values - 1) / math.sqrt(d_in))
