"""What an objective is: what it needs, what it prepares, and the losses of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraWeights
from t2l.lora.source import AdapterSource
from t2l.tasks import PromptConfig, Task


class StepSettings(Protocol):
    """The settings of the trainer that say what a step is made of (`training.TrainerConfig`)."""

    steps: int
    tasks_per_step: int
    rows_per_task: int
    rows_per_pass: int | None
    pass_cost: int
    gradient_checkpointing: bool
    adapter_dtype: str
    description_noise: float
    max_length: int


@dataclass(frozen=True)
class Materials:
    """What an objective may be made of."""

    trainer: StepSettings
    base: BaseModel
    tasks: Sequence[Task]
    """the training tasks, with the definition in their inputs if training shows it"""
    adapters: AdapterSource | None = None
    """the library's adapters of these tasks, in their order; None for an objective that needs no library"""


@dataclass(frozen=True)
class Needs:
    """What an objective of a config needs."""

    base: bool
    """whether its losses go through the base model"""
    library: bool
    """whether it needs trained adapters of the training tasks"""


@dataclass(frozen=True)
class Batch:
    """A process's share of a step."""

    tasks: list[int]
    """which of the training tasks, by number"""
    rows: list[list[int]]
    """for each of them, numbers of its training examples"""
    step: int = 0
    """which step of training, counted from 0"""


@dataclass(frozen=True)
class Term:
    """A part of a step's loss; terms of one name add up."""

    name: str
    """what metrics call the sum, after `train/`; `loss` is the one to watch"""
    value: Float[Tensor, ""]
    factor: float = 1.0
    """what its gradient is multiplied by; 0: it is a metric alone, and is not differentiated"""


class Objective(ABC):
    """What a hypernetwork is trained to make small.

    A step generates one adapter per task of its batch, and hands them to `losses` as leaves of the graph. Each term is
    differentiated as soon as it is yielded, so an objective may go through the base in several passes, yield from within
    the block in which adapters are injected, and keep no more than one pass in memory. The gradients of all terms meet at
    the leaves and go through the hypernetwork once. To add objectives, yield the terms of each (as `joint` does).
    """

    needs_base: bool = False
    """whether its losses go through the base model"""
    needs_library: bool = False
    """whether it needs trained adapters of the training tasks"""

    @classmethod
    def needs_of(cls, config: Any) -> Needs:
        """What the objective of a config needs: `needs_base` and `needs_library`, unless that depends on the config."""
        return Needs(cls.needs_base, cls.needs_library)

    @classmethod
    def check_settings(cls, config: Any, trainer: StepSettings, prompt: PromptConfig) -> None:
        """Raises ValueError if a config does not go with the trainer's or the prompt's; before anything is loaded."""
        return None

    @classmethod
    def schedule_of(cls, config: Any, steps: int, first: int) -> Any:
        """What of the objective depends on the step, in the first so many of all steps; nothing by default.

        A run goes on to more steps only if this stays as it was in the steps that are done.
        """
        return None

    @classmethod
    @abstractmethod
    def make(cls, config: Any, materials: Materials) -> Self:
        """The objective of a config. Raises ValueError for data that it cannot be trained on."""

    def prepare(self, hypernetwork: Hypernetwork) -> None:
        """Sets what a fresh hypernetwork needs before its first step; nothing by default."""
        return None

    def row_counts(self) -> list[int] | None:
        """Training examples of each task to draw from; None if it looks at no examples."""
        return None

    @abstractmethod
    def losses(self, hypernetwork: Hypernetwork, batch: Batch, weights: LoraWeights) -> Generator[Term, None, None]:
        """The terms of a step's loss.

        Args:
            hypernetwork: without data-parallel wrapper, for its spec and statistics.
            weights: the batch's adapters, A [tasks, layers, rank, d_in] and B [tasks, layers, d_out, rank] at raw scale;
                leaves that collect gradients.
        """

    def distance(self, hypernetwork: Hypernetwork, predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, ""]:
        """How far generated adapters are from trained ones, for validation; for objectives that need a library."""
        raise NotImplementedError(f"{type(self).__name__} compares no adapters")
