"""Which step of a run is the best so far, by which number, and when there is no hope of a better one.

The state is part of every checkpoint's record, so that a run that was killed goes on to choose what an uninterrupted one
chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from t2l.run.overview import HIGHER

SELECT_BY = ("validation/loss", "validation/score", "validation/distance")
"""what a checkpoint can be chosen by: loss (nats per token) and distance (that of the reconstruction loss) are best when
small, a score when large"""


@dataclass(frozen=True)
class Selection:
    """The choice of a run's best checkpoint, as far as training has come."""

    by: str
    """name of the metric, one of SELECT_BY"""
    on: Mapping[str, Any] = field(default_factory=dict)
    """what was validated on: tasks, rows and where descriptions come from, by part"""
    best_step: int | None = None
    best_value: float | None = None
    validations: int = 0
    """how many steps there were to choose from"""
    since_best: int = 0
    """validations since the best one"""

    def after(self, step: int, metrics: Mapping[str, float]) -> Selection:
        """The choice when a step was validated, too; of equals the earlier one stays. A value that is no number never wins."""
        value = metrics[self.by]
        seen = replace(self, validations=self.validations + 1)
        if math.isfinite(value) and (self.best_value is None or self._is_better(value)):
            return replace(seen, best_step=step, best_value=value, since_best=0)
        return replace(seen, since_best=self.since_best + 1)

    def _is_better(self, value: float) -> bool:
        assert self.best_value is not None
        return value > self.best_value if self.by in HIGHER else value < self.best_value

    def is_over(self, patience: int | None) -> bool:
        """Whether training should end early: so many validations have brought nothing better."""
        return patience is not None and self.since_best >= patience

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Selection:
        """The choice that `to_json` described."""
        return cls(**data)

    def text(self, step: int, last: int) -> str:
        """How the checkpoint of a step came to be chosen, in words.

        Args:
            last: the last step of the run that there is.
        """
        if self.best_step is None or self.best_value is None:
            return f"the last, step {step}: {self.by} was never a number in {self.validations} validations"
        value, where = f"{self.by} {self.best_value:.4g}", self._where()
        if step == self.best_step:
            return f"the best by {value} of {self.validations} validations on {where}, step {step} (the last is step {last})"
        which = "the last" if step == last else "one that validation did not choose"
        return f"{which}, step {step} (the best by {value} on {where} is step {self.best_step})"

    def _where(self) -> str:
        parts = [f"{p['rows']} rows of {p['tasks']} tasks ({name.replace('_', ' ')})" for name, p in self.on.items()]
        return " and ".join(parts) or "rows that are not recorded"
