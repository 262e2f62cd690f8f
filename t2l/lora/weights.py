"""The geometry of adapters (`LoraSpec`) and their values (`LoraWeights`). Pure tensors.

LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3): y = W x + scaling * B A x, with A: [rank, d_in] and
B: [d_out, rank]. One representation holds one or many adapters: per group of equally shaped modules,
A: [batch, layers, rank, d_in] and B: [batch, layers, d_out, rank].

(IA)3 (Liu et al. 2022, arXiv:2205.05638, section 3.3): y = (1 + delta) * (W x + bias), element by element, or
y = W ((1 + delta) * x) + bias where a group scales its input. There is no A; B holds the deltas:
[batch, layers, d_out], or [batch, layers, d_in].
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
Ia3Delta = Float[Tensor, "batch layers scaled"]
Batch = TypeVar("Batch", bound="AdapterBatch")


class AdapterKind(StrEnum):
    """What an adapter does to a linear module."""

    lora = "lora"
    ia3 = "ia3"


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
    scales_input: bool = False
    """of (IA)3: whether the module's input is scaled (feed-forward), not its output (attention)"""

    @property
    def scaled(self) -> int:
        """Width of what (IA)3 scales."""
        return self.d_in if self.scales_input else self.d_out

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.paths) or not self.layers:
            raise ValueError(f"module group {self.name!r} needs one path per layer, and at least one layer")


@dataclass(frozen=True)
class LoraSpec:
    """What an adapter for one base model looks like: groups sorted by name, rank, alpha, scaling, kind.

    The order of `groups` is part of every checkpoint; nothing may depend on the order of a set. (IA)3 has no rank:
    there rank and alpha are 1.
    """

    groups: tuple[ModuleGroup, ...]
    rank: int
    alpha: float
    scaling_rule: Scaling = Scaling.standard
    kind: AdapterKind = AdapterKind.lora

    def __post_init__(self) -> None:
        at_least(self, 1, "rank", under="lora")
        if self.kind is AdapterKind.ia3 and (self.rank, self.scaling) != (1, 1.0):
            raise ValueError(f"(IA)3 has neither rank nor alpha: both must be 1, not {self.rank} and {self.alpha:g}")
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
        return sum(math.prod(shape) for side in self.shapes.values() for shape in side.values())

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Of A and of B, each group's shape in one adapter: [layers, ...]. (IA)3 has no A."""
        if self.kind is AdapterKind.ia3:
            return {"A": {}, "B": {g.name: (len(g.layers), g.scaled) for g in self.groups}}
        return {
            "A": {g.name: (len(g.layers), self.rank, g.d_in) for g in self.groups},
            "B": {g.name: (len(g.layers), g.d_out, self.rank) for g in self.groups},
        }

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict that `from_json` turns back into an equal spec; LoRA's lacks what is (IA)3's alone."""
        data = {**asdict(self), "scaling_rule": self.scaling_rule.value, "kind": self.kind.value}
        if self.kind is AdapterKind.lora:
            del data["kind"]
            for group in data["groups"]:
                del group["scales_input"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LoraSpec:
        """The spec that `to_json` described."""
        groups = tuple(
            ModuleGroup(**{**g, "layers": tuple(g["layers"]), "paths": tuple(g["paths"])}) for g in data["groups"]
        )
        kind = AdapterKind(data.get("kind", AdapterKind.lora))
        return cls(groups, int(data["rank"]), float(data["alpha"]), Scaling(data["scaling_rule"]), kind)


@dataclass(frozen=True)
class LoraWeights:
    """A batch of adapters at raw scale (the scaling factor is the spec's, applied at injection).

    Of (IA)3, A is empty and B holds the deltas of the scaling vectors from one.
    """

    A: Mapping[str, LoraA]
    B: Mapping[str, LoraB | Ia3Delta]

    @property
    def batch_size(self) -> int:
        """Number of adapters."""
        return next(iter(self.B.values())).shape[0]

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
        sides = (("A", self.A), ("B", self.B))
        for side, tensors in sides:
            if tuple(tensors) != tuple(spec.shapes[side]):
                wanted = tuple(spec.shapes[side])
                raise ValueError(f"adapter has {side} for {tuple(tensors)}, the spec wants {wanted}")
        for side, tensors in sides:
            for name, want in spec.shapes[side].items():
                if (found := tuple(tensors[name].shape))[1:] != want:
                    raise ValueError(f"{side} of {name} has shape {found}, the spec wants (batch, {want})")


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
    """LoRA's own initialisation (PEFT's default): A uniform in +-1/sqrt(d_in), B zero. (IA)3's: deltas of zero."""
    A, B = {}, {name: torch.zeros(batch_size, *shape) for name, shape in spec.shapes["B"].items()}
    for name, shape in spec.shapes["A"].items():
        uniform = torch.rand(batch_size, *shape, generator=generator)
        A[name] = (2 * uniform - 1) * (1 / math.sqrt(shape[-1]))
    return LoraWeights(A, B)
