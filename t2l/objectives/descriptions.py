"""The training descriptions as an objective draws them, with noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.distributed import unwrap
from t2l.lora import LoraWeights
from t2l.tasks.batches import TaskDraw, draw_noise, gather_embeddings


class DescriptionDraws:
    """The training descriptions as the hypernetwork reads them, computed once: nothing in that step is trained."""

    def __init__(
        self, embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]], noise: float, seed: int
    ) -> None:
        self.counts, self._embeddings = [len(e) for e in embeddings], embeddings
        self._noise, self._seed = noise, seed
        self._described: list[Tensor] | None = None

    def generate(
        self, hypernetwork: nn.Module, draw: TaskDraw, share: slice, step: int, device: torch.device
    ) -> LoraWeights:
        """Adapters for this process's share of a draw; noise is drawn for the whole of it, so shares agree."""
        if self._described is None:
            describe = unwrap(hypernetwork).describe
            with torch.no_grad():
                self._described = [describe(e.to(device)) for e in self._embeddings]
        descriptions = gather_embeddings(self._described, draw.part(share), device)
        if not self._noise:
            return hypernetwork(descriptions, is_described=True)
        drawn = draw_noise(self._seed, step, len(draw.tasks), descriptions.shape[1])[share]
        return hypernetwork(descriptions, self._noise * drawn.to(device), is_described=True)
