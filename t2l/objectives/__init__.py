"""Training objectives, one file each: config, loss and its equation. `build` makes one from its config."""

from __future__ import annotations

from typing import Any

from t2l.objectives.interface import Batch, Materials, Objective, Term
from t2l.objectives.reconstruction import ReconstructionConfig, ReconstructionObjective
from t2l.objectives.sft import SftConfig, SftObjective
from t2l.objectives.steps import Steps
from t2l.registry import component_of


def objective_of(config: Any) -> type[Objective]:
    """The class of a config's objective. Raises ValueError if there is none."""
    made: type[Objective] = component_of("objective", config).make
    return made


__all__ = [
    "Batch",
    "Materials",
    "Objective",
    "ReconstructionConfig",
    "ReconstructionObjective",
    "SftConfig",
    "SftObjective",
    "Steps",
    "Term",
    "objective_of",
]
