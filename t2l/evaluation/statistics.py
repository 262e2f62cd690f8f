"""Means with bootstrap intervals over tasks and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2l.seeding import generator_for


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and what it is over."""

    mean: float
    low: float
    high: float
    n_tasks: int
    n_examples: int


def bootstrap_mean(scores: Sequence[Sequence[float]], samples: int, seed: int, key: str) -> Estimate:
    """Mean over tasks of the mean over a task's examples, with a hierarchical bootstrap interval.

    Each replicate draws tasks with replacement, then examples with replacement within each drawn task;
    the interval is the 2.5th to 97.5th percentile of the replicates' means. For a paired difference pass
    the examples' differences.

    Args:
        scores: per task, one score per example.
        samples: bootstrap replicates.
        seed, key: fix the draws.

    Raises ValueError where there is no task, or a task without scores.
    """
    if not scores or any(len(s) == 0 for s in scores):
        raise ValueError("every task needs at least one score")
    rng = generator_for("bootstrap", seed, key)
    replicates = np.empty(samples)
    arrays = [np.asarray(s, dtype=float) for s in scores]
    for i in range(samples):
        drawn = rng.integers(len(arrays), size=len(arrays))
        replicates[i] = np.mean([a[rng.integers(len(a), size=len(a))].mean() for a in (arrays[d] for d in drawn)])
    low, high = np.percentile(replicates, [2.5, 97.5])
    mean = float(np.mean([a.mean() for a in arrays]))
    return Estimate(mean, float(low), float(high), len(arrays), sum(len(a) for a in arrays))
