"""The gradients of one training step, for every objective: draw, generate, differentiate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.distributed import World, unwrap
from t2l.lora import LoraWeights
from t2l.objectives.interface import Batch, Objective, StepSettings
from t2l.tasks.batches import TaskDraw, draw_noise, draw_tasks, gather_embeddings


class Steps:
    """An objective on the training descriptions: what the training loop calls once per step.

    What a step draws is a function of seed and step alone.
    """

    def __init__(
        self,
        objective: Objective,
        embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]],
        trainer: StepSettings,
        seed: int,
        world: World | None = None,
    ) -> None:
        """`embeddings` are those of each training task's descriptions."""
        self.objective, self.trainer, self.seed = objective, trainer, seed
        self.world = world or World()
        self._embeddings = embeddings
        self._rows = objective.row_counts() or [1] * len(embeddings)
        self._described: list[Tensor] | None = None

    @property
    def needs_base(self) -> bool:
        """Whether a step goes through the base model."""
        return self.objective.needs_base

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """Accumulates the gradients of a step. Returns its metrics, `train/NAME` for each name of its terms.

        `hypernetwork` is a Hypernetwork or its data-parallel wrapper.
        """
        draw = draw_tasks(
            self.seed, step, len(self._embeddings), self.trainer.tasks_per_step, [len(e) for e in self._embeddings],
            self._rows, self.trainer.rows_per_task,
        )  # fmt: skip
        share = self.world.share(len(draw.tasks), "trainer.tasks_per_step")
        weights = self._generate(hypernetwork, draw, share, step)
        leaves = weights.map(lambda t: t.detach().requires_grad_())
        batch = Batch(draw.tasks[share], draw.rows[share], step)
        totals: dict[str, Tensor] = {}
        with closing(self.objective.losses(unwrap(hypernetwork), batch, leaves)) as terms:
            for term in terms:
                if term.factor:
                    (term.value if term.factor == 1 else term.factor * term.value).backward()
                value = term.value.detach()
                totals[term.name] = totals[term.name] + value if term.name in totals else value
        reached = [(w, t.grad) for w, t in zip(weights.tensors(), leaves.tensors(), strict=True) if t.grad is not None]
        torch.autograd.backward([w for w, _ in reached], [g for _, g in reached])
        return {f"train/{name}": total.item() for name, total in totals.items()}

    def _generate(self, hypernetwork: nn.Module, draw: TaskDraw, share: slice, step: int) -> LoraWeights:
        """Adapters for this process's share of a draw; noise is drawn for the whole of it, so shares agree.

        Noise is relative to the root mean square of a (whitened) description.
        """
        device = next(hypernetwork.parameters()).device
        if self._described is None:  # once: nothing in it is trained
            describe = unwrap(hypernetwork).describe
            with torch.no_grad():
                self._described = [describe(e.to(device)) for e in self._embeddings]
        described = gather_embeddings(self._described, draw.part(share), device)
        if self.trainer.description_noise:
            drawn = draw_noise(self.seed, step, len(draw.tasks), described.shape[1])[share]
            noise = self.trainer.description_noise * drawn.to(device)
            described = described + noise * described.norm(dim=-1, keepdim=True) / math.sqrt(described.shape[1])
        return hypernetwork(described)
