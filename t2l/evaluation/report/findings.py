"""Everything that an evaluation found, ready to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2l.evaluation.board import Cell
from t2l.evaluation.contenders.generated import CONTROLS
from t2l.tasks.manifest import Overlap


@dataclass(frozen=True)
class Findings:
    """Everything that an evaluation found, ready to be written."""

    cells: Sequence[Cell]
    metric: str
    samples: int
    seed: int
    costs: Sequence[Mapping[str, Any]] = ()
    identities: Mapping[str, Any] = field(default_factory=dict)
    """per contender, what each of its runs is (`identity.identity`)"""
    overlaps: Sequence[Overlap] = ()
    shows_description: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    robustness: Mapping[str, Any] = field(default_factory=dict)
    """rows of `robustness.robustness`, by kind"""
    confidence: Mapping[str, Any] = field(default_factory=dict)
    """per generated contender: what `calibration.calibrate` found"""
    map: Mapping[str, Any] = field(default_factory=dict)
    """per generated contender: points of `adapter_map`"""

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in order."""
        return list(dict.fromkeys(c.split for c in self.cells))

    @property
    def contenders(self) -> list[str]:
        """Names of the contenders, in order."""
        return list(dict.fromkeys(c.contender for c in self.cells))

    @property
    def by_key(self) -> dict[tuple[str, str], Cell]:
        """Cells by contender and split."""
        return {(c.contender, c.split): c for c in self.cells}

    @property
    def generated(self) -> list[str]:
        """Contenders that have controls."""
        names = set(self.contenders)
        return [c for c in self.contenders if any(f"{c}_{control}" in names for control in CONTROLS)]


def closest_controls(controls: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """By contender and split, the control that the contender is least surely above.

    Args:
        controls: rows of `report.control_differences`.
    """
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in controls:
        other = found.setdefault((row["contender"], row["split"]), row)
        if row["ci95"][0] < other["ci95"][0]:
            found[row["contender"], row["split"]] = row
    return found
