"""Methods that change the outputs of some modules, by forward hooks: bias-only tuning and bottleneck adapters.

Only outputs are used, so quantised layers work the same way, and the base is never edited.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2l.base_model import BaseModel
from t2l.base_model.targets import all_targets, layer_of, select_targets
from t2l.checks import at_least, one_of, positive
from t2l.methods.interface import Attached, C, MethodConfig, TensorMethod, check_targets, seeded
from t2l.registry import register

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


@dataclass
class BitFitConfig(MethodConfig):
    """BitFit: the biases and nothing else."""

    target_modules: list[str] | None = None
    """on a base without biases: the linear modules that get one, by name; None means every one in a layer"""

    def __post_init__(self) -> None:
        if self.target_modules is not None:
            check_targets(self.target_modules)


@dataclass
class BottleneckAdapterConfig(MethodConfig):
    """Bottleneck adapters after each sub-layer."""

    size: int = 16
    """hidden size of each adapter"""
    activation: str = "gelu"
    """gelu, relu, silu or tanh"""
    initial_std: float = 0.01
    """standard deviation of the initial projections, cut off at two of them"""
    target_modules: list[str] = field(default_factory=lambda: ["o_proj", "down_proj"])
    """names of the linear modules that end a sub-layer; an adapter follows each, before the residual sum"""
    train_norms: bool = True
    """whether the scale (and shift) of every normalisation in a layer is trained too, as in the paper"""

    def __post_init__(self) -> None:
        at_least(self, 1, "size", under="method")
        positive(self, "initial_std", under="method")
        check_targets(self.target_modules)
        one_of(self, ACTIVATIONS, "activation", under="method")


class Bias(nn.Module):
    """y + b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, y: Tensor) -> Tensor:
        """Shifts the last dimension."""
        return y + self.bias


class Bottleneck(nn.Module):
    """h + W_up f(W_down h + b_down) + b_up: 2 d size + size + d values (Houlsby et al. 2019, section 2.1)."""

    def __init__(self, width: int, size: int, activation: str, std: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation = ACTIVATIONS[activation]()
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Near the identity at first."""
        return h + self.up(self.activation(self.down(h)))


class Rescale(nn.Module):
    """s * y (+ t): what training a normalisation's own scale w and shift b can reach, as w' = s w and b' = s b + t."""

    def __init__(self, width: int, has_shift: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width)) if has_shift else None

    def forward(self, y: Tensor) -> Tensor:
        """The identity at first."""
        return self.scale * y if self.shift is None else self.scale * y + self.shift


def _hook(module: nn.Module) -> Any:
    dtype = next(module.parameters()).dtype

    def change(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        return module(output.to(dtype)).to(output.dtype)

    return change


class HookedMethod(TensorMethod[C]):
    """A method of small modules, each after one module of the base."""

    @abstractmethod
    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """Fresh modules by the path of the base's module they follow."""

    @contextmanager
    def attach(self, base: BaseModel, seed: int) -> Iterator[Attached]:
        """Fresh modules on the base."""
        with seeded(seed, base.device):
            modules = {path: module.to(base.device) for path, module in self.modules(base.model).items()}
        with ExitStack() as hooks:
            for path, module in modules.items():
                hooks.enter_context(base.model.get_submodule(path).register_forward_hook(_hook(module)))
            yield Attached(base.model, {f"{p}.{n}": v for p, m in modules.items() for n, v in m.named_parameters()})


@register("method", "bitfit", BitFitConfig)
class BitFit(HookedMethod[BitFitConfig]):
    """y = W x + (b + delta), delta trained (Ben Zaken et al. 2022, arXiv:2106.10199, section 3).

    On a base that has biases, exactly those are trained (of linear layers and normalisations), as a change delta from
    their own value: the same function and gradient, and the base stays whole. Llama and most of its relatives
    have no bias anywhere; there a zero bias is added to every linear module of every layer (or to
    `target_modules`), which is what BitFit would train had the architecture kept them.
    Trains one value per output of a biased module; delta is zero at first.
    """

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """A shift after every module that has a bias, or after linear modules if none has."""
        biased = {p: m.bias for p, m in model.named_modules() if isinstance(getattr(m, "bias", None), nn.Parameter)}
        if biased:
            if self.config.target_modules is not None:
                raise ValueError("method.target_modules: this base has biases of its own, and BitFit trains those")
            return {path: Bias(bias.shape[0]) for path, bias in biased.items()}
        names = self.config.target_modules
        if names is None:
            names = sorted({t.name for t in all_targets(model)})
        return {t.path: Bias(t.d_out) for t in select_targets(model, names, key="method.target_modules")}


@register("method", "bottleneck_adapter", BottleneckAdapterConfig)
class BottleneckAdapter(HookedMethod[BottleneckAdapterConfig]):
    """A bottleneck after attention and after the feed-forward layer (Houlsby et al. 2019, arXiv:1902.00751, section 2.1).

    The adapters are near the identity at first, not exactly: their projections are small, not zero. Every
    normalisation inside a layer is trained too, as a change from the base's own scale.
    """

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """Bottlenecks after the targets, and rescaling after the normalisations."""
        c = self.config
        made: dict[str, nn.Module] = {}
        for t in select_targets(model, c.target_modules, key="method.target_modules"):
            made[t.path] = Bottleneck(t.d_out, c.size, c.activation, c.initial_std)
        if c.train_norms:
            for path, module in model.named_modules():
                # A normalisation is what scales its output by a vector; linear layers and embeddings have matrices.
                scale = getattr(module, "weight", None)
                if layer_of(path) is not None and isinstance(scale, nn.Parameter) and scale.ndim == 1:
                    made[path] = Rescale(len(scale), isinstance(getattr(module, "bias", None), nn.Parameter))
        return made
