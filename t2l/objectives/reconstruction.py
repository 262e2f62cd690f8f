"""Reconstruction: distance of generated adapters to those of a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from t2l.distributed import World, unwrap
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraWeights
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, Cached, Held, as_source
from t2l.objectives.descriptions import DescriptionDraws
from t2l.objectives.interface import StepSettings
from t2l.objectives.losses import frobenius_distance, l1_distance, product_norm
from t2l.tasks.batches import draw_tasks


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
        if self.name != "reconstruction":
            raise ValueError(f"objective.name must be 'reconstruction' here, not {self.name!r}")
        if self.distance not in ("l1", "frobenius"):
            raise ValueError(f"objective.distance must be l1 or frobenius, not {self.distance!r}")


class ReconstructionObjective:
    """Distance to the library's adapters (the reconstruction loss of Charakorn et al. 2025)."""

    through_base = False

    def __init__(
        self,
        config: ReconstructionConfig,
        trainer: StepSettings,
        seed: int,
        library: LoraWeights | AdapterSource,
        embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]],
        world: World | None = None,
    ) -> None:
        """`library` is read step by step; as much of it as fits `ADAPTER_MEMORY` stays in memory."""
        self.config, self.trainer, self.seed = config, trainer, seed
        self.library, self.world = as_source(library), world or World()
        is_small = len(self.library.groups(ADAPTER_MEMORY)) == 1
        self._targets = Held(self.library.all()) if is_small else Cached(self.library, ADAPTER_MEMORY)
        self.descriptions = DescriptionDraws(embeddings, trainer.description_noise, seed)

    def prepare(self, hypernetwork: Hypernetwork) -> None:
        """Sets the output statistics for the z-scored L1; the other distances need none."""
        if self.config.distance == "l1" and self.config.standardise:
            hypernetwork.set_statistics(self.library)
            self.library.release()

    def distance(self, units: Hypernetwork, predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, ""]:
        """The loss of generated adapters beside those they should be; `units` is the hypernetwork without wrapper."""
        if self.config.distance == "l1":
            return l1_distance(units.normalise(predicted), units.normalise(target))
        distance = frobenius_distance(predicted, target)
        return (distance / product_norm(target) if self.config.standardise else distance).mean()

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """One step on `tasks_per_step` adapters."""
        draw = draw_tasks(
            self.seed, step, self.library.count, self.trainer.tasks_per_step,
            self.descriptions.counts, [1] * self.library.count, 1,
        )  # fmt: skip
        share = self.world.share(len(draw.tasks), "trainer.tasks_per_step")
        device = next(hypernetwork.parameters()).device
        target = self._targets.make(draw.tasks[share]).to(device)
        predicted = self.descriptions.generate(hypernetwork, draw, share, step, device)
        loss = self.distance(unwrap(hypernetwork), predicted, target)
        loss.backward()
        return {"train/loss": loss.item()}
