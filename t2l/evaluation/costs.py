"""What a contender's adapters cost, beside its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Means over the tasks of a library.

    `training_time_s` (seconds per task, one task after another) is None where it was not recorded.
    """

    trainable_parameters: float
    training_time_s: float | None
    adapter_bytes: float
    n_tasks: int

    def row(self, contender: str) -> dict[str, Any]:
        """The costs as a row of report.json."""
        time = None if self.training_time_s is None else round(self.training_time_s, 3)
        return {
            "contender": contender,
            "trainable_parameters": round(self.trainable_parameters),
            "training_time_s": time,
            "adapter_bytes": round(self.adapter_bytes),
            "n_tasks": self.n_tasks,
        }


def mean_costs(records: Sequence[Mapping[str, Any]]) -> Costs:
    """Means over the provenance of tasks. Raises ValueError where there is none."""
    if not records:
        raise ValueError("a library without tasks has no costs: train it first")
    times = [r["training_time_s"] for r in records]
    return Costs(
        fmean(r["trainable_parameters"] for r in records),
        None if None in times else fmean(times),
        fmean(r["adapter_bytes"] for r in records),
        len(records),
    )


def collect_costs(contenders: Sequence[Any]) -> list[dict[str, Any]]:
    """A row for every contender that trained adapters."""
    return [c.costs().row(c.name) for c in contenders if hasattr(c, "costs")]


def cost_table(costs: Sequence[Mapping[str, Any]], scores: Mapping[tuple[str, str], float]) -> str:
    """Markdown table: costs of each contender, and its mean score on every split beside them."""
    splits = list(dict.fromkeys(split for _, split in scores))
    lines = [
        "| contender | trainable parameters | training time per task (s) | adapter bytes | "
        + " | ".join(splits)
        + " |",
        "|---|---|---|---|" + "---|" * len(splits),
    ]
    for c in costs:
        time = "" if c["training_time_s"] is None else f"{c['training_time_s']:.1f}"
        means = [f"{scores[c['contender'], s]:.2f}" if (c["contender"], s) in scores else "" for s in splits]
        lines.append(
            f"| {c['contender']} | {c['trainable_parameters']:,} | {time} | {c['adapter_bytes']:,} | "
            + " | ".join(means)
            + " |"
        )
    return "\n".join(lines)
