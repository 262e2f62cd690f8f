"""Training objectives, one file each: config, loss and its equation. `Objective.make` makes one from its config."""

from __future__ import annotations

from typing import Any

from t2l.objectives.interface import Materials, Needs, Objective, Term
from t2l.objectives.joint import JointConfig, JointObjective, part_of
from t2l.objectives.reconstruction import ReconstructionConfig, ReconstructionObjective
from t2l.objectives.sft import SftConfig, SftObjective
from t2l.objectives.steps import Steps
from t2l.registry import component_of


def objective_of(config: Any) -> type[Objective]:
    """The class of a config's objective. Raises ValueError if there is none."""
    return component_of("objective", config).make


def needs_of(config: Any) -> Needs:
    """What the objective of a config needs. Raises ValueError if there is none."""
    return objective_of(config).needs_of(config)


def name_of(config: Any) -> str:
    """What checkpoints and reports call an objective: its config's `name` or, without one, that of its component."""
    return str(getattr(config, "name", component_of("objective", config).name))


__all__ = [
    "JointConfig", "JointObjective", "Materials", "Needs", "Objective", "ReconstructionConfig", "ReconstructionObjective",
    "SftConfig", "SftObjective", "Steps", "Term", "name_of", "needs_of", "objective_of", "part_of",
]  # fmt: skip
