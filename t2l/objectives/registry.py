"""Which objective a config is of."""

from __future__ import annotations

from typing import Any

from t2l.objectives.reconstruction import ReconstructionConfig, ReconstructionObjective
from t2l.objectives.sft import SftConfig, SftObjective

OBJECTIVES: dict[type, type[SftObjective] | type[ReconstructionObjective]] = {
    SftConfig: SftObjective,
    ReconstructionConfig: ReconstructionObjective,
}


def objective_of(config: Any) -> type[SftObjective] | type[ReconstructionObjective]:
    """The objective that a config is of. Raises ValueError where it is none, or of a kind that there is not."""
    if type(config) not in OBJECTIVES:
        raise ValueError(
            f"objective: there is none for the config {type(config).__name__}; choose one, like objective=sft"
        )
    return OBJECTIVES[type(config)]
