"""Methods that add a product of thin matrices to frozen weights: LoRA and its relatives, through `peft`.

All of them start from the base's own function: the added product is zero at first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from t2l.base_model import BaseModelConfig, LoraConfig, Quantization
from t2l.checks import at_least, in_range, positive
from t2l.lora import AdapterKind
from t2l.methods.interface import Attached, MethodConfig, check_targets, linear_paths
from t2l.methods.peft_backed import PeftMethod
from t2l.registry import register


@dataclass
class LowRankConfig(MethodConfig):
    """Which linear modules get a low-rank product."""

    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """names of the linear modules that are adapted"""
    layers: list[int] | None = None
    """indices of the layers that are adapted; None means all"""

    def __post_init__(self) -> None:
        check_targets(self.target_modules)

    def paths(self, model: nn.Module) -> list[str]:
        """Full paths of the adapted modules of a base."""
        return linear_paths(model, self.target_modules, layers=self.layers)


@dataclass
class LoraMethodConfig(LowRankConfig):
    """LoRA, one task at a time (the batched trainer is `method=batched_lora`)."""

    rank: int = 8
    """rank of the added product"""
    alpha: float = 16.0
    """numerator of the scaling factor alpha / rank"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rank", under="method")
        positive(self, "alpha", under="method")


@dataclass
class RsLoraConfig(LoraMethodConfig):
    """Rank-stabilised LoRA: the scaling factor is alpha / sqrt(rank)."""


@dataclass
class DoraConfig(LoraMethodConfig):
    """DoRA: direction by LoRA, magnitude by a trained vector."""


@dataclass
class LoraPlusConfig(LoraMethodConfig):
    """LoRA+: B learns faster than A."""

    lr_ratio: float = 16.0
    """learning rate of B over that of A; `optimization.lr` is that of A"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "lr_ratio", under="method")


@dataclass
class QLoraConfig(LoraMethodConfig):
    """QLoRA: LoRA on a base whose linear layers are stored in 4-bit NormalFloat."""


@dataclass
class AdaLoraConfig(LowRankConfig):
    """AdaLoRA: a budget of ranks moves to where it matters."""

    initial_rank: int = 12
    """rank of every module at the start"""
    target_rank: int = 8
    """mean rank that is left at the end"""
    alpha: float = 16.0
    """numerator of the scaling factor alpha / initial_rank"""
    warmup_budget_fraction: float = 0.15
    """part of the steps before the budget shrinks"""
    final_budget_fraction: float = 0.3
    """part of the steps after it has shrunk"""
    allocate_every: int = 1
    """steps between two allocations"""
    sensitivity_decay: float = 0.85
    """decay of the running mean of the sensitivities (beta 1)"""
    uncertainty_decay: float = 0.85
    """decay of the running mean of their uncertainty (beta 2)"""
    orthogonality: float = 0.1
    """factor of the penalty on singular vectors that are not orthonormal"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "initial_rank", "target_rank", "allocate_every", under="method")
        at_least(self, 0, "orthogonality", "warmup_budget_fraction", under="method")
        positive(self, "alpha", "final_budget_fraction", under="method")
        if self.target_rank > self.initial_rank:
            raise ValueError(f"method.target_rank {self.target_rank} is above method.initial_rank {self.initial_rank}")
        in_range(self, "(0, 1)", "sensitivity_decay", "uncertainty_decay", under="method")
        first, last = self.budget_steps
        if first >= self.optimization.steps - last:
            raise ValueError(
                f"method: the rank budget never shrinks in {self.optimization.steps} steps, of which {first} come "
                f"before and {last} after: lower warmup_budget_fraction or final_budget_fraction, or take more steps"
            )

    @property
    def budget_steps(self) -> tuple[int, int]:
        """Steps before the budget starts to shrink, and steps after it has."""
        steps = self.optimization.steps
        return round(self.warmup_budget_fraction * steps), max(1, round(self.final_budget_fraction * steps))


@dataclass
class VeraConfig(LowRankConfig):
    """VeRA: one frozen random pair of matrices for all layers, and trained vectors."""

    rank: int = 256
    """rank of the random pair; vectors are cheap, so it can be high"""
    initial_scale: float = 0.1
    """first value of the vector d between the two matrices"""
    projection_seed: int = 0
    """seed of the random pair, one for every task"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rank", under="method")
        positive(self, "initial_scale", under="method")


L = TypeVar("L", bound=LoraMethodConfig)


class _LoraFamily(PeftMethod[L]):
    options: ClassVar[Mapping[str, Any]] = {}

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's LoRA with this variant's options."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=0.0,
            target_modules=self.config.paths(model),
            **self.options,
        )


@register("method", "lora", LoraMethodConfig)
class Lora(_LoraFamily[LoraMethodConfig]):
    """y = W x + (alpha / rank) B A x (Hu et al. 2021, arXiv:2106.09685, eq. 3), B zero at first.

    Trains rank (d_in + d_out) values per module.
    """


@register("method", "rslora", RsLoraConfig)
class RsLora(_LoraFamily[RsLoraConfig]):
    """LoRA scaled by alpha / sqrt(rank), which keeps activations stable as the rank grows (Kalajdzievski 2023, arXiv:2312.03732)."""

    options: ClassVar[Mapping[str, Any]] = {"use_rslora": True}


@register("method", "dora", DoraConfig)
class Dora(_LoraFamily[DoraConfig]):
    """W' = m (W + s B A) / ||W + s B A||, the norm over each output's row (Liu et al. 2024, arXiv:2402.09353, eq. 5).

    Trains rank (d_in + d_out) + d_out values per module; m starts as the rows' own norms.
    """

    options: ClassVar[Mapping[str, Any]] = {"use_dora": True}


@register("method", "lora_plus", LoraPlusConfig)
class LoraPlus(_LoraFamily[LoraPlusConfig]):
    """LoRA whose B has `lr_ratio` times A's learning rate (Hayou et al. 2024, arXiv:2402.12354)."""

    def optimizer(self, attached: Attached) -> torch.optim.Optimizer:
        """AdamW with a group for A and one for B."""
        from peft.optimizers import create_loraplus_optimizer

        how = self.config.optimization
        return create_loraplus_optimizer(
            attached.model,
            torch.optim.AdamW,
            lr=how.lr,
            loraplus_lr_ratio=self.config.lr_ratio,
            loraplus_weight_decay=how.weight_decay,
        )


