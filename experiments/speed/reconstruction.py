"""Reconstruction step: losses between adapters, forward and backward, with and without the products BA.

Factor-wise L1 and the squared Frobenius distance from Gram matrices never build a product; the paper's
L1 on products builds two of d_out x d_in for every layer. Also: does the Gram form give the right value?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from experiments.speed.case import Case, Target
from experiments.speed.timing import interleave, peak_bytes
from t2l.lora import LoraWeights
from t2l.objectives.losses import frobenius_distance, l1_distance

NEARNESS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""relative size of the difference between the adapters whose distance is checked"""


@dataclass(frozen=True)
class Setting:
    """Adapters of `layers` layers; `modules` maps a name to (d_in, d_out)."""

    name: str
    modules: Mapping[str, tuple[int, int]]
    layers: int
    batch: int
    rank: int = 8


MISTRAL = {"q_proj": (4096, 4096), "v_proj": (4096, 1024)}
SQUARE = {"linear": (1024, 1024)}
PRODUCT_COPIES = 4
"""products alive at once when their L1 is taken and differentiated, for the estimate of what fits"""


def _layers_that_fit(setting: Setting, device: torch.device) -> int:
    """As many of the setting's layers as half of the free memory holds with products built."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        import psutil

        free = psutil.virtual_memory().available
    each = PRODUCT_COPIES * 4 * setting.batch * sum(d_in * d_out for d_in, d_out in setting.modules.values())
    return max(1, min(setting.layers, free // 2 // each))


def settings(scale: str, device: torch.device) -> list[tuple[Setting, dict[str, float]]]:
    """Settings, each with the sizes whose sweep it is a point of."""
    if scale == "toy":
        return [(Setting("toy", {"linear": (24, 16)}, 2, 2, 2), {})]
    square, mistral = Setting("width 1024", SQUARE, 8, 8), Setting("Mistral-7B", MISTRAL, 32, 1)
    most = replace(mistral, layers=_layers_that_fit(mistral, device))
    found: list[tuple[Setting, dict[str, float]]] = [
        (square, {"rank": square.rank}),
        (most, {"layers": most.layers}),
    ]
    found += [(replace(mistral, layers=n), {"layers": n}) for n in (2, 8) if n < most.layers]
    return found + [(replace(square, rank=r), {"rank": r}) for r in (2, 32)]


def _pair(setting: Setting, device: torch.device) -> tuple[LoraWeights, LoraWeights]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(setting.batch, setting.layers, *shape, generator=generator).to(device)

    def weights() -> LoraWeights:
        return LoraWeights(
            {k: random(setting.rank, d_in) / d_in**0.5 for k, (d_in, _) in setting.modules.items()},
            {k: 0.1 * random(d_out, setting.rank) for k, (_, d_out) in setting.modules.items()},
        )

    predicted, target = weights(), weights()
    for t in predicted.tensors():
        t.requires_grad_(True)
    return predicted, target


def product_l1(predicted: LoraWeights, target: LoraWeights) -> Tensor:
    """Mean absolute difference of the products BA, built in full (Charakorn et al. 2025, eq. 3)."""
    total = torch.zeros((), device=predicted.tensors()[0].device)
    for k in predicted.A:
        total = total + (predicted.B[k] @ predicted.A[k] - target.B[k] @ target.A[k]).abs().mean()
    return total


def product_frobenius(predicted: LoraWeights, target: LoraWeights) -> Tensor:
    """Squared Frobenius distance of the products BA, built in full, per adapter."""
    return sum(
        ((predicted.B[k] @ predicted.A[k] - target.B[k] @ target.A[k]).square().sum(dim=(1, 2, 3)) for k in target.A),
        torch.zeros((), device=target.tensors()[0].device),
    )


def _relative_errors(dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, float]]:
    """Relative error of `frobenius_distance` between adapters that are more and more alike.

    The truth is the product form in float64 on the same (rounded) factors. *Near* adapters have near
    factors; *regauged* ones near products only, their factors being (B M^-1, M A).
    """
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)

    rank, width, errors = 8, 256, dict[str, dict[str, float]]()
    A, B = random(1, 2, rank, width) / 16, 0.1 * random(1, 2, width, rank)
    gauge = torch.eye(rank, dtype=torch.float64, device=device) + random(1, 2, rank, rank) / 8
    dA, dB = random(*A.shape) / 16, 0.1 * random(*B.shape)
    for nearness in NEARNESS:
        near = (A + nearness * dA, B + nearness * dB)
        for name, (a, b) in {"near": near, "regauged": (gauge @ near[0], near[1] @ torch.linalg.inv(gauge))}.items():
            one, two = (LoraWeights({"m": x.to(dtype)}, {"m": y.to(dtype)}) for x, y in ((A, B), (a, b)))
            truth = float(product_frobenius(one.to(torch.float64), two.to(torch.float64)))
            error = abs(float(frobenius_distance(one, two)) / truth - 1)
            errors.setdefault(name, {})[f"{nearness:g}"] = float(f"{error:.2g}")
    return errors


def _value_checks(device: torch.device) -> dict[str, object]:
    limits = {torch.float32: 1e-4, torch.float64: 1e-10}
    checks: dict[str, object] = {}
    for dtype, limit in limits.items():
        errors = _relative_errors(dtype, device)
        worst = max(e for by_nearness in errors.values() for e in by_nearness.values())
        name = str(dtype).removeprefix("torch.")
        checks[f"frobenius_relative_error_{name}"] = errors
        checks[f"frobenius_value_{name}"] = {"worst": worst, "at_most": limit, "met": worst <= limit}
    return checks


def _case(setting: Setting, sweeps: dict[str, float], is_main: bool, scale: str, device: torch.device) -> Case:
    predicted, target = _pair(setting, device)
    losses: dict[str, Callable[[LoraWeights, LoraWeights], Tensor]] = {
        "factor_l1": l1_distance, "gram_frobenius": frobenius_distance, "product_l1": product_l1,
    }  # fmt: skip

    def step(loss: Callable[[LoraWeights, LoraWeights], Tensor]) -> Callable[[], None]:
        def call() -> None:
            loss(predicted, target).mean().backward()
            for t in predicted.tensors():
                t.grad = None

        return call

    steps = {name: step(loss) for name, loss in losses.items()}
    modules = ", ".join(f"{k} {i}->{o}" for k, (i, o) in setting.modules.items())
    has_target = is_main and setting.modules == SQUARE
    return Case(
        f"reconstruction, {setting.name}: {setting.batch} adapters x {setting.layers} layers, rank {setting.rank}",
        {"modules": modules, "layers": setting.layers, "batch": setting.batch, "rank": setting.rank},
        "gram_frobenius",
        interleave(steps, device, 7 if is_main else 5, budget_s=15 if is_main else 5),
        {name: peak_bytes(call, device) for name, call in steps.items()} if is_main else {},
        [Target("product_l1", "gram_frobenius", at_least=200)] if has_target else [],
        _value_checks(device) if has_target or scale == "toy" else {},
        sweeps=sweeps,
    )


def run(scale: str, device: torch.device) -> list[Case]:
    """The losses at two geometries, over layers and over ranks."""
    return [_case(setting, sweeps, i < 2, scale, device) for i, (setting, sweeps) in enumerate(settings(scale, device))]
