"""SFT: cross-entropy of responses under generated adapters, through the frozen base."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, checkpointing, label_logits
from t2l.base_model.forward import LabelLogits
from t2l.checks import at_least, in_range, one_of
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraWeights, inject
from t2l.objectives.interface import Batch, Materials, Objective, StepSettings, Term
from t2l.objectives.losses import label_loss, weight_penalty
from t2l.registry import register
from t2l.tasks import CutCount, TokenizedExample, tokenize_examples
from t2l.tasks.batches import cheapest_passes, collate


@dataclass
class SftConfig:
    """Cross-entropy on responses through the frozen base model."""

    name: str = "sft"
    """fixed"""
    label_smoothing: float = 0.0
    """mass spread evenly over the vocabulary"""
    weight_penalty: float = 0.001
    """factor of the mean square of generated A and B, or deltas of (IA)3"""

    def __post_init__(self) -> None:
        one_of(self, ("sft",), "name", under="objective")
        in_range(self, "[0, 1)", "label_smoothing", under="objective")
        at_least(self, 0, "weight_penalty", under="objective")


@register("objective", "sft", SftConfig)
class SftObjective(Objective):
    """Cross-entropy of responses under generated adapters (the SFT loss of Charakorn et al. 2025)."""

    needs_base = True

    def __init__(
        self, config: SftConfig, trainer: StepSettings, base: BaseModel, rows: Sequence[Sequence[TokenizedExample]]
    ) -> None:
        """Raises ValueError if a task has fewer training examples than a step takes.

        Args:
            rows: each task's training examples.
        """
        self.config, self.trainer, self.base, self.rows = config, trainer, base, rows
        self._adapter_dtype: torch.dtype = getattr(torch, trainer.adapter_dtype)
        fewest = min(len(r) for r in rows)
        if fewest < trainer.rows_per_task:
            raise ValueError(
                f"trainer.rows_per_task={trainer.rows_per_task} is more than a task has training examples ({fewest})"
            )

    @classmethod
    def make(cls, config: SftConfig, materials: Materials) -> Self:
        """Tokenizes the tasks' training examples."""
        cuts, longest, tokenizer = CutCount(), materials.trainer.max_length, materials.base.tokenizer
        rows = [tokenize_examples(tokenizer, t.examples["train"], "", longest, t.name, cuts) for t in materials.tasks]
        cuts.warn(longest)
        return cls(config, materials.trainer, materials.base, rows)

    def row_counts(self) -> list[int]:
        """Training examples of each task."""
        return [len(r) for r in self.rows]

    def losses(self, hypernetwork: Hypernetwork, batch: Batch, weights: LoraWeights) -> Generator[Term, None, None]:
        """`loss`, a part for each pass through the base, and `weight_mean_square`."""
        examples = [[self.rows[t][i] for i in rows] for t, rows in zip(batch.tasks, batch.rows, strict=True)]
        each, device = len(examples[0]), self.base.device
        widths = [max(r.length for r in group) for group in examples]
        most = None if self.trainer.rows_per_pass is None else self.trainer.rows_per_pass // each
        with checkpointing(self.base.model) if self.trainer.gradient_checkpointing else nullcontext():
            for tasks in cheapest_passes(widths, self.trainer.pass_cost / each, most):
                rows = [r for i in tasks for r in examples[i]]
                adapters = weights if len(tasks) == len(examples) else weights[torch.tensor(tasks, device=device)]
                teacher = self.teach(rows)
                with inject(self.base.model, hypernetwork.spec, adapters.to(self._adapter_dtype)):
                    yield Term("loss", self.row_losses(rows, teacher).sum() / (len(examples) * each))
        yield Term("weight_mean_square", weight_penalty(weights), self.config.weight_penalty)

    def teach(self, rows: Sequence[TokenizedExample]) -> Any:
        """What the base without adapters has to say on a pass's rows; nothing here."""
        return None

    def logits(self, rows: Sequence[TokenizedExample]) -> LabelLogits:
        """The base's logits at response tokens, under the adapters that are injected."""
        batch = collate(rows, self.base.tokenizer.pad_token_id, self.base.device)
        return label_logits(self.base.model, batch.input_ids, batch.attention_mask, batch.labels)

    def row_losses(self, rows: Sequence[TokenizedExample], teacher: Any) -> Float[Tensor, " rows"]:
        """The loss of each row of a pass, with its adapters injected; `teacher` is what `teach` returned."""
        found = self.logits(rows)
        return label_loss(found.logits, found.targets, found.rows, len(rows), self.config.label_smoothing)
