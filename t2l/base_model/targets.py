"""Which modules of a causal LM can carry an adapter, read off the model itself.

A target is a linear module inside a numbered layer of the decoder: `torch.nn.Linear` and what derives from it
(bitsandbytes' 4-bit and 8-bit linears), and the `Conv1D` of GPT-2, which is a linear with its weight transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

PRESETS = ("attention", "mlp", "all")
"""what may stand in `lora.target_modules` beside modules' own names"""


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_in, d_out) of a linear module, whatever its storage; None for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of transformers, which need not be imported
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    return None


def layer_of(path: str) -> int | None:
    """Index of the decoder layer that a module path lies in: its first all-digit part; None outside of layers."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


@dataclass(frozen=True)
class Target:
    """A linear module of a decoder layer."""

    name: str
    """the module's own name, the last part of its path"""
    path: str
    layer: int
    d_in: int
    d_out: int
    is_attention: bool
    """whether it lies in the layer's attention block"""


def _decoder_prefix(model: nn.Module) -> str:
    """Path of the text decoder and a dot, so that the layers of a vision tower are left alone."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return next((f"{path}." for path, module in model.named_modules() if module is decoder and path), "")


def _attention_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the attention blocks: modules whose class says so, as every architecture of transformers does."""
    return tuple(f"{path}." for path, module in model.named_modules() if "Attention" in type(module).__name__)


def _is_expert(path: str) -> bool:
    """Whether a module is one of several experts: a second number follows the layer's."""
    return sum(part.isdigit() for part in path.split(".")) > 1


def all_targets(model: nn.Module) -> list[Target]:
    """Every linear of the decoder's layers, in the model's order, routed experts left out."""
    prefix, blocks = _decoder_prefix(model), _attention_paths(model)
    found = []
    for path, module in model.named_modules():
        layer, shape = layer_of(path), linear_shape(module)
        if layer is None or shape is None or not path.startswith(prefix) or _is_expert(path):
            continue
        name = path.rsplit(".", 1)[-1]
        found.append(Target(name, path, layer, *shape, is_attention=path.startswith(blocks)))
    return found


def _expert_weights(model: nn.Module) -> dict[str, str]:
    """What only routed experts have, by its own name: linears of numbered experts, and parameters stacked over them."""
    found = {
        path.rsplit(".", 1)[-1]: path
        for path, module in model.named_modules()
        if linear_shape(module) is not None and layer_of(path) is not None and _is_expert(path)
    }
    for path, parameter in model.named_parameters():
        if parameter.ndim == 3 and layer_of(path) is not None:
            found[path.rsplit(".", 1)[-1]] = path
    return found


def select_targets(
    model: nn.Module, asked: Sequence[str], layers: Sequence[int] | None = None, key: str = "lora.target_modules"
) -> list[Target]:
    """The linears that names and presets mean: `attention`, `mlp` (everything else in a layer), `all`.

    Args:
        layers: indices of the layers wanted; None for all.
        key: what the config calls `asked`, for messages.

    Raises:
        ValueError: a name that no linear has (the message lists what there is); weights of routed experts, which see a
            selection of tokens instead of rows, so that no row could keep its adapter; a layer index out of range.
    """
    there, experts = all_targets(model), _expert_weights(model)
    names = sorted({t.name for t in there})
    for name in asked:
        if (name in experts and name not in names) or (name in ("mlp", "all") and experts):
            path = experts.get(name) or next(iter(experts.values()))
            raise ValueError(
                f"{key}: {name!r} includes the routed experts of this mixture-of-experts base ({path}), which get "
                f"tokens of many rows at once and so cannot run each row under its own adapter; choose from {names} or 'attention'"
            )
        if name not in names and name not in PRESETS:
            raise ValueError(
                f"{key}: this base has no linear {name!r} in its layers; it has {names}, and the "
                f"presets are {', '.join(PRESETS)}"
            )
    indices = sorted({t.layer for t in there})
    bad = sorted(set(layers or []) - set(indices))
    if bad:
        raise ValueError(
            f"{key.split('.')[0]}.layers: no layer {bad[0]}; this base has layers {indices[0]} to {indices[-1]}"
        )
    return [t for t in there if _is_asked(t, asked) and (layers is None or t.layer in layers)]


def _is_asked(target: Target, asked: Sequence[str]) -> bool:
    preset = "attention" if target.is_attention else "mlp"
    return target.name in asked or preset in asked or "all" in asked
