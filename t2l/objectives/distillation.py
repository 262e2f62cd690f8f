"""Distillation: the base that does not read the description, under its adapter, says what the base that reads it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.checks import at_least, one_of, positive
from t2l.objectives.interface import Materials, StepSettings
from t2l.objectives.losses import distillation_loss, label_loss
from t2l.objectives.sft import SftConfig, SftObjective
from t2l.registry import register
from t2l.tasks import PromptConfig, Task, TokenizedExample, show_definition
from t2l.tasks.prompting import tokenize_prompts

TEACHERS = ("description", "examples", "both")


@dataclass
class DistillationConfig:
    """KL divergence from the same frozen base with more in its prompt, on response tokens."""

    name: str = "distillation"
    """fixed"""
    teacher: str = "description"
    """what the teacher reads before the input: description, examples (solved ones, as earlier turns), or both"""
    shots: int = 4
    """solved training examples of the task that the teacher reads, if it reads any; never the row itself"""
    temperature: float = 1.0
    """what both logits are divided by"""
    labels: float = 0.0
    """factor of the cross-entropy on the responses; 0 for the teacher alone"""
    weight_penalty: float = 0.001
    """factor of the mean square of generated A and B, or deltas of (IA)3"""

    def __post_init__(self) -> None:
        one_of(self, ("distillation",), "name", under="objective")
        one_of(self, TEACHERS, "teacher", under="objective")
        at_least(self, 1, "shots", under="objective")
        positive(self, "temperature", under="objective")
        at_least(self, 0, "labels", "weight_penalty", under="objective")


@dataclass(frozen=True)
class TaughtExample(TokenizedExample):
    """A row as the student reads it, and the prompt that its teacher reads."""

    told_ids: tuple[int, ...] = ()

    @property
    def told(self) -> TokenizedExample:
        """The same response after the teacher's prompt."""
        return TokenizedExample(self.told_ids, self.response_ids)


@register("objective", "distillation", DistillationConfig)
class DistillationObjective(SftObjective):
    """Context distillation into generated adapters (Askell et al. 2021; Snell et al. 2022, arXiv:2209.15189).

    Teacher and student are the same frozen base. The teacher has the description, solved examples or both in its prompt
    and no adapter; the student has the adapter that was generated from a description, and only the input. The loss is
    `losses.distillation_loss` on the response tokens, plus `labels` times the SFT loss.
    """

    config: DistillationConfig  # type: ignore[assignment]

    @classmethod
    def check_settings(cls, config: DistillationConfig, trainer: StepSettings, prompt: PromptConfig) -> None:
        """Raises ValueError if the description stands in the prompt: the student would read it, too."""
        if prompt.is_shown:
            raise ValueError(
                f"objective={config.name} with prompt.definition=shown: the student would read the description as well, "
                "and would not need an adapter made from it: set prompt.definition=hidden"
            )

    @classmethod
    def make(cls, config: DistillationConfig, materials: Materials) -> Self:  # type: ignore[override]
        """Tokenizes each training example twice, with and without what the teacher reads.

        Raises ValueError for a task with no more training examples than the teacher's shots, or a teacher's prompt that
        does not fit the base's context.
        """
        plain = SftObjective.make(SftConfig(), materials)
        rows = [_taught(config, materials, task, bare) for task, bare in zip(materials.tasks, plain.rows, strict=True)]
        return cls(config, materials.trainer, materials.base, rows)  # type: ignore[arg-type]

    def teach(self, rows: Sequence[TokenizedExample]) -> Float[Tensor, "labels vocabulary"]:
        """The teacher's logits at the response tokens."""
        with torch.no_grad():
            return self.logits([row.told for row in rows if isinstance(row, TaughtExample)]).logits

    def row_losses(self, rows: Sequence[TokenizedExample], teacher: Any) -> Float[Tensor, " rows"]:
        """Divergence from the teacher, and the share of the labels."""
        found, config = self.logits(rows), self.config
        losses = distillation_loss(found.logits, teacher, found.rows, len(rows), config.temperature)
        if config.labels:
            losses = losses + config.labels * label_loss(found.logits, found.targets, found.rows, len(rows))
        return losses


def _taught(
    config: DistillationConfig, materials: Materials, task: Task, bare: Sequence[TokenizedExample]
) -> list[TaughtExample]:
    base, examples = materials.base, task.examples["train"]
    contents = (task if config.teacher == "examples" else show_definition(task)).examples["train"]
    shots: list[list[tuple[str, str]]] | None = None
    if config.teacher != "description":
        count = len(examples)
        if count <= config.shots:
            raise ValueError(
                f"objective.shots={config.shots} needs more training examples than task {task.name!r} has ({count})"
            )
        after = [[examples[(i + k) % count] for k in range(1, config.shots + 1)] for i in range(count)]
        shots = [[(e.input, e.output) for e in chosen] for chosen in after]
    told = tokenize_prompts(base.tokenizer, [e.input for e in contents], shots)
    rows = [TaughtExample(row.prompt_ids, row.response_ids, prompt) for row, prompt in zip(bare, told, strict=True)]
    longest = max(row.told.length for row in rows)
    if base.positions is not None and longest > base.positions:
        raise ValueError(
            f"objective.teacher={config.teacher}: a prompt of task {task.name!r} takes {longest} tokens with its response, the "
            f"base reads {base.positions}: use fewer objective.shots"
        )
    return rows
