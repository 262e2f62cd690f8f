"""Full fine-tuning: every parameter, on a copy of the base."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from t2l.base_model import BaseModel
from t2l.files import read_tensors, write_tensors
from t2l.methods.interface import Attached, Method, MethodConfig, fill_strictly
from t2l.registry import register


@dataclass
class FullFineTuningConfig(MethodConfig):
    """Full fine-tuning."""


@register("method", "full_fine_tuning", FullFineTuningConfig)
class FullFineTuning(Method[FullFineTuningConfig]):
    """Every parameter of a copy of the base; tied matrices stay tied and count once.

    Starts as the base. Takes the memory of a second model, and its saved folder has the size of one.
    """

    weights_file = "method.safetensors"

    @contextmanager
    def attach(self, base: BaseModel, seed: int) -> Iterator[Attached]:
        """A copy of the base, all of it trainable. Raises ValueError for a quantised base."""
        if not all(p.is_floating_point() for p in base.model.parameters()):
            raise ValueError("method=full_fine_tuning cannot train a quantised base: use base_model.quantization=none")
        model = copy.deepcopy(base.model).requires_grad_(True)
        yield Attached(model, dict(model.named_parameters()))

    @contextmanager
    def restore(self, base: BaseModel, folder: Path) -> Iterator[Attached]:
        """A copy of the base with the saved values, strictly."""
        tensors = read_tensors(folder / self.weights_file)
        with self.attach(base, 0) as attached:
            fill_strictly(attached.trainable, tensors, folder)
            attached.model.requires_grad_(False)
            yield attached

    def save(self, attached: Attached, folder: Path) -> None:
        """Every parameter, once, in one safetensors file."""
        write_tensors(folder / self.weights_file, attached.trainable)