@register("method", "qlora", QLoraConfig)
class QLora(_LoraFamily[QLoraConfig]):
    """LoRA on a base in 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv:2305.14314, eq. 5)."""

    def base_config(self, config: BaseModelConfig) -> BaseModelConfig:
        """The same base, its linear layers in NF4."""
        return replace(config, quantization=Quantization.nf4)

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's LoRA. Raises ValueError for a base that is not in 4 bits."""
        if not getattr(model, "is_loaded_in_4bit", False):
            raise ValueError("method=qlora needs its base in 4 bits: base_model.quantization=nf4")
        return super().peft_config(model)


@register("method", "adalora", AdaLoraConfig)
class AdaLora(PeftMethod[AdaLoraConfig]):
    """W' = W + P Lambda Q, ranks pruned by importance (Zhang et al. 2023, arXiv:2303.10512, eq. 3).

    Trains initial_rank (d_in + d_out + 1) values per module; singular values that lose their place in the
    budget are zero from then on, and are not saved.
    """

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's AdaLoRA, its budget timed by the steps of training."""
        from peft import AdaLoraConfig as PeftAdaLoraConfig

        c = self.config
        before, after = c.budget_steps
        return PeftAdaLoraConfig(
            task_type="CAUSAL_LM",
            init_r=c.initial_rank,
            target_r=c.target_rank,
            lora_alpha=c.alpha,
            lora_dropout=0.0,
            target_modules=c.paths(model),
            tinit=before,
            tfinal=after,
            deltaT=c.allocate_every,
            beta1=c.sensitivity_decay,
            beta2=c.uncertainty_decay,
            orth_reg_weight=c.orthogonality,
            total_step=c.optimization.steps,
        )

    def penalty(self, attached: Attached) -> Tensor:
        """Factor times the mean of ||P^T P - I||_F and ||Q Q^T - I||_F over all modules (eq. 4, not squared, as PEFT has it)."""
        distances = [_distance_from_identity(g) for g in _gram_matrices(attached.model)]
        return self.config.orthogonality * torch.stack(distances).mean()

    def may_stop_after(self, step: int) -> bool:
        """Whether the budget has shrunk to its end: before that, ranks would be kept that the folder cannot hold."""
        return step >= self.config.optimization.steps - self.config.budget_steps[1]

    def after_step(self, attached: Attached, step: int) -> None:
        """Allocates the rank budget from the sensitivities of this step's gradients (eq. 8 to 11)."""
        attached.model.base_model.update_and_allocate(step)


def _gram_matrices(wrapped: Any) -> Iterator[Tensor]:
    from peft.tuners.adalora import AdaLoraLayer

    for module in wrapped.modules():
        if isinstance(module, AdaLoraLayer):
            for right in module.lora_A.values():
                yield right @ right.T
            for left in module.lora_B.values():
                yield left.T @ left


def _distance_from_identity(gram: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype))


@register("method", "vera", VeraConfig)
class Vera(PeftMethod[VeraConfig]):
    """W' = W + diag(b) B diag(d) A with A and B random, frozen and shared (Kopiczko et al. 2024, arXiv:2310.11454, eq. 2).

    Trains rank + d_out values per module; b is zero at first. A and B are drawn again from their seed and not
    saved, which is what makes the files small.
    """

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's VeRA."""
        from peft import VeraConfig as PeftVeraConfig

        with warnings.catch_warnings(action="ignore"):  # that A and B are not saved is meant
            return PeftVeraConfig(
                task_type="CAUSAL_LM",
                r=self.config.rank,
                d_initial=self.config.initial_scale,
                target_modules=self.config.paths(model),
                projection_prng_key=self.config.projection_seed,
                save_projection=False,
            )


def check_layers(lora: LoraConfig, chosen: Mapping[str, Any]) -> None:
    """Raises ValueError if a method that is told its layers adapts others than lora.* says, or lora.* is not LoRA's."""
    if lora.kind is not AdapterKind.lora:
        raise ValueError(
            f"lora.kind={lora.kind}: adapters of a library are LoRAs; for trained (IA)3 vectors of each task leave lora=ia3 "
            "out and choose method=ia3, which has target modules of its own"
        )
    for key, method in chosen.items():
        layers = getattr(method, "layers", lora.layers)
        if layers != lora.layers:
            raise ValueError(f"{key}.layers is {layers}, lora.layers is {lora.layers}: set both to the same")
