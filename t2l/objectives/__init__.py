"""Training objectives, one file each: config, loss and its equation."""

from __future__ import annotations

from t2l.objectives.interface import Objective
from t2l.objectives.reconstruction import ReconstructionConfig, ReconstructionObjective
from t2l.objectives.registry import objective_of
from t2l.objectives.sft import SftConfig, SftObjective

__all__ = [
    "Objective",
    "ReconstructionConfig",
    "ReconstructionObjective",
    "SftConfig",
    "SftObjective",
    "objective_of",
]
