"""What every adaptation method offers: attach it fresh to a frozen base, train it, save it, restore it.

    with method.attach(base, seed) as attached:       # a fresh one; the base is bare again afterwards
        loss(attached.model(**batch).logits).backward()
    with method.restore(base, folder) as attached:    # a saved one
        attached.model.generate(**prompt)

A method never changes the base's own parameters, and while it is attached nobody else should use the base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from t2l.base_model import BaseModel, BaseModelConfig
from t2l.base_model.targets import select_targets
from t2l.checks import at_least, in_range, positive
from t2l.files import read_tensors, write_tensors
from t2l.lora.peft_folder import check_keys
from t2l.registry import component_of


@dataclass
class OptimizationConfig:
    """How one task's parameters are trained, by any method."""

    steps: int = 150
    """optimiser steps per task"""
    rows_per_task: int = 8
    """examples per step"""
    lr: float = 0.01
    """peak learning rate of AdamW"""
    warmup_fraction: float = 0.1
    """part of the steps over which the learning rate rises; it then falls linearly to zero"""
    weight_decay: float = 0.0
    """decoupled weight decay"""
    clip: float = 1.0
    """largest gradient norm"""
    max_length: int = 512
    """longest sequence in tokens; user turns lose their beginning"""
    check_every: int | None = None
    """steps between looks at the task's validation rows, of which the best weights are kept; None: never, the last are"""
    patience: int | None = None
    """looks without a better validation loss that end training; None: it goes on to the last step"""

    def __post_init__(self) -> None:
        under = "method.optimization"
        at_least(self, 1, "steps", "rows_per_task", "max_length", "check_every", "patience", under=under)
        positive(self, "lr", "clip", under=under)
        in_range(self, "[0, 1)", "warmup_fraction", under=under)
        at_least(self, 0, "weight_decay", under=under)
        if self.patience is not None and self.check_every is None:
            raise ValueError("method.optimization.patience counts looks at validation rows: set check_every, too")


@dataclass
class MethodConfig:
    """What the configs of all methods share."""

    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    """how its parameters are trained"""


@dataclass(frozen=True)
class Attached:
    """A base model with a method on it.

    `model` is called and generates like a causal LM; its logits may be preceded by those of virtual
    tokens, so the last `length` positions are the input's. `trainable` are the method's parameters by name
    (of a fresh one; a restored one is there to answer).
    """

    model: Any
    trainable: Mapping[str, nn.Parameter]

    @property
    def parameter_count(self) -> int:
        """Number of values that training may change."""
        return sum(p.numel() for p in self.trainable.values())

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the input's positions, [rows, length, vocabulary]."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.logits[:, -input_ids.shape[1] :]


C = TypeVar("C", bound=MethodConfig)


class Method(ABC, Generic[C]):
    """One way of adapting a frozen base to one task."""

    by_library: ClassVar[bool] = False
    """whether the library's own trainer trains it (`library/training.py`), so that it is never attached here"""
    weights_file: ClassVar[str]
    """the file in a saved folder whose size is the adapter's size"""

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """As in `method=NAME` and in the contender `oracle_NAME`."""
        return component_of("method", self.config).name

    def settings(self) -> dict[str, Any]:
        """The config as a JSON-able dict; without what is None by default and was not set, as before it could be."""
        settings = asdict(self.config)
        settings["optimization"] = {k: v for k, v in settings["optimization"].items() if v is not None}
        return settings

    def base_config(self, config: BaseModelConfig) -> BaseModelConfig:
        """How the base must be loaded for this method."""
        return config

    @abstractmethod
    def attach(self, base: BaseModel, seed: int) -> AbstractContextManager[Attached]:
        """A fresh one, its initial values from the seed. Raises ValueError if it does not fit the base."""

    @abstractmethod
    def restore(self, base: BaseModel, folder: Path) -> AbstractContextManager[Attached]:
        """A saved one. Raises ValueError (or FileProblemError) if any key or shape is not this method's."""

    @abstractmethod
    def save(self, attached: Attached, folder: Path) -> None:
        """Writes what `restore` needs into an empty folder."""

    def optimizer(self, attached: Attached) -> torch.optim.Optimizer:
        """AdamW; the learning rates of its groups are their peaks."""
        how = self.config.optimization
        return torch.optim.AdamW(attached.trainable.values(), lr=how.lr, weight_decay=how.weight_decay)

    def penalty(self, attached: Attached) -> Tensor | float:
        """What is added to the cross-entropy."""
        return 0.0

    def may_stop_after(self, step: int) -> bool:
        """Whether what there is after a step (counted from 0) may be kept as the result."""
        return True

    def after_step(self, attached: Attached, step: int) -> None:
        """Called after each optimiser step (counted from 0), while the gradients are still there."""


class TensorMethod(Method[C]):
    """A method whose saved folder holds its trained values in one safetensors file."""

    weights_file = "method.safetensors"

    @contextmanager
    def restore(self, base: BaseModel, folder: Path) -> Iterator[Attached]:
        """A fresh one with the saved values, strictly; they are not trained further."""
        tensors = read_tensors(folder / self.weights_file)
        with self.attach(base, 0) as attached:
            fill_strictly(attached.trainable, tensors, folder)
            for parameter in attached.trainable.values():
                parameter.requires_grad_(False)
            yield attached

    def save(self, attached: Attached, folder: Path) -> None:
        """Every trained value, once."""
        write_tensors(folder / self.weights_file, attached.trainable)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators start from the seed inside the block and are as before after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def linear_paths(
    model: nn.Module, names: Sequence[str], key: str = "target_modules", layers: Sequence[int] | None = None
) -> list[str]:
    """Full paths of the linear modules with one of these names inside numbered layers (or the given ones), sorted.

    Raises ValueError for a name that no linear layer has, or a layer that is not there; the message
    lists what there is.
    """
    return sorted(t.path for t in select_targets(model, names, layers, f"method.{key}"))


@torch.no_grad()
def fill_strictly(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copies saved tensors into parameters. Raises ValueError for a key too few or too many, or another shape or type."""
    check_keys(folder, tensors, parameters)
    for name, parameter in parameters.items():
        saved = tensors[name]
        if (saved.shape, saved.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(
                f"{folder}: {name!r} is {tuple(saved.shape)} {saved.dtype}, "
                f"this base needs {tuple(parameter.shape)} {parameter.dtype}"
            )
        parameter.copy_(saved)


def check_targets(names: Sequence[str]) -> None:
    """Raises ValueError for an empty list of target modules."""
    if not names:
        raise ValueError("method.target_modules is empty: name at least one linear module, like q_proj")
