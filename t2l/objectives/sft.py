"""SFT: cross-entropy of responses under generated adapters, through the frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.base_model import BaseModel, checkpointing, label_logits
from t2l.distributed import World, unwrap
from t2l.lora import inject
from t2l.objectives.descriptions import DescriptionDraws
from t2l.objectives.interface import StepSettings
from t2l.objectives.losses import label_loss, weight_penalty
from t2l.tasks import TokenizedExample
from t2l.tasks.batches import cheapest_passes, collate, draw_tasks


@dataclass
class SftConfig:
    """Cross-entropy on responses through the frozen base model."""

    name: str = "sft"
    """fixed"""
    label_smoothing: float = 0.0
    """mass spread evenly over the vocabulary"""
    weight_penalty: float = 0.001
    """factor of the mean square of generated A and B"""

    def __post_init__(self) -> None:
        if self.name != "sft":
            raise ValueError(f"objective.name must be 'sft' here, not {self.name!r}")
        if not 0 <= self.label_smoothing < 1 or self.weight_penalty < 0:
            raise ValueError("objective: label_smoothing must be in [0, 1) and weight_penalty >= 0")


class SftObjective:
    """Cross-entropy of responses under generated adapters (the SFT loss of Charakorn et al. 2025)."""

    through_base = True

    def __init__(
        self,
        config: SftConfig,
        trainer: StepSettings,
        seed: int,
        base: BaseModel,
        rows: Sequence[Sequence[TokenizedExample]],
        embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]],
        world: World | None = None,
    ) -> None:
        self.config, self.trainer, self.seed, self.base = config, trainer, seed, base
        self.rows, self.world = rows, world or World()
        self._adapter_dtype: torch.dtype = getattr(torch, trainer.adapter_dtype)
        self.descriptions = DescriptionDraws(embeddings, trainer.description_noise, seed)
        fewest = min(len(r) for r in rows)
        if fewest < trainer.rows_per_task:
            raise ValueError(
                f"trainer.rows_per_task={trainer.rows_per_task} is more than a task has training examples ({fewest})"
            )

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """One step on `tasks_per_step` tasks with `rows_per_task` examples each."""
        draw = draw_tasks(
            self.seed, step, len(self.rows), self.trainer.tasks_per_step,
            self.descriptions.counts, [len(r) for r in self.rows], self.trainer.rows_per_task,
        )  # fmt: skip
        device, share = self.base.device, self.world.share(len(draw.tasks), "trainer.tasks_per_step")
        mine = draw.part(share)
        examples = [[self.rows[t][i] for i in indices] for t, indices in zip(mine.tasks, mine.rows, strict=True)]
        weights = self.descriptions.generate(hypernetwork, draw, share, step, device)
        # The base's passes end at the generated weights, whose gradients then go through the hypernetwork once.
        leaves = weights.map(lambda t: t.detach().requires_grad_())
        spec, loss = unwrap(hypernetwork).spec, torch.zeros((), device=device)
        widths = [max(r.length for r in group) for group in examples]
        most = None if self.trainer.rows_per_pass is None else self.trainer.rows_per_pass // len(examples[0])
        with checkpointing(self.base.model) if self.trainer.gradient_checkpointing else nullcontext():
            for tasks in cheapest_passes(widths, self.trainer.pass_cost / len(examples[0]), most):
                rows = [r for i in tasks for r in examples[i]]
                adapters = leaves if len(tasks) == len(examples) else leaves[torch.tensor(tasks, device=device)]
                with inject(self.base.model, spec, adapters.to(self._adapter_dtype)):
                    part = self._row_losses(rows).sum() / (len(examples) * len(examples[0]))
                    part.backward()
                loss += part.detach()
        penalty = weight_penalty(leaves)
        (self.config.weight_penalty * penalty).backward()
        torch.autograd.backward(weights.tensors(), [t.grad for t in leaves.tensors()])
        return {"train/loss": loss.item(), "train/weight_mean_square": penalty.item()}

    def _row_losses(self, rows: Sequence[TokenizedExample]) -> Float[Tensor, " rows"]:
        batch = collate(rows, self.base.tokenizer.pad_token_id, self.base.device)
        found = label_logits(self.base.model, batch.input_ids, batch.attention_mask, batch.labels)
        return label_loss(found.logits, found.targets, found.rows, len(rows), self.config.label_smoothing)
