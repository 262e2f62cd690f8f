"""Reconstruction: distance of generated adapters to those of a library."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Self

from jaxtyping import Float
from torch import Tensor

from t2l.checks import one_of
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraWeights
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, Cached, Held, as_source
from t2l.objectives.interface import Batch, Materials, Objective, Term
from t2l.objectives.losses import frobenius_distance, l1_distance, product_norm
from t2l.registry import register


@dataclass
class ReconstructionConfig:
    """Distance between generated and library adapters."""

    name: str = "reconstruction"
    """fixed"""
    distance: str = "l1"
    """l1: mean absolute difference of A and of B; frobenius: squared distance of the products BA"""
    standardise: bool = True
    """z-score every element over the library (l1), or divide by the target's squared norm (frobenius)"""

    def __post_init__(self) -> None:
        one_of(self, ("reconstruction",), "name", under="objective")
        one_of(self, ("l1", "frobenius"), "distance", under="objective")


@register("objective", "reconstruction", ReconstructionConfig)
class ReconstructionObjective(Objective):
    """Distance to the library's adapters (the reconstruction loss of Charakorn et al. 2025)."""

    needs_library = True

    def __init__(self, config: ReconstructionConfig, library: LoraWeights | AdapterSource) -> None:
        """`library` is read step by step; as much of it as fits `ADAPTER_MEMORY` stays in memory."""
        self.config, self.library = config, as_source(library)
        is_small = len(self.library.groups(ADAPTER_MEMORY)) == 1
        self._targets = Held(self.library.all()) if is_small else Cached(self.library, ADAPTER_MEMORY)

    @classmethod
    def make(cls, config: ReconstructionConfig, materials: Materials) -> Self:
        """With the library's adapters of the training tasks."""
        assert materials.adapters is not None  # it says that it needs them
        return cls(config, materials.adapters)

    def prepare(self, hypernetwork: Hypernetwork) -> None:
        """Sets the output statistics for the z-scored L1; the other distances need none."""
        if self.config.distance == "l1" and self.config.standardise:
            hypernetwork.set_statistics(self.library)
            self.library.release()

    def losses(self, hypernetwork: Hypernetwork, batch: Batch, weights: LoraWeights) -> Generator[Term, None, None]:
        """`loss`, the distance to the batch's adapters."""
        target = self._targets.make(batch.tasks).to(next(hypernetwork.parameters()).device)
        yield Term("loss", self.distance(hypernetwork, weights, target))

    def distance(self, hypernetwork: Hypernetwork, predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, ""]:
        """The loss of generated adapters beside those they should be."""
        if self.config.distance == "l1":
            return l1_distance(hypernetwork.normalise(predicted), hypernetwork.normalise(target))
        distance = frobenius_distance(predicted, target)
        return (distance / product_norm(target) if self.config.standardise else distance).mean()
