"""Schedules of the learning rate."""

from __future__ import annotations


def linear_schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Factor on the peak learning rate: linear rise, then linear fall to zero at `steps`."""
    warmup = max(1, round(steps * warmup_fraction))
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1, steps - warmup))
