"""Full fine-tuning: every parameter, on a copy of the base."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from t2l.base_model import BaseModel
from t2l.methods.interface import Attached, MethodConfig, TensorMethod
from t2l.registry import register


@dataclass
class FullFineTuningConfig(MethodConfig):
    """Full fine-tuning."""


@register("method", "full_fine_tuning", FullFineTuningConfig)
class FullFineTuning(TensorMethod[FullFineTuningConfig]):
    """Every parameter of a copy of the base; tied matrices stay tied and count once.

    Starts as the base. Takes the memory of a second model, and its saved folder has the size of one.
    """

    @contextmanager
    def attach(self, base: BaseModel, seed: int) -> Iterator[Attached]:
        """A copy of the base, all of it trainable. Raises ValueError for a quantised base."""
        if not all(p.is_floating_point() for p in base.model.parameters()):
            raise ValueError("method=full_fine_tuning cannot train a quantised base: use base_model.quantization=none")
        model = copy.deepcopy(base.model).requires_grad_(True)
        yield Attached(model, dict(model.named_parameters()))
