"""Times contenders side by side, and tells how much memory a call takes at its peak.

A shared machine's speed drifts, so no single time means anything. Every round runs each contender once,
and a result is the median over rounds of a ratio taken within the round.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Call = Callable[[], object]
SHORTEST_S = 0.01
"""a contender quicker than this is called several times per round"""


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_now = CLOCKS["wall"]


def use_clock(name: str) -> None:
    """Chooses what is measured: wall-clock time, or this process's processor time.

    Processor time is what to look at where other work keeps taking the processors away; it needs one
    thread (waiting threads count) and says nothing about a disk or a GPU.
    """
    global _now
    _now = CLOCKS[name]


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _now()


def _seconds(call: Call, calls: int, device: torch.device) -> float:
    start = clock(device)
    for _ in range(calls):
        call()
    return (clock(device) - start) / calls


class Rounds:
    """Runs contenders in turn, another one first in every round, and keeps seconds per call."""

    def __init__(self, contenders: Mapping[str, Call], device: torch.device) -> None:
        self.contenders, self.device = dict(contenders), device
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}
        self._calls: dict[str, int] = {}

    def warm_up(self) -> None:
        """Calls everyone once, quick ones twice; the last call decides how many make one measurement."""
        for name, call in self.contenders.items():
            seconds = _seconds(call, 1, self.device)
            if seconds < 1:
                seconds = _seconds(call, 1, self.device)
            self._calls[name] = max(1, math.ceil(SHORTEST_S / max(seconds, 1e-7)))

    def round(self) -> None:
        """One measurement of everyone."""
        names = list(self.contenders)
        shift = len(self.seconds[names[0]]) % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            self.seconds[name].append(_seconds(self.contenders[name], self._calls[name], self.device))


def interleave(
    contenders: Mapping[str, Call], device: torch.device, rounds: int, budget_s: float = math.inf
) -> dict[str, list[float]]:
    """Seconds per call of each contender in each round.

    Args:
        rounds: most rounds.
        budget_s: after this long no new round starts, but three are always run (or `rounds`, if fewer).
    """
    turns = Rounds(contenders, device)
    turns.warm_up()
    start = clock(device)
    for done in range(rounds):
        if done >= 3 and clock(device) - start > budget_s:
            break
        turns.round()
    return turns.seconds


def interleave_loop(
    name: str, loop: Callable[[Call], object], others: Mapping[str, Call], device: torch.device
) -> dict[str, list[float]]:
    """Times a training loop that cannot be called one step at a time, against other contenders.

    Whenever a step of the loop begins, the other contenders take their turn. From there to the beginning
    of the next step is one whole step of the real loop: update, logging and all. The first one warms up.

    Args:
        name: what the loop is called among the contenders.
        loop: runs the loop; it must call its argument once at the beginning of every step.
    """
    turns, own, resumed = Rounds(others, device), list[float](), list[float]()

    def mark() -> None:
        if not resumed:
            turns.warm_up()
        else:
            own.append(clock(device) - resumed[-1])
            turns.round()
        resumed.append(clock(device))

    loop(mark)
    return {name: own[1:], **{other: seconds[1:] for other, seconds in turns.seconds.items()}}


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most bytes of tensors alive during a call, beyond those alive before it.

    On CUDA the allocator's own count. On CPU the profiler's record of every allocation, which no other
    process disturbs; it does not see what libraries allocate by themselves (packing buffers of a matmul).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted(
        (e["ts"], e["args"]["Total Allocated"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"
    )
    if not changes:
        return 0
    before = changes[0][1] - changes[0][2]
    return max(0, max(total for _, total, _ in changes) - before)


def flops(call: Call) -> int:
    """Floating-point operations of the matrix products and attentions in a call: the same on every machine."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
