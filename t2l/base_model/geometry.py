"""The adapter geometry of any causal LM, LoRA or (IA)3: a LoraSpec from a model, or from its config alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from t2l.base_model.targets import select_targets
from t2l.checks import at_least, positive
from t2l.lora import AdapterKind, LoraSpec, ModuleGroup, Scaling


@dataclass
class LoraConfig:
    """Geometry of the adapters."""

    rank: int = 8
    """rank of every adapter"""
    alpha: float = 16.0
    """numerator of the scaling factor"""
    scaling_rule: Scaling = Scaling.standard
    """standard: alpha / rank; rslora: alpha / sqrt(rank)"""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """linear modules that get an adapter in every layer: their names, or `attention`, `mlp`, `all`"""
    layers: list[int] | None = None
    """layer indices that get an adapter; None means all"""
    kind: AdapterKind = AdapterKind.lora
    """lora, or ia3: a vector that scales each module's output (attention) or input (everything else), without rank and
    alpha; lora=ia3 chooses it with the modules of its paper"""

    def __post_init__(self) -> None:
        at_least(self, 1, "rank", under="lora")
        positive(self, "alpha", under="lora")
        if self.kind is AdapterKind.ia3:
            self._check_without_rank()
        if not self.target_modules:
            raise ValueError("lora.target_modules is empty: name at least one linear module, like q_proj")

    def _check_without_rank(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("rank", "alpha", "scaling_rule") and value != f.default:
                raise ValueError(
                    f"lora.{f.name}={value} means nothing to (IA)3, which has one vector per module: leave it out, and "
                    "choose lora=ia3, which sets neither rank nor alpha"
                )


def meta_model(config: Any, trust_remote_code: bool = False) -> nn.Module:
    """The architecture of a Hugging Face config on the meta device: shapes without weights.

    Args:
        trust_remote_code: whether code that comes with the config may run.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def lora_spec(model: nn.Module, config: LoraConfig) -> LoraSpec:
    """The adapter geometry for a model (real or on the meta device).

    Modules group by their own name; if one name has several shapes, or several places in a layer, by
    name and shape, or name and place. (IA)3 scales outputs of modules in attention blocks, inputs of all others.

    Raises ValueError for targets or layers that the base does not have (`targets.select_targets`).
    """
    found: dict[tuple[str, str, int, int, bool], list[tuple[int, str]]] = defaultdict(list)
    for t in select_targets(model, config.target_modules, config.layers):
        place = ".".join(t.path.split(".")[-2:])
        scales_input = config.kind is AdapterKind.ia3 and not t.is_attention
        found[t.name, place, t.d_in, t.d_out, scales_input].append((t.layer, t.path))
    if not found:
        raise ValueError(f"lora.target_modules={config.target_modules}: no layer of lora.layers has any of them")
    shapes, places = defaultdict(set), defaultdict(set)
    for name, place, d_in, d_out, _ in found:
        shapes[name].add((d_in, d_out))
        places[name, d_in, d_out].add(place)
    groups = []
    for (name, place, d_in, d_out, scales_input), members in found.items():
        label = place if len(places[name, d_in, d_out]) > 1 else name
        label += f":{d_in}x{d_out}" if len(shapes[name]) > 1 else ""
        layers, paths = zip(*sorted(members), strict=True)
        groups.append(ModuleGroup(label, name, d_in, d_out, layers, paths, scales_input))
    in_order = tuple(sorted(groups, key=lambda g: g.name))
    if config.kind is AdapterKind.ia3:
        return LoraSpec(in_order, 1, 1.0, kind=config.kind)
    return LoraSpec(in_order, config.rank, config.alpha, config.scaling_rule)


def lora_spec_from_config(model_config: Any, config: LoraConfig) -> LoraSpec:
    """The adapter geometry from a Hugging Face config alone; no weights are loaded."""
    return lora_spec(meta_model(model_config), config)
