"""Training objectives, one file each: config, loss and its equation. `Objective.make` makes one from its config."""

from __future__ import annotations

from typing import Any

from t2l.objectives.interface import Materials, Objective, Term
from t2l.objectives.reconstruction import ReconstructionConfig, ReconstructionObjective
from t2l.objectives.sft import SftConfig, SftObjective
from t2l.objectives.steps import Steps
from t2l.registry import component_of


def objective_of(config: Any) -> type[Objective]:
    """The class of a config's objective. Raises ValueError if there is none."""
    return component_of("objective", config).make


__all__ = [
    "Materials", "Objective", "ReconstructionConfig", "ReconstructionObjective", "SftConfig", "SftObjective", "Steps",
    "Term", "objective_of",
]  # fmt: skip
