"""Means and differences with intervals that carry every source of chance: seeds, tasks and examples.

Scores are an array [seeds, tasks, examples]: the same tasks and examples answered by adapters from
hypernetworks trained under several seeds (one for contenders without any). Seeds and tasks are crossed,
examples lie within tasks.

Resampling tasks and then examples within them counts the chance of examples twice, because a task's
mean already holds it (Davison & Hinkley 1997, section 3.8). Here each level is resampled on its own, with
deviations shrunk to that level's own share of the variance and corrected for small numbers, and the
levels' deviations are added: the variance of a replicate is the unbiased estimate of the mean's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from t2l.seeding import generator_for


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and what it is over."""

    mean: float
    low: float
    high: float
    n_tasks: int
    n_examples: int
    n_seeds: int = 1

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves zero out (of use if this is a difference)."""
        return not self.low <= 0 <= self.high

    def __neg__(self) -> Estimate:
        """Of a difference, the same one the other way round."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)

    def row(self, name: str) -> dict[str, Any]:
        """What a row of a report holds of it; `name` says what the mean is called there."""
        numbers = {name: round(self.mean, 6), "ci95": [round(self.low, 6), round(self.high, 6)]}
        return {**numbers, "n_tasks": self.n_tasks, "n_examples": self.n_examples, "n_seeds": self.n_seeds}


@dataclass(frozen=True)
class Scores:
    """Scores of one contender on one split; unequal numbers of examples are padded, `counts` says how many are real."""

    values: Float[np.ndarray, "seeds tasks examples"]
    counts: Int[np.ndarray, " tasks"]

    @classmethod
    def of(cls, scores: Sequence[Sequence[Sequence[float]]]) -> Scores:
        """From nested lists, seeds by tasks by examples.

        Raises ValueError if there is no task, a task has no score, or seeds differ in shape.
        """
        if not scores or not scores[0] or any(not task for seed in scores for task in seed):
            raise ValueError("every task needs at least one score")
        counts = [len(task) for task in scores[0]]
        if any([len(task) for task in seed] != counts for seed in scores):
            raise ValueError("the seeds of a contender did not answer the same examples")
        values = np.zeros((len(scores), len(counts), max(counts)))
        for s, seed in enumerate(scores):
            for t, task in enumerate(seed):
                values[s, t, : len(task)] = task
        return cls(values, np.asarray(counts))

    def __sub__(self, other: Scores) -> Scores:
        """Differences on the same examples; one seed of a side is paired with every seed of the other.

        Raises ValueError if the examples, or the numbers of seeds, do not match.
        """
        if not np.array_equal(self.counts, other.counts):
            raise ValueError("they did not answer the same examples")
        if 1 not in (len(self.values), len(other.values)) and len(self.values) != len(other.values):
            raise ValueError(f"{len(self.values)} seeds cannot be paired with {len(other.values)}")
        return Scores(self.values - other.values, self.counts)

    def scaled(self, factor: float) -> Scores:
        """Every score times a factor."""
        return Scores(self.values * factor, self.counts)

    def task_means(self) -> Float[np.ndarray, "seeds tasks"]:
        """Mean of each task's examples."""
        return self.values.sum(axis=2) / self.counts


def _expansion(count: int) -> float:
    """What makes an interval from `count` resampled values as wide as Student's t and an unbiased variance ask."""
    from scipy.stats import norm, t

    return math.sqrt(count / (count - 1)) * t.ppf(0.975, count - 1) / norm.ppf(0.975)


def _own_share(total: float, below: float) -> float:
    """Factor on deviations that leaves a level its own variance, given the variance and what lower levels add to it."""
    return math.sqrt(max(0.0, 1 - below / total)) if total > 0 else 0.0


def _deviations(scores: Scores, samples: int, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """Replicates of the mean minus the mean."""
    seeds, tasks, width = scores.values.shape
    means = scores.task_means()
    task_means, seed_means, grand = means.mean(axis=0), means.mean(axis=1), means.mean()
    real = np.arange(width) < scores.counts[:, None]
    residuals = np.where(real, scores.values.mean(axis=0) - task_means[:, None], 0.0)
    degrees = np.maximum(scores.counts - 1, 1)
    noise = (residuals**2).sum(axis=1) / degrees / scores.counts  # variance of each task's mean, by its examples
    drawn = rng.integers(tasks, size=(samples, tasks))
    total = np.zeros(samples)
    if tasks > 1:
        share = _own_share(task_means.var(ddof=1), noise.mean())
        total += _expansion(tasks) * share * (task_means[drawn] - grand).mean(axis=1)
    position = (rng.random((samples, tasks, width)) * scores.counts[drawn][..., None]).astype(np.int64)
    kept = np.arange(width) < scores.counts[drawn][..., None]
    resampled = np.where(kept, residuals[drawn[..., None], position], 0.0).sum(axis=2) / scores.counts[drawn]
    total += (resampled * np.sqrt(scores.counts / degrees)[drawn]).mean(axis=1)
    if seeds > 1:
        interaction = means - seed_means[:, None] - task_means[None] + grand
        below = (interaction**2).sum() / ((seeds - 1) * max(1, tasks - 1)) / tasks
        spread = seed_means.std(ddof=1) * _own_share(seed_means.var(ddof=1), below)
        # A bootstrap of three values has hardly any replicates; Student's t has the right width.
        total += spread / math.sqrt(seeds) * rng.standard_t(seeds - 1, size=samples)
    return total


def estimate(scores: Scores, samples: int, seed: int, key: str, bounds: tuple[float, float] | None = None) -> Estimate:
    """Mean over seeds and tasks of the mean over a task's examples, with its bootstrap interval.

    The interval runs from the 2.5th to the 97.5th percentile of the replicates.

    Args:
        samples: bootstrap replicates.
        seed, key: fix the draws.
        bounds: between which a mean must lie; the interval is cut there.
    """
    mean = float(scores.task_means().mean())
    low, high = mean + np.percentile(_deviations(scores, samples, generator_for("bootstrap", seed, key)), [2.5, 97.5])
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    seeds, tasks, _ = scores.values.shape
    return Estimate(mean, float(low), float(high), tasks, int(scores.counts.sum()), seeds)


def recovered_fraction(
    generated: Scores, base: Scores, oracle: Scores, samples: int, seed: int, key: str
) -> Estimate | None:
    """(generated - base) / (oracle - base): how much of what training gains, generation gains.

    The interval is that of the ratio linearised at its value (Fieller's, to first order). None if the
    oracle is not distinguishable from the base, or below it: there is then nothing to recover.
    """
    gain = estimate(oracle - base, samples, seed, f"{key}:gain")
    if gain.low <= 0:
        return None
    ratio = float((generated - base).task_means().mean()) / gain.mean
    residual = ((generated - base) - (oracle - base).scaled(ratio)).scaled(1 / gain.mean)
    e = estimate(residual, samples, seed, key)
    return Estimate(ratio, ratio + e.low, ratio + e.high, e.n_tasks, e.n_examples, e.n_seeds)
