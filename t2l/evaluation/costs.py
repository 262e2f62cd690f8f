"""What a contender costs beside its score: once per adapter, and at every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import nn

from t2l.base_model.targets import linear_shape


@dataclass(frozen=True)
class Costs:
    """What a contender's adapters cost, once.

    `training_time_s` is seconds per task, one task after another; `generation_time_s` seconds per
    adapter, many at a time; None if there is none. `hypernetwork_parameters` is the number of those of the network that
    makes the adapters, and `hypernetwork_time_s` the seconds at work that trained it, up to the step that is scored, without
    what it was trained from (a library, another checkpoint); None if there is none, or its run kept no times.
    """

    trainable_parameters: float
    training_time_s: float | None
    adapter_bytes: float
    n_tasks: int
    generation_time_s: float | None = None
    hypernetwork_parameters: int | None = None
    hypernetwork_time_s: float | None = None


@dataclass(frozen=True)
class Making:
    """Seconds spent making adapters for a contender, and how many were made in them."""

    time_s: float = 0.0
    count: int = 0

    def __add__(self, other: Making) -> Making:
        return Making(self.time_s + other.time_s, self.count + other.count)

    @property
    def each_s(self) -> float | None:
        """Seconds per adapter; None if none was made."""
        return self.time_s / self.count if self.count else None


@dataclass(frozen=True)
class Usage:
    """What answering cost, per question: means over the questions of one or more cells.

    `flops` counts 2 per weight that a token passes (Kaplan et al. 2020, appendix on FLOPs): the base without
    its embedding, and a LoRA that is injected; attention scores are left out. Adapters of other methods, which are
    attached task by task, are not counted. Arrow is counted with the whole library: PEFT computes every adapter at every
    token, whatever the routing then weighs; its router counts as one adapter more. `time_s` is decoding in batches.
    """

    prompt_tokens: float
    answer_tokens: float
    flops: float
    time_s: float
    n_questions: int


def multiplied_weights(model: nn.Module) -> int:
    """Weights that every token is multiplied by: those of all linear layers, the output head among them.

    Counted by what a layer multiplies, not by how it is stored (4-bit layers, GPT-2's Conv1D).
    """
    shapes = (linear_shape(module) for module in model.modules())
    return sum(shape[0] * shape[1] for shape in shapes if shape is not None)


def mean_usage(usages: Sequence[Usage]) -> Usage | None:
    """Means weighted by questions; None if nothing was answered."""
    total = sum(u.n_questions for u in usages)
    if not total:
        return None

    def mean(key: str) -> float:
        return sum(getattr(u, key) * u.n_questions for u in usages) / total

    return Usage(mean("prompt_tokens"), mean("answer_tokens"), mean("flops"), mean("time_s"), total)


def mean_costs(records: Sequence[Mapping[str, Any]]) -> Costs:
    """Means over the provenance of tasks. Raises ValueError if there is none."""
    if not records:
        raise ValueError("a library without tasks has no costs: train it first")
    times = [r["training_time_s"] for r in records]
    return Costs(
        fmean(r["trainable_parameters"] for r in records),
        None if None in times else fmean(times),
        fmean(r["adapter_bytes"] for r in records),
        len(records),
    )


def _digits(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def cost_row(contender: str, costs: Costs | None, usage: Usage | None) -> dict[str, Any]:
    """A contender's costs as a row of report.json; None if it has none of a kind."""
    costs = costs or Costs(0, None, 0, 0)
    return {
        "contender": contender,
        "trainable_parameters": round(costs.trainable_parameters),
        "training_time_s": _digits(costs.training_time_s, 3),
        "generation_time_s": _digits(costs.generation_time_s, 6),
        "hypernetwork_parameters": costs.hypernetwork_parameters,
        "hypernetwork_time_s": _digits(costs.hypernetwork_time_s, 1),
        "adapter_bytes": round(costs.adapter_bytes),
        "n_tasks": costs.n_tasks,
        "prompt_tokens": _digits(usage.prompt_tokens, 2) if usage else None,
        "answer_tokens": _digits(usage.answer_tokens, 2) if usage else None,
        "flops_per_answer": round(usage.flops) if usage else None,
        "time_per_answer_s": _digits(usage.time_s, 6) if usage else None,
    }
