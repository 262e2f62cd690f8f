"""The geometry of LoRA adapters (`LoraSpec`) and their values (`LoraWeights`). Pure tensors.

LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3): y = W x + scaling * B A x, with A: [rank, d_in] and
B: [d_out, rank]. One representation holds one or many adapters: per group of equally shaped modules,
A: [batch, layers, rank, d_in] and B: [batch, layers, d_out, rank].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.checks import at_least

LoraA = Float[Tensor, "batch layers rank d_in"]
LoraB = Float[Tensor, "batch layers d_out rank"]
Batch = TypeVar("Batch", bound="AdapterBatch")


class Scaling(StrEnum):
    """How alpha and rank make the factor in front of B A x."""

    standard = "standard"
    rslora = "rslora"


@dataclass(frozen=True)
class ModuleGroup:
    """Target modules of one kind and one shape, in layer order.

    `name` is the module's own name (`q_proj`); where layers differ in shape, shape follows the name
    (`q_proj:128x256`). `paths[i]` is the full name of the module in layer `layers[i]`.
    """

    name: str
    module: str
    d_in: int
    d_out: int
    layers: tuple[int, ...]
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.paths) or not self.layers:
            raise ValueError(f"module group {self.name!r} needs one path per layer, and at least one layer")


@dataclass(frozen=True)
class LoraSpec:
    """What an adapter for one base model looks like: groups sorted by name, rank, alpha, scaling.

    The order of `groups` is part of every checkpoint; nothing may depend on the order of a set.
    """

    groups: tuple[ModuleGroup, ...]
    rank: int
    alpha: float
    scaling_rule: Scaling = Scaling.standard

    def __post_init__(self) -> None:
        at_least(self, 1, "rank", under="lora")
        names = [g.name for g in self.groups]
        if not names or names != sorted(set(names)):
            raise ValueError(f"module groups must be distinct and sorted by name, not {names}")

    @property
    def scaling(self) -> float:
        """alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling_rule is Scaling.rslora else self.rank)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the module groups, sorted."""
        return tuple(g.name for g in self.groups)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The modules' own names, sorted, each once."""
        return tuple(sorted({g.module for g in self.groups}))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layer indices that carry an adapter, ascending."""
        return tuple(sorted({layer for g in self.groups for layer in g.layers}))

    @property
    def parameters_per_adapter(self) -> int:
        """Number of values in one adapter."""
        return sum(len(g.layers) * self.rank * (g.d_in + g.d_out) for g in self.groups)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict that `from_json` turns back into an equal spec."""
        return {**asdict(self), "scaling_rule": self.scaling_rule.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LoraSpec:
        """The spec that `to_json` described."""
        groups = tuple(
            ModuleGroup(**{**g, "layers": tuple(g["layers"]), "paths": tuple(g["paths"])}) for g in data["groups"]
        )
        return cls(groups, int(data["rank"]), float(data["alpha"]), Scaling(data["scaling_rule"]))


@dataclass(frozen=True)
class LoraWeights:
    """A batch of adapters at raw scale (the scaling factor is the spec's, applied at injection)."""

    A: Mapping[str, LoraA]
    B: Mapping[str, LoraB]

    @property
    def batch_size(self) -> int:
        """Number of adapters."""
        return next(iter(self.A.values())).shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> LoraWeights:
        """Applies a function to every tensor."""
        return LoraWeights({k: function(v) for k, v in self.A.items()}, {k: function(v) for k, v in self.B.items()})

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> LoraWeights:
        """Adapters by index; one index keeps the batch dimension."""
        if isinstance(index, int):
            index = slice(index, index + 1) if index != -1 else slice(-1, None)
        return self.map(lambda t: t[index])

    def to(self, *args: Any, **kwargs: Any) -> LoraWeights:
        """`Tensor.to` on every tensor."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def detach(self) -> LoraWeights:
        """The same values outside the autograd graph."""
        return self.map(Tensor.detach)

    def tensors(self) -> list[Tensor]:
        """Every tensor, A before B, groups in order."""
        return [*self.A.values(), *self.B.values()]

    def check(self, spec: LoraSpec) -> None:
        """Raises ValueError unless groups and shapes are exactly the spec's."""
        for side, tensors in (("A", self.A), ("B", self.B)):
            if tuple(tensors) != spec.group_names:
                raise ValueError(f"adapter has {side} for {tuple(tensors)}, the spec wants {spec.group_names}")
        for g in spec.groups:
            for side, tensor, want in (
                ("A", self.A[g.name], (len(g.layers), spec.rank, g.d_in)),
                ("B", self.B[g.name], (len(g.layers), g.d_out, spec.rank)),
            ):
                if tuple(tensor.shape[1:]) != want:
                    raise ValueError(
                        f"{side} of {g.name} has shape {tuple(tensor.shape)}, the spec wants (batch, {want})"
                    )


@dataclass(frozen=True)
class AdapterBatch(LoraWeights):
    """A batch of adapters that knows its geometry and its base model, as `t2l.load_library` hands them out.

    A choice of them and a copy on another device know it too; what computes new values (`map`) gives plain `LoraWeights`.
    """

    spec: LoraSpec
    base_fingerprint: str
    """of the base model that the adapters are for"""

    def __getitem__(self: Batch, index: int | slice | Tensor | Sequence[int]) -> Batch:
        """Adapters by index; one index keeps the batch dimension."""
        return replace(self, **vars(super().__getitem__(index)))

    def to(self: Batch, *args: Any, **kwargs: Any) -> Batch:
        """`Tensor.to` on every tensor."""
        return replace(self, **vars(super().to(*args, **kwargs)))


def concatenate(weights: Iterable[LoraWeights]) -> LoraWeights:
    """Stacks batches of adapters of one spec along the batch dimension."""
    items = list(weights)
    if not items:
        raise ValueError("nothing to concatenate: no adapters given")
    return LoraWeights(
        {k: torch.cat([w.A[k] for w in items]) for k in items[0].A},
        {k: torch.cat([w.B[k] for w in items]) for k in items[0].B},
    )


def fresh_lora(spec: LoraSpec, generator: torch.Generator, batch_size: int = 1) -> LoraWeights:
    """LoRA's own initialisation (PEFT's default): A uniform in +-1/sqrt(d_in), B zero."""
    A, B = {}, {}
    for g in spec.groups:
        bound = 1 / math.sqrt(g.d_in)
        uniform = torch.rand(batch_size, len(g.layers), spec.rank, g.d_in, generator=generator)
        A[g.name] = (2 * uniform - 1) * bound
        B[g.name] = torch.zeros(batch_size, len(g.layers), g.d_out, spec.rank)
    return LoraWeights(A, B)
