"""What the training loop needs of an objective."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class StepSettings(Protocol):
    """The settings of the trainer that say what a step is made of (`training.TrainerConfig`)."""

    tasks_per_step: int
    rows_per_task: int
    rows_per_pass: int | None
    pass_cost: int
    gradient_checkpointing: bool
    adapter_dtype: str
    description_noise: float


class Objective(Protocol):
    """What the loop needs of an objective."""

    through_base: bool
    """whether a step's loss goes through the base model"""

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """Computes a step's loss, accumulates gradients, and returns metrics to log.

        `hypernetwork` is a Hypernetwork or its data-parallel wrapper.
        """
        ...
