"""What a benchmark measured: cases with their contenders, ratios, peak memory, targets and checks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound on time(contender) / time(against): at most, or at least, this much."""

    contender: str
    against: str
    at_most: float | None = None
    at_least: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether a measured ratio keeps the bound."""
        return (self.at_most is None or ratio <= self.at_most) and (self.at_least is None or ratio >= self.at_least)


@dataclass(frozen=True)
class Case:
    """One setting of a benchmark.

    `seconds[c][i]` is contender c's time per call in round i. Ratios are taken to `reference`, round by
    round. `sweeps` has the value of every size whose sweep the case is a point of.
    """

    name: str
    setting: Mapping[str, Any]
    reference: str
    seconds: Mapping[str, Sequence[float]]
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)
    sweeps: Mapping[str, float] = field(default_factory=dict)

    def ratios(self, contender: str, against: str) -> list[float]:
        """time(contender) / time(against) in every round."""
        return [a / b for a, b in zip(self.seconds[contender], self.seconds[against], strict=True)]

    def ratio(self, contender: str, against: str) -> float:
        """Their median."""
        return statistics.median(self.ratios(contender, against))

    def to_json(self) -> dict[str, Any]:
        """The case as a JSON-able dict."""
        contenders = {}
        for name, seconds in self.seconds.items():
            low, middle, high = _quartiles(self.ratios(name, self.reference))
            contenders[name] = {
                "ratio": round(middle, 5),
                "ratio_quartiles": [round(low, 5), round(high, 5)],
                "time_s": float(f"{statistics.median(seconds):.4g}"),
                "peak_bytes": self.peak_bytes.get(name),
            }
        targets = []
        for t in self.targets:
            ratio = self.ratio(t.contender, t.against)
            bound = {"at_most": t.at_most} if t.at_least is None else {"at_least": t.at_least}
            row = {"contender": t.contender, "against": t.against, **bound, "ratio": round(ratio, 5)}
            targets.append({**row, "met": t.met(ratio)})
        return {
            "name": self.name,
            "setting": dict(self.setting),
            "sweeps": dict(self.sweeps),
            "reference": self.reference,
            "rounds": len(next(iter(self.seconds.values()))),
            "contenders": contenders,
            "targets": targets,
            "checks": dict(self.checks),
        }


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, statistics.median(values), high


def case_line(case: Mapping[str, Any]) -> str:
    """A case's JSON as one line of text."""
    parts = []
    for name, c in case["contenders"].items():
        memory = "" if c["peak_bytes"] is None else f" {c['peak_bytes'] / 2**20:.1f} MiB"
        parts.append(f"{name} {c['ratio']:.3g}x{memory}")
    return f"{case['name']} (ratio to {case['reference']}): " + ", ".join(parts)


def target_line(target: Mapping[str, Any]) -> str:
    """A target's JSON as text: what was asked, what was measured, and the verdict."""
    bound = f"<= {target['at_most']}" if "at_most" in target else f">= {target['at_least']}"
    verdict = "met" if target["met"] else "MISSED"
    return f"{target['contender']} / {target['against']} = {target['ratio']:.3g} (target {bound}): {verdict}"
