"""What a metric is: it scores one answer against its reference, in [0, 1]. Each registers itself in its own file.

A metric carries probes: answers with the score they must get, the wrong way round among them, so that a metric
that ignores or swaps its arguments is refused before it scores anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from t2l.evaluation.metrics.code_runner import is_allowed
from t2l.registry import component
from t2l.tasks.suites.rows import canonical_metric

_KINDS = {"against": ("output", "tests"), "chooses": ("", "total", "per_byte")}


@dataclass(frozen=True)
class Probe:
    """What a metric must give for an answer and a reference."""

    answer: str
    reference: str
    score: float


class Metric(ABC):
    """How answers are scored, and how that is checked. A subclass says in its first line when it gives 1."""

    probes: ClassVar[tuple[Probe, ...]] = ()
    against: ClassVar[str] = "output"
    """what of an example answers are held against: output, or tests (assertions that right code passes)"""
    chooses: ClassVar[str] = ""
    """empty: the answer is what the model writes; total or per_byte: it is the likeliest of the question's choices, by
    their whole log-likelihood or by that per byte (Gao et al. 2021; acc and acc_bytes of the lm-evaluation-harness)"""
    runs_code: ClassVar[bool] = False
    """whether scoring runs the code that an answer holds, which `allow_code_execution` has to allow"""
    aliases: ClassVar[tuple[str, ...]] = ()
    """other names that published suites use"""

    def __init__(self, name: str) -> None:
        """`name` is what it is registered as. Raises ValueError if what the class says of itself is not possible."""
        self.name = name
        for key, allowed in _KINDS.items():
            if getattr(self, key) not in allowed:
                names = ", ".join(name or "''" for name in allowed)
                raise ValueError(f"metric {self.name!r}: {key} must be one of {names}, not {getattr(self, key)!r}")
        if not self.probes:
            raise ValueError(f"metric {self.name!r} has no probe")

    @abstractmethod
    def score(self, answer: str, reference: str) -> float:
        """The score of one answer."""

    def read_reference(self, reference: str) -> object:
        """Raises ValueError for a reference that no answer can be held against."""
        return reference

    def check(self) -> None:
        """Raises ValueError if a probe does not get its score."""
        for probe in self.probes:
            found = self.score(probe.answer, probe.reference)
            if abs(found - probe.score) > 1e-6:
                raise ValueError(
                    f"metric {self.name!r} gives {found:.3g} for answer {probe.answer!r} with reference "
                    f"{probe.reference!r}, it must give {probe.score:.3g}: are its arguments swapped?"
                )


_checked: set[str] = set()


@cache
def _made(kind: type[Metric], name: str) -> Metric:
    return kind(name)


def metric(name: str) -> Metric:
    """A metric by its name or an alias, checked when it is first asked for.

    The probes of a metric that runs code are code, too: it is checked when running code is first allowed.

    Raises ValueError with the names there are, or if it fails a probe.
    """
    known = canonical_metric(name)
    found = _made(component("metric", known).make, known)
    if known not in _checked and (is_allowed() or not found.runs_code):
        found.check()
        _checked.add(known)
    return found
