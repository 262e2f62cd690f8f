"""Schedules of the learning rate."""

from __future__ import annotations


def linear_schedule(
    step: int, steps: int, warmup_fraction: float, warmup_steps: int | None = None, falls: bool = True
) -> float:
    """Factor on the peak learning rate: linear rise, then linear fall to zero at `steps`.

    Args:
        warmup_steps: over which the rate rises, instead of `warmup_fraction` of all steps.
        falls: whether the rate falls after the rise; else it stays.
    """
    warmup = warmup_steps or max(1, round(steps * warmup_fraction))
    rise, fall = (step + 1) / warmup, (steps - step) / max(1, steps - warmup)
    return min(1.0, rise, fall) if falls else min(1.0, rise)
