"""Injection: what does an adapter of its own for every row cost a linear layer, forward and backward?

The bare layer passes gradients to its input. Injection also makes the gradients of every row's A and B.
The per-token formulation does the same sums after gathering A and B once per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from experiments.speed.case import Case, Target
from experiments.speed.timing import interleave, peak_bytes
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup, inject

MOST_GATHERED = 2**28
"""values that the per-token formulation may gather; above, it is left out"""


@dataclass(frozen=True)
class Setting:
    """A linear layer width x width on rows of tokens, one adapter per row."""

    width: int
    rows: int
    tokens: int
    rank: int
    dtype: str = "float32"


PAPER = Setting(1024, 16, 128, 8)
SCALES: dict[str, tuple[Setting, dict[str, tuple[int, ...]], int]] = {
    "toy": (Setting(32, 4, 4, 2), {"rank": (2, 4)}, 2),
    "cpu": (PAPER, {"tokens": (16, 64, 256, 512), "rank": (2, 32, 64), "width": (256, 512, 2048), "rows": (4, 64)}, 15),
    "cuda": (Setting(4096, 16, 512, 8, "bfloat16"), {"tokens": (64, 128, 1024), "rank": (2, 32, 64)}, 30),
}


def _contenders(s: Setting, device: torch.device) -> dict[str, Callable[[], None]]:
    dtype = getattr(torch, s.dtype)
    torch.manual_seed(0)
    model = nn.ModuleDict({"linear": nn.Linear(s.width, s.width, bias=False)}).to(device, dtype).requires_grad_(False)
    linear = model["linear"]
    x = torch.randn(s.rows, s.tokens, s.width, device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn_like(x)
    A = torch.randn(s.rows, 1, s.rank, s.width, device=device, dtype=dtype, requires_grad=True)
    B = torch.randn(s.rows, 1, s.width, s.rank, device=device, dtype=dtype, requires_grad=True)
    spec = LoraSpec((ModuleGroup("linear", "linear", s.width, s.width, (0,), ("linear",)),), s.rank, 2.0 * s.rank)
    weights = LoraWeights({"linear": A}, {"linear": B})
    row_of_token = torch.arange(s.rows, device=device).repeat_interleave(s.tokens)

    def backward(y: torch.Tensor) -> None:
        y.backward(gradient)
        x.grad = A.grad = B.grad = None

    def bare() -> None:
        backward(linear(x))

    def injected() -> None:
        with inject(model, spec, weights):
            backward(linear(x))

    def per_token() -> None:
        down = torch.bmm(A[row_of_token, 0], x.reshape(-1, s.width, 1))
        delta = torch.bmm(B[row_of_token, 0], down)
        backward(linear(x) + spec.scaling * delta.reshape(x.shape))

    found = {"bare": bare, "injected": injected}
    if 2 * s.rows * s.tokens * s.rank * s.width <= MOST_GATHERED:
        found["per_token"] = per_token
    return found


def _with(setting: Setting, variable: str, value: int) -> Setting:
    changed: dict[str, Any] = {variable: value}
    return replace(setting, **changed)


def run(scale: str, device: torch.device) -> list[Case]:
    """The layer at its main setting and over sweeps of one size at a time."""
    main, sweeps, rounds = SCALES[scale]
    settings: list[tuple[Setting, dict[str, float]]] = [(main, {k: getattr(main, k) for k in sweeps})]
    settings += [(_with(main, k, v), {k: v}) for k, values in sweeps.items() for v in values]
    cases = []
    for setting, points in settings:
        is_main = setting == main
        contenders = _contenders(setting, device)
        name = f"injection {setting.rows} rows x {setting.tokens} tokens, width {setting.width}, rank {setting.rank}"
        cases.append(
            Case(
                name,
                asdict(setting),
                "bare",
                interleave(contenders, device, rounds if is_main else min(rounds, 9), budget_s=10 if is_main else 3),
                {k: peak_bytes(call, device) for k, call in contenders.items()} if is_main else {},
                [Target("injected", "bare", at_most=1.25)] if is_main and scale != "toy" else [],
                sweeps=points,
            )
        )
    return cases
